"""Files that are never half written.

The one rule: a file is written beside its place, synced, and renamed; readers see the old one or
the new one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from depthgen.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step. Raises `StageError` if the disk says no."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # it may never have come to be
            beside.unlink()
        raise StageError(f"cannot write {path}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Put a rename in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
