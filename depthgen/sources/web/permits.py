"""As many downloads at a time as pictures are still wanted.

The one rule: a picture that is not needed is not fetched, so that a later run need not fetch it
again. But who waits for a slow server does not keep others from trying: its permit is lent out.
"""

from __future__ import annotations

import threading

_TICK_S = 0.1


class Permits:
    """wanted: how many pictures; None for no end."""

    def __init__(self, wanted: int | None) -> None:
        self._endless = wanted is None
        # Below zero while a slow one has come back, whose permit another one has.
        self._free = wanted or 0
        self._changed = threading.Condition()

    def take(self, stop: threading.Event) -> bool:
        """Wait for a permit; False if all is over."""
        with self._changed:
            while not (self._endless or self._free > 0 or stop.is_set()):
                self._changed.wait(_TICK_S)
            self._free -= 1
            return not stop.is_set()

    def give_back(self) -> None:
        """The picture was not kept, or its server is slow and another may be tried meanwhile."""
        with self._changed:
            self._free += 1
            self._changed.notify()

    def reclaim(self) -> None:
        """The slow server has answered."""
        with self._changed:
            self._free -= 1
