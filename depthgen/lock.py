"""One writer at a time in a workspace.

The one rule: the lock is the operating system's (`fcntl.lockf`), so it ends with its holder,
however that ends; the file only tells others who holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from depthgen.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_held: set[Path] = set()


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, and remove it at the end.

    A file left by a process that died is taken over. Raises `StageError` if another process holds
    it, naming that process, or this one does, or if the folder cannot be written.
    """
    place = path.resolve()
    # The system's lock does not keep a process from taking it twice, and the first of the two to
    # let go would free it for all.
    if place in _held:
        raise StageError(f"{path.parent} is in use by this very process; let its stage end first")
    _held.add(place)
    try:
        descriptor = _acquire(place)
        try:
            _tell_holder(descriptor, place)
            yield
        finally:
            # Who replaced the folder under us has a lock of their own in it.
            if _is_same_file(descriptor, place):
                place.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        _held.discard(place)


def _tell_holder(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        raise StageError(f"cannot write {path}: {error.strerror}") from error


def _acquire(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StageError(f"cannot write in {path.parent}: {error.strerror}") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                os.close(descriptor)
                raise StageError(f"cannot lock {path}: {error.strerror}") from error
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").split()
            os.close(descriptor)
            who = f"process {holder[0]} on {holder[1]}" if len(holder) == 2 else "another process"
            raise StageError(
                f"{path.parent} is in use by {who}; wait for it to end, or use another workspace"
            ) from error
        # A holder that ended between our open and our lock has removed the file we locked.
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
