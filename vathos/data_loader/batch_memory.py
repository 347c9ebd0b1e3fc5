"""Memory for batches, used again: fresh pages from the system cost a quarter of all loading.

The one rule: memory is used again only when the array that was given out is gone, and with it every
tensor that `torch.from_numpy` made of it. A view that NumPy takes of it does not count.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BatchMemory"]

KEPT = 8  # of four values a sample, those of the batch in use and of the one before


class BatchMemory:
    """Gives out arrays; a copy of this object for another process begins with none."""

    def __init__(self) -> None:
        self._given: list[tuple[NDArray[Any], weakref.ref[NDArray[Any]]]] = []

    def __reduce__(self) -> tuple[type[BatchMemory], tuple[()]]:
        return BatchMemory, ()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of any content."""
        for at, (memory, user) in enumerate(self._given):
            if user() is None and (memory.shape, memory.dtype) == (shape, dtype):
                del self._given[at]
                break
        else:
            memory = np.empty(shape, dtype)
        array = memory[:]
        self._given = [*self._given, (memory, weakref.ref(array))][-KEPT:]
        return array
