"""What the device can do at best, measured, and how near to it a figure is.

The one rule: the roof is what a large matrix product and a large copy reach here and now, not what
a data sheet promises. Roofline model: Williams, Waterman, Patterson 2009, CACM 52(4), 65-76.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vathos.utils.device import synchronise

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Roof", "measure_roof"]

SECONDS = 0.5  # that each of the two is repeated for
LEAST = 3
# Side of the matrices, and how many numbers are copied: far more than caches hold.
ON_CPU, ON_GPU = (2048, 2**26), (8192, 2**28)


@dataclass(frozen=True)
class Roof:
    """The best FLOP/s of a matrix product and the best bytes/s of a copy (read and written)."""

    flop_per_s: float
    bytes_per_s: float

    def samples_per_s(self, flop: float, moved: float) -> float:
        """The most samples a second, of so many FLOP and bytes moved each: min(peak FLOP/s,
        intensity x peak bytes/s) / FLOP, intensity being FLOP / bytes."""
        return min(self.flop_per_s, flop / moved * self.bytes_per_s) / flop


def measure_roof(device: torch.device, precision: torch.dtype | None) -> Roof:
    """Take the best of many repetitions, half a second each.

    precision: of the matrix product; None is float32.
    """
    side, numbers = ON_CPU if device.type == "cpu" else ON_GPU
    left, right = (
        torch.randn(side, side, device=device, dtype=precision or torch.float32) for _ in range(2)
    )
    product = torch.empty_like(left)
    multiplied = _best(lambda: torch.mm(left, right, out=product), device)
    source = torch.zeros(numbers, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    copied = _best(lambda: target.copy_(source), device)
    return Roof(2 * side**3 / multiplied, 2 * source.nbytes / copied)


def _best(run: Callable[[], object], device: torch.device) -> float:
    run()
    taken: list[float] = []
    while len(taken) < LEAST or sum(taken) < SECONDS:
        synchronise(device)
        started = time.perf_counter()
        run()
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return min(taken)
