"""What a running training tells its caller.

The one rule: training prints nothing; it calls a function with a `Progress`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

__all__ = ["Clock", "Phase", "Progress"]

Phase = Literal["train", "test"]


@dataclass(frozen=True)
class Progress:
    """What a caller is told at the log interval and at the end of each phase.

    `step` of `steps` are optimiser steps of the whole run in the phase "train", batches of this
    test in the phase "test"; `metrics` are means over this epoch so far, keyed as in
    `vathos.trainer.meter.METRICS`; `done` marks the end of the phase.
    """

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: dict[str, float]
    lr: float
    samples_per_second: float
    done: bool


class Clock:
    """Samples per second since it was made, without the first `WARM_UP` steps.

    In these, kernels are chosen, compiled and recorded. They count as long as there are no others.
    """

    WARM_UP = 3

    def __init__(self) -> None:
        self._samples = 0
        self._steps = 0
        self._start = self._last = time.perf_counter()

    def add(self, samples: int) -> None:
        """Call after each step."""
        if self._steps == self.WARM_UP:
            self._samples, self._start = 0, self._last
        self._steps += 1
        self._samples += samples
        self._last = time.perf_counter()

    def rate(self) -> float:
        """Samples per second."""
        return self._samples / max(time.perf_counter() - self._start, 1e-9)
