"""Convolutions, and the batch normalisations that none can take in, each in one pass over memory.

On the CPU oneDNN does it, with the kernel laid out once, at the first call, and the ReLU applied
before anything is written; elsewhere it is torch's own operations, one by one. The one
rule: which way is taken changes how fast the values come, not what they are.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    """A convolution that keeps the size, or halves it at stride 2, and a ReLU if one is wanted.

    slope: of the ReLU below zero; None is no ReLU.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: int = 1, slope: float | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride = stride
        self.padding = weight.shape[-1] // 2
        self.slope = slope
        self._fused: _Fused | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._fused is None and _can_fuse(x):
            self._fused = _Fused(x, self.weight, self.bias, self.stride, self.padding, self.slope)
        if self._fused is not None:
            return self._fused(x)
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if self.slope is None:
            return x
        return F.leaky_relu_(x, self.slope) if self.slope else F.relu_(x)


class NormReLU(nn.Module):
    """relu(scale · x + shift) by channel, of scales that x's type holds.

    shift stays float32 whatever x is.
    """

    scale: Tensor
    shift: Tensor
    zero: Tensor
    one: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", shift.float())
        self.register_buffer("zero", torch.zeros(len(scale)))
        self.register_buffer("one", torch.ones(len(scale)))
        self._fused: _Fused | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._fused is None and _can_fuse(x):
            # As a convolution of each channel by itself, which oneDNN can end with a ReLU.
            scale = self.scale.to(x.dtype).view(-1, 1, 1, 1)
            self._fused = _Fused(x, scale, self.shift, slope=0.0)
        if self._fused is not None:
            return self._fused(x)
        return F.relu_(F.batch_norm(x, self.zero, self.one, self.scale, self.shift, eps=0.0))


def _can_fuse(x: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not _torch_can_fuse():
        return False
    return x.dtype == torch.float32 or (
        x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@cache
def _torch_can_fuse() -> bool:
    """Whether this torch has the operations, which are no part of its public interface."""
    one = torch.ones(1, 1, 1, 1)
    try:
        return bool(_Fused(one, one, None, slope=0.0)(one) == one)
    except (AttributeError, RuntimeError, TypeError):
        return False


class _Fused:
    """A convolution and its ReLU as one call of oneDNN: what torch.compile makes of the two.

    torch itself lays the kernel out anew at each call, which costs a small convolution a third.
    """

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int = 1,
        padding: int = 0,
        slope: float | None = None,
    ) -> None:
        groups = x.shape[1] // weight.shape[1]
        space = [padding, padding], [stride, stride], [1, 1], groups
        # torch's stub lacks the last argument, by which oneDNN finds the layout it will want.
        self._weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
            weight.to_mkldnn(),
            *space,
            list(x.shape),  # type: ignore[call-arg]
        )
        self._bias, self._space = bias, space
        self._then = ("leaky_relu", [slope]) if slope else ("none" if slope is None else "relu", [])

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._space, *self._then, ""
        )
