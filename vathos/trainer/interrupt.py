"""Ctrl-C between steps, never inside one.

The one rule: the first Ctrl-C is kept until the step is whole, so that what is then saved can be
continued; the second one stops at once.
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

__all__ = ["Interruptible"]


class Interruptible:
    """A context in which SIGINT waits for `check`; outside it, and off the main thread, it is idle.

    `between_steps` is False while a step is under way.
    """

    def __init__(self) -> None:
        self.between_steps = True
        self._wanted = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._wanted = False
        self._before = None
        # Python lets only the main thread set handlers; SIGINT goes there in any case.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Marks what must be done whole; stays marked if an exception leaves it."""
        self.between_steps = False
        yield
        self.between_steps = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed since the last step."""
        if self._wanted:
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._wanted:
            raise KeyboardInterrupt
        self._wanted = True
