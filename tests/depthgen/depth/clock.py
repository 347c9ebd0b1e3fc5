"""A clock for tests of what is timed: how busy the machine is does not count."""

from __future__ import annotations


class Clock:
    """Stands for the module `time`; time passes where a test says so, and a little at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now
