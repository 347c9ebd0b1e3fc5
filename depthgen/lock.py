"""One writer at a time in a workspace.

The one rule: the lock is the operating system's (`fcntl.lockf`), so it ends with its holder,
however that ends; the file only tells others who holds it. POSIX frees a process's lock when it
closes any descriptor of the file, so a process never opens the file of a lock that it holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from depthgen.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# A process number is a positive `pid_t`; 0 and below mean whole groups to the system.
_PIDS = range(1, 2**31)

_held: set[Path] = set()
# No thread takes the lock while another has its file open for reading.
_opening = threading.Lock()


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, and remove it at the end.

    A file left by a process that died is taken over. Raises `StageError` if another process holds
    it, naming that process, or this one does, or if the folder cannot be written.
    """
    place = path.resolve()
    # The system's lock does not keep a process from taking it twice, and the first of the two to
    # let go would free it for all.
    with _opening:
        if place in _held:
            raise StageError(
                f"{path.parent} is in use by this very process; let its stage end first"
            )
        descriptor = _acquire(place)
        _held.add(place)
    try:
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


def holder(path: Path) -> tuple[int, str] | None:
    """(process, host) of who holds the lock at `path`, as its file says; None if nobody does.

    The lock itself is not tried, so a process of another host is taken at its word.
    """
    with _opening:
        if path.resolve() in _held:
            return os.getpid(), socket.gethostname()
        try:
            pid, host = path.read_text("utf-8").split()
            number = int(pid)
        except (OSError, ValueError):
            return None
    if number not in _PIDS or (host == socket.gethostname() and not _is_alive(number)):
        return None
    return number, host


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
            told = os.pread(descriptor, 200, 0).decode(errors="replace").split()
            os.close(descriptor)
            who = f"process {told[0]} on {told[1]}" if len(told) == 2 else "another process"
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
