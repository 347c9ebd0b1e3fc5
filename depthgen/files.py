"""Files that are never half written.

The one rule: a file is written beside its place, synced, and renamed; readers see the old one or
the new one.
"""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from depthgen.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


# With more files than this, one sync of all that is on the disk takes less than one for each.
_WORTH_ALL = 8
_BESIDE = re.compile(r"\..+\.[0-9]+")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step. Raises `StageError` if the disk says no."""
    write_all_atomically([(path, data)])


def write_all_atomically(files: Sequence[tuple[Path, bytes]]) -> None:
    """Replace each path by its data in one step each, and sync every folder once.

    A crash leaves some of them replaced and none half written. Raises `StageError`.
    """
    for folder in {path.parent for path, _ in files}:
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
    together = len(files) > _WORTH_ALL
    for path, data in files:
        _write_beside(path, data, sync=not together)
    if together:
        with _told(files[0][0].parent):
            _sync_file_system(files[0][0].parent)
    for path, _ in files:
        with _told(path):
            _beside(path).replace(path)
    for folder in {path.parent for path, _ in files}:
        with _told(folder):
            sync_folder(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete what a kill left half written in `folder`, which nobody else writes to now."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _BESIDE.fullmatch(path.name):
                with _told(path):
                    path.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _write_beside(path: Path, data: bytes, sync: bool) -> None:
    beside = _beside(path)
    try:
        with _told(path), beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
    except BaseException:
        with suppress(OSError):  # it may never have come to be
            beside.unlink()
        raise


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StageError(f"cannot write {path}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Put a rename in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(folder: Path) -> None:
    """Put everything written to a folder's file system on the disk."""
    system = ctypes.CDLL(None, use_errno=True)
    if not hasattr(system, "syncfs"):  # Linux has it
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if system.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
