"""Ctrl-C and SIGTERM between steps, never inside one, and in all processes of a run at the same.

The one rule: the first signal is kept until the step is whole, so that what is then saved can be
continued; the second one stops at once. A batch system that ends a job loses no more than a person.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any, Self

    from vathos.trainer.processes import Processes

__all__ = ["Interruptible"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptible:
    """A context in which SIGINT and SIGTERM wait for `check`; off the main thread it is idle.

    `between_steps` is False while a step is under way. Several processes stop together or not at
    all: one that stops at once could not save, and torchrun kills what does not end in time.
    """

    def __init__(self, processes: Processes) -> None:
        self.between_steps = True
        self._processes = processes
        self._wanted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._wanted = False
        # Python lets only the main thread set handlers; signals go there in any case.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_error: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            # None: another library had set it from C, and Python cannot give that one back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Marks what must be done whole; stays marked if an exception leaves it."""
        self.between_steps = False
        yield
        self.between_steps = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came since the last step, to any process; all of them
        call this at the same steps."""
        if self._processes.any(self._wanted):
            raise KeyboardInterrupt

    def request(self) -> None:
        """Raise KeyboardInterrupt here, or where several processes `check` next."""
        self._wanted = True
        if self._processes.size == 1:
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._wanted and self._processes.size == 1:
            raise KeyboardInterrupt
        self._wanted = True
