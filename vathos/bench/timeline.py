"""Where the time of a step goes, on the device's own clock.

The one rule: nothing waits while it is measured: on CUDA events are recorded between the kernels
and read when all is over. What the device spends idle because the host is loading a batch falls
between two of them, and so counts as data.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from vathos.utils.device import synchronise

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KINDS", "Kind", "Timeline"]

Kind = Literal["data", "model", "rest"]
KINDS: tuple[Kind, ...] = ("data", "model", "rest")


class _Mark(NamedTuple):
    """From here on the time is of this kind and belongs to this step."""

    kind: Kind
    step: int
    at: Any


class Timeline:
    """Splits the time of numbered steps into data, model and rest.

    Apple's GPU has the host's clock, and is waited for at each mark.
    """

    def __init__(self, device: torch.device) -> None:
        self.step = 0
        self._device = device
        self._marks = [_Mark("rest", 0, self._now())]

    @contextmanager
    def span(self, kind: Kind) -> Iterator[None]:
        """What is done in here is of this kind; after it, of the one before."""
        before = self._marks[-1].kind
        self._mark(kind)
        try:
            yield
        finally:
            self._mark(before)

    def seconds(self) -> list[dict[Kind, float]]:
        """The seconds of each whole step by kind; waits for the device."""
        synchronise(self._device)
        steps = [dict.fromkeys(KINDS, 0.0) for _ in range(self._marks[-1].step + 1)]
        for mark, following in pairwise(self._marks):
            steps[mark.step][mark.kind] += self._between(mark.at, following.at)
        return steps[:-1]

    def _mark(self, kind: Kind) -> None:
        self._marks.append(_Mark(kind, self.step, self._now()))

    def _now(self) -> Any:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        synchronise(self._device)
        return perf_counter()

    def _between(self, start: Any, end: Any) -> float:
        if self._device.type == "cuda":
            return float(start.elapsed_time(end)) / 1000
        return float(end - start)
