"""A watch over what a step makes the host wait for, on a machine without a GPU.

Nothing waits on a CPU, but the same operations do on a GPU: those that give the host a number, or
whose result has as many elements as the numbers say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

aten = torch.ops.aten
READING = {
    *(aten._local_scalar_dense.default, aten.item.default, aten.equal.default),
    *(aten.is_nonzero.default, aten.nonzero.default, aten.masked_select.default),
    *(aten._unique2.default, aten.repeat_interleave.Tensor),
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class WaitedError(AssertionError):
    """The host read what a GPU would hold."""


class NoWaiting(TorchDispatchMode):
    """Raises `WaitedError` where a number is read that depends on any of `on_device`.

    What is computed from these is followed; numbers that the host drew by itself it may read.
    """

    def __init__(self, on_device: Iterable[Tensor]) -> None:
        super().__init__()
        self._storages: dict[int, Any] = {}  # kept, for the place of a freed one is used again
        for tensor in on_device:
            self._mark(tensor)

    def _mark(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage

    def _is_marked(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self._storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        inputs = tree_leaves((args, kwargs or {}))
        marked = [value for value in inputs if self._is_marked(value)]
        by_mask = func in INDEXING and any(value.dtype == torch.bool for value in marked[1:])
        if marked and (func in READING or by_mask):
            raise WaitedError(f"{func} of {tuple(marked[0].shape)}")
        results = func(*args, **(kwargs or {}))
        if marked:
            for tensor in tree_leaves((results, args)):
                if isinstance(tensor, torch.Tensor):
                    self._mark(tensor)
        return results
