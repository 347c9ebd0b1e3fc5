"""The trainer with a clock in it.

The one rule: the loop is the trainer's own, `start_train`; what is overridden here notes when a
part of it begins and ends, stops it when enough has been seen, and keeps nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vathos.bench.timeline import Timeline
from vathos.trainer import GPUTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from vathos.bench.timeline import Kind
    from vathos.data_loader.dense_depth import Batch

__all__ = ["MOST_WARM_UP", "TimedTrainer"]

# The allocator, cuDNN's choice of algorithms, compilation and CUDA graphs take the first few.
MOST_WARM_UP = 10
WARM_UP = {"cuda": MOST_WARM_UP}
WARM_UP_ELSEWHERE = 3
LEAST_STEPS = 3
MOST_SECONDS = 30.0


class _EnoughError(Exception):
    """All steps that were wanted have been timed."""


class TimedTrainer(GPUTrainer):
    """A `GPUTrainer` whose loop can be timed; arguments as for it."""

    timeline: Timeline

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._load_epoch = self.train_batches.epoch
        self.train_batches.epoch = self._timed_epoch  # type: ignore[method-assign]
        self._wanted = 0
        self._started = 0.0
        self._on_step: Callable[[int], None] = lambda _: None

    def time_steps(self, steps: int, on_step: Callable[[int], None]) -> list[dict[Kind, float]]:
        """The seconds of each step by kind, without those that warm up.

        So many steps, or fewer if they take more than half a minute, but three at least. on_step is
        told how many are done.
        """
        self._wanted, self._on_step = steps, on_step
        with suppress(_EnoughError):
            self.start_train()
        return self.timeline.seconds()[self.warm_up :]

    @property
    def warm_up(self) -> int:
        """Steps that are not counted."""
        return WARM_UP.get(self.device.type, WARM_UP_ELSEWHERE)

    def setup(self) -> torch.device:
        device = super().setup()
        self.timeline = Timeline(device)
        return device

    def save(self, also: Sequence[str] = ()) -> None:
        """Nothing is kept of what was trained here."""

    def place(self, batch: Batch) -> Batch:
        with self.timeline.span("data"):
            return super().place(batch)

    def _train_step(self, *args: Any, **kwargs: Any) -> None:
        with self.timeline.span("model"):
            super()._train_step(*args, **kwargs)
            self.timeline.step += 1
        self._on_step(max(0, self.timeline.step - self.warm_up))

    def _timed_epoch(self, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        batches = self._load_epoch(*args, **kwargs)
        while True:
            if self._enough():
                raise _EnoughError
            with self.timeline.span("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _enough(self) -> bool:
        done = self.timeline.step - self.warm_up
        if done <= 0:
            self._started = time.perf_counter()
        elif done >= LEAST_STEPS and time.perf_counter() - self._started > MOST_SECONDS:
            return True
        return done >= self._wanted
