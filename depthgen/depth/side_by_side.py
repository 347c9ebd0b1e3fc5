"""Pictures side by side on the CPU, with threads of their own each.

Threads that share one picture wait for each other at every layer, and for every step that only one
of them can do. The one rule: what comes out for a picture does not depend on those beside it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from torch import Tensor


def side_by_side(work: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """`work(pictures)`, (N, …) → (N, …), on the CPU picture by picture.

    work: called from several threads at once, without gradients.
    """
    threads = torch.get_num_threads()
    if pictures.device.type != "cpu" or len(pictures) == 1 or threads == 1:
        with torch.inference_mode():
            return work(pictures)
    streams = min(threads, len(pictures))

    @torch.inference_mode()
    def alone(picture: Tensor) -> Tensor:
        torch.set_num_threads(threads // streams)
        return work(picture)

    try:
        return torch.cat(list(_pool(streams).map(alone, pictures.split(1))))
    finally:
        # A thread's number is its own, but a thread that begins takes the last one that was set.
        torch.set_num_threads(threads)


@cache
def _pool(streams: int) -> Executor:
    return ThreadPoolExecutor(streams, "side_by_side")
