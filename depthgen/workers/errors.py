"""What goes wrong with work in processes, in words.

The one rule: an error of our own keeps its type and its words; any other becomes a `WorkerError`
that says what failed.
"""

from __future__ import annotations

from depthgen.errors import DepthgenError


class WorkerError(DepthgenError):
    """An item whose work failed, or whose worker died; the message names the item."""


class UntoldError(Exception):
    """Stands for an error that cannot be sent; its message holds the type."""


def failure(name: str, error: BaseException) -> DepthgenError:
    """What to raise when the work on `name` came to `error`."""
    if isinstance(error, DepthgenError):
        return error
    what = str(error) if isinstance(error, UntoldError) else f"{type(error).__name__}: {error}"
    failed = WorkerError(f"{name} failed: {what}")
    failed.__cause__ = error
    return failed


def death(obituary: str, name: str) -> WorkerError:
    """What to raise when a worker died on `name`."""
    return WorkerError(
        f"a worker died ({obituary}) on {name}; run the same command again, it goes on where it "
        "stopped"
    )
