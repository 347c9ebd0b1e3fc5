"""What a training step asks of a device: FLOP, bytes to move, bytes to keep.

The one rule: it is counted, not timed, on tensors without memory (`FakeTensorMode`) and in the
operators that a CPU would run, so the figures are those of the network and the precision alone.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from vathos.model.resunet import INPUT_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

__all__ = ["Demand", "count_demand"]

# Counted at these batch sizes; all three figures are straight lines in it.
FEW, MORE = 2, 4


@dataclass(frozen=True)
class _Counted:
    flop: int
    moved: int
    kept: int


@dataclass(frozen=True)
class Demand:
    """Forward and backward pass of a network; a step of n samples needs the fixed part once.

    flop: FLOP a sample, a multiplication and an addition being two; convolutions and matrix
    products only. moved, moved_fixed: bytes that the operators read and write, each tensor once an
    operator and nothing fused; the fixed part is the weights'. kept, kept_fixed: bytes that the
    forward pass leaves in memory for the backward pass. weights: bytes of the parameters.
    """

    flop: int
    moved: int
    moved_fixed: int
    kept: int
    kept_fixed: int
    weights: int

    def moved_by(self, batch_size: int) -> int:
        """Bytes a sample at this batch size."""
        return self.moved + self.moved_fixed // batch_size


def count_demand(
    network: nn.Module, size: tuple[int, int], precision: torch.dtype | None
) -> Demand:
    """What `network`, called with (N, 6, H, W), needs in training.

    size: (H, W). precision: of autocast, or None for float32. The losses and the optimiser are left
    out. The first convolution has no gradient of its input, for the pictures are not trained.
    """
    few, more = (_count(network, (n, INPUT_CHANNELS, *size), precision) for n in (FEW, MORE))
    moved, kept = (
        (b - a) // (MORE - FEW) for a, b in ((few.moved, more.moved), (few.kept, more.kept))
    )
    return Demand(
        flop=more.flop // MORE,
        moved=moved,
        moved_fixed=more.moved - MORE * moved,
        kept=kept,
        kept_fixed=more.kept - MORE * kept,
        weights=sum(each.nbytes for each in network.parameters()),
    )


def _count(network: nn.Module, shape: tuple[int, ...], precision: torch.dtype | None) -> _Counted:
    network.train()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    mapping: dict[Any, Any] = {torch.ops.aten.convolution_backward: _convolution_backward_flop}
    flops = FlopCounterMode(display=False, custom_mapping=mapping)
    traffic = _Traffic()
    autocast = nullcontext() if precision is None else torch.autocast("cpu", dtype=precision)
    with FakeTensorMode():
        state = {
            name: torch.empty(value.shape, dtype=value.dtype, requires_grad=value.requires_grad)
            for name, value in (*network.named_parameters(), *network.named_buffers())
        }
        pictures = torch.empty(shape)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with flops, traffic, hooks:
            with autocast:
                outputs = torch.func.functional_call(network, state, (pictures,))
            torch.autograd.backward(outputs, [torch.empty_like(each) for each in outputs])
    return _Counted(flops.get_total_flops(), traffic.moved, sum(kept.values()))


def _convolution_backward_flop(
    grad_output: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    output_mask: Sequence[bool],
    out_shape: Any = None,
) -> int:
    """The gradients of input and weight take as much as the forward pass, each of them.

    PyTorch's own count takes the weight's gradient of a grouped convolution for that of a dense
    one.
    """
    forward = conv_flop_count(list(x), list(weight), list(grad_output), transposed=transposed)
    return int(forward * sum(map(bool, output_mask[:2])))


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of each operator's tensors: what it takes in and what it gives out."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not func.is_view and "empty" not in func.name():
            self.moved += _nbytes((args, kwargs)) + _nbytes(result)
        return result


def _nbytes(tree: Any) -> int:
    leaves = tree_leaves(tree)
    return sum(x.numel() * x.element_size() for x in leaves if isinstance(x, torch.Tensor))
