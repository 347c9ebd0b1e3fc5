"""The fused operations of the CPU against torch's own, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from depthgen.depth import convolution
from depthgen.depth.convolution import Conv, NormReLU

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def both_ways(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module], *inputs: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The outputs of a layer that is fused, and of one that finds no fused operations."""
    if inputs[0].dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    fused = build()
    ours = [fused(x) for x in inputs]
    assert fused._fused is not None
    with monkeypatch.context() as patch:
        patch.setattr(convolution, "_torch_can_fuse", lambda: False)
        plain = build()
        theirs = [plain(x) for x in inputs]
    assert plain._fused is None
    return list(zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slope", [None, 0.0, 0.2])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (7, 2)])
def test_a_fused_convolution_gives_what_torch_gives_at_any_batch_and_size(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    slope: float | None,
    size: int,
    stride: int,
) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 8, size, size).to(dtype), torch.randn(5).to(dtype)
    inputs = [
        torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)
        for shape in ((2, 8, 18, 14), (5, 8, 10, 32))
    ]
    for ours, theirs in both_ways(monkeypatch, lambda: Conv(weight, bias, stride, slope), *inputs):
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_fused_normalisation_gives_what_torch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    scale, shift = torch.randn(6), torch.randn(6)
    x = torch.randn(3, 6, 9, 11).to(memory_format=torch.channels_last)
    ((ours, theirs),) = both_ways(monkeypatch, lambda: NormReLU(scale, shift), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    expected = torch.relu(x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_torch_without_the_operations_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("mkldnn_reorder_conv2d_weight")

    monkeypatch.setattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", missing)
    convolution._torch_can_fuse.cache_clear()
    try:
        layer = Conv(torch.ones(1, 1, 1, 1), None)
        assert layer(torch.ones(1, 1, 2, 2)).tolist() == [[[[1, 1], [1, 1]]]]
        assert layer._fused is None
    finally:
        convolution._torch_can_fuse.cache_clear()
