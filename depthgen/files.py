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
    for folder, path in {path.parent: path for path, _ in files}.items():
        with _told(path):
            folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_all_beside(files)
        for path, _ in files:
            with _told(path):
                _beside(path).replace(path)
    except BaseException:
        for path, _ in files:
            with suppress(OSError):  # it may never have come to be
                _beside(path).unlink(missing_ok=True)
        raise
    for folder in {path.parent for path, _ in files}:
        with _told(folder):
            sync_folder(folder)


def _write_all_beside(files: Sequence[tuple[Path, bytes]]) -> None:
    together = len(files) > _WORTH_ALL
    for path, data in files:
        with _told(path), _beside(path).open("wb") as stream:
            stream.write(data)
            stream.flush()
            if not together:
                os.fsync(stream.fileno())
    if together:
        with _told(files[0][0].parent):
            _sync_file_system(files[0][0].parent)


def delete(path: Path) -> None:
    """Delete a file, if it is there. Raises `StageError` if the disk says no."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StageError(f"cannot delete {path}: {error.strerror}") from error


def remove_leftovers(folder: Path) -> None:
    """Delete what a kill left half written in `folder`, which nobody else writes to now."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _BESIDE.fullmatch(path.name):
                delete(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


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
