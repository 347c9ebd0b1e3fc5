"""Samples that are decoded once, and kept where the next epoch takes them from.

The one rule: what is taken is what was put, to the last bit and in the same memory order, so that a
run's weights do not depend on where its samples were kept. Nothing is decoded here, and nothing
ahead of its first visit: a short run over a large set pays for no more than it visits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vathos.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from vathos.data_loader.dense_depth import Batch

__all__ = ["Cache", "Layout", "layouts_of", "total_bytes"]


@dataclass(frozen=True)
class Layout:
    """How one value of each sample is kept: in `count` slots of `shape`.

    slots: the slot of each of the cache's rows; rows that share a picture share a slot.
    channels_last: a slot is (H, W, C), and a batch of them (N, C, H, W) in that memory order.
    """

    slots: NDArray[np.int64]
    count: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool

    @property
    def kept_dtype(self) -> torch.dtype:
        """torch moves bytes of uint16 about, but does not index them."""
        return torch.int16 if self.dtype is torch.uint16 else self.dtype

    @property
    def slot_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def kept(self, value: Tensor) -> Tensor:
        """A batch's value (N, ...) as slots are kept, contiguous."""
        value = value.permute(0, 2, 3, 1) if self.channels_last else value
        return value.contiguous().view(self.kept_dtype)

    def given(self, kept: Tensor) -> Tensor:
        """The inverse of `kept`."""
        value = kept.view(self.dtype)
        return value.permute(0, 3, 1, 2) if self.channels_last else value


def layouts_of(dataset: Any, rows: NDArray[np.int64], sample: Batch) -> dict[str, Layout]:
    """The layout of each value of these rows of a data set, by its key.

    sample: a batch of one to look at. `dataset.common`, if there is one, gives for a key a number
    for each row of the data set: rows of one number have that value in common.
    """
    common: Mapping[str, NDArray[np.int64]] = getattr(dataset, "common", {})
    layouts = {}
    for key, value in sample.items():
        slots = np.arange(len(rows))
        if key in common:
            slots = np.unique(common[key][rows], return_inverse=True)[1].astype(np.int64)
        order = torch.channels_last
        last = value.dim() == 4 and value.shape[1] > 1 and value.is_contiguous(memory_format=order)
        shape = value.permute(0, 2, 3, 1).shape if last else value.shape
        layouts[key] = Layout(slots, int(slots.max()) + 1, tuple(shape[1:]), value.dtype, last)
    return layouts


def total_bytes(layouts: Mapping[str, Layout]) -> int:
    """Bytes of all slots."""
    return sum(layout.count * layout.slot_bytes for layout in layouts.values())


class Cache:
    """Some rows of a data set, in memory or on a device; empty at first.

    rows: of the data set, each once. layouts: of these rows. pinned: batches are taken into pinned
    memory, from where they travel to a GPU while it works.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        layouts: Mapping[str, Layout],
        device: torch.device,
        pinned: bool = False,
    ) -> None:
        self.device = device
        self.layouts = layouts
        self._sorting = np.argsort(rows, kind="stable")
        self._sorted = rows[self._sorting]
        self._pinned = pinned
        self._filled = {key: np.zeros(layout.count, bool) for key, layout in layouts.items()}
        self._values = self._allocate()
        self._slots = {
            key: torch.from_numpy(layout.slots).to(device) for key, layout in layouts.items()
        }

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of each row whether it was put."""
        at = self._positions(rows)
        found = np.ones(len(rows), bool)
        for key, layout in self.layouts.items():
            found &= self._filled[key][layout.slots[at]]
        return found

    def damaged(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows that were put and are lost; memory loses none."""
        return rows[:0]

    def places(self, plan: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        """What to `take` for each batch of rows; sent to the device at once."""
        if not plan:
            return []
        at = torch.from_numpy(self._positions(np.concatenate(plan)))
        return list(at.to(self.device).split([len(rows) for rows in plan]))

    def put(self, rows: NDArray[np.int64], batch: Batch) -> None:
        """Keep these samples. Raises `DataError` if a value is not of the type of the others."""
        at = self._positions(rows)
        for key, layout in self.layouts.items():
            value = batch[key]
            if value.dtype != layout.dtype:
                raise DataError(
                    f"the samples have {key} of different types, {layout.dtype} and {value.dtype}; "
                    "make that archive again"
                )
            slots, first = np.unique(layout.slots[at], return_index=True)
            new = ~self._filled[key][slots]
            if new.any():
                kept = layout.kept(value)
                self._write(key, slots[new], kept[torch.from_numpy(first[new])])
                self._filled[key][slots[new]] = True

    def take(self, places: Tensor) -> Batch:
        """A batch as the data set would load it, on the cache's device."""
        return {key: self._gather(key, places) for key in self.layouts}

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._sorting[np.searchsorted(self._sorted, rows)]

    def _gather(self, key: str, places: Tensor) -> Tensor:
        layout, values = self.layouts[key], self._values[key]
        slots = self._slots[key].index_select(0, places)
        out = None
        if self._pinned:
            shape = (len(slots), *layout.shape)
            out = torch.empty(shape, dtype=layout.kept_dtype, pin_memory=True)
        return layout.given(torch.index_select(values, 0, slots, out=out))

    def _allocate(self) -> dict[str, Tensor]:
        return {
            key: torch.empty((each.count, *each.shape), dtype=each.kept_dtype, device=self.device)
            for key, each in self.layouts.items()
        }

    def _write(self, key: str, slots: NDArray[np.int64], kept: Tensor) -> None:
        at = torch.from_numpy(slots).to(self.device)
        self._values[key].index_copy_(0, at, kept.to(self.device, non_blocking=True))
