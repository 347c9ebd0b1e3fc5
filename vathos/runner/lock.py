"""One training at a time in a run folder.

The one rule: the lock is the operating system's (`fcntl.lockf`), so it ends with its process,
however that ends; the file stays, and only tells others who holds it. Within one process a run may
be set up again, as in a notebook.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

from vathos.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RunLock"]

LOCK_FILE = "lock"

# Path of the lock -> (descriptor, how many hold it here): the system's lock is the process's, and
# closing any descriptor of the file would let go of it for all.
_held: dict[Path, tuple[int, int]] = {}


class RunLock:
    """The lock of a run folder, not yet taken."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def take(self, folder: Path) -> None:
        """Take the lock, unless this object has it; makes the folder if it is not there.

        Raises `ConfigError` if another process holds it, or if the folder cannot be written.
        """
        if self._path is not None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = (folder / LOCK_FILE).resolve()
            held = _held.get(path)
            descriptor, count = held or (_acquire(path), 0)
        except OSError as error:
            raise ConfigError(
                f"the run folder {folder} cannot be written ({error.strerror}); name another place "
                f"in chkpt_dir"
            ) from error
        _held[path] = descriptor, count + 1
        self._path = path

    def release(self) -> None:
        """Let go of the lock, if this object has it."""
        if self._path is None:
            return
        descriptor, count = _held.pop(self._path)
        if count > 1:
            _held[self._path] = descriptor, count - 1
        else:
            os.close(descriptor)
        self._path = None


def _acquire(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").split()
        os.close(descriptor)
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        who = f"process {holder[0]} on {holder[1]}" if len(holder) == 2 else "another process"
        raise ConfigError(
            f"{path.parent} is being trained in by {who}; wait for it to end, or choose another "
            f"name"
        ) from error
    return descriptor
