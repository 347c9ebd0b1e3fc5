"""Decoded samples in a file beside the archives, for the next epoch and for the next run.

The one rule: a slot counts only with the checksum of its bytes, which is written after them and
compared at the slot's first use. So a kill at any moment, a torn page or a flipped bit costs the
decoding of that slot anew, and several processes may fill one file: they write the same bytes, and
each reads from the file that it writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch

from vathos.data_loader.cache import Cache
from vathos.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from vathos.data_loader.cache import Layout

__all__ = ["DiskCache"]

FORMAT = 1
PAGE = 4096


class DiskCache(Cache):
    """All rows of a data set, in a sparse file in `folder`: what was never put takes no room.

    digests: of the archives that the samples are from; with the layouts they name the file, which
    is used if it is there, and made anew if it is not what it should be.
    Raises `DataError` where the file cannot be made or written.
    """

    def __init__(
        self,
        folder: Path,
        digests: Mapping[str, str],
        rows: NDArray[np.int64],
        layouts: Mapping[str, Layout],
        pinned: bool = False,
    ) -> None:
        self._header = _header(digests, layouts)
        self.path = folder / f"{hashlib.sha256(self._header).hexdigest()[:16]}.samples"
        self._sums: dict[str, int] = {}  # where the checksums of a key begin
        self._starts: dict[str, int] = {}  # where its slots do
        end = PAGE
        for key, layout in layouts.items():
            self._sums[key], end = end, _aligned(end + 4 * layout.count)
            self._starts[key], end = end, _aligned(end + layout.count * layout.slot_bytes)
        self._bytes = end
        self._known: dict[str, NDArray[np.uint32]] = {}
        self._checked = {key: np.zeros(layout.count, bool) for key, layout in layouts.items()}
        super().__init__(rows, layouts, torch.device("cpu"), pinned)
        for key, known in self._known.items():
            self._filled[key] |= known != 0

    def damaged(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows whose bytes are not those that were put."""
        at = self._positions(rows)
        lost = np.zeros(len(rows), bool)
        for key, layout in self.layouts.items():
            slots = layout.slots[at]
            for slot in np.unique(slots[~self._checked[key][slots]]).tolist():
                right = _sum(self._values[key][slot]) == self._known[key][slot]
                self._checked[key][slot] = self._filled[key][slot] = right
            lost |= ~self._filled[key][slots]
        return rows[lost]

    def _allocate(self) -> dict[str, Tensor]:
        try:
            self._file = self._open()
            # Not by its path, where another process may put another file.
            mapped = np.frombuffer(mmap.mmap(self._file, self._bytes), np.uint8)
        except OSError as error:
            raise self._unwritable(error) from error
        values = {}
        for key, layout in self.layouts.items():
            start = self._sums[key]
            sums = mapped[start : start + 4 * layout.count]
            self._known[key] = np.array(sums.view(np.uint32))
            start = self._starts[key]
            slots = mapped[start : start + layout.count * layout.slot_bytes]
            kept = torch.from_numpy(np.asarray(slots)).view(layout.kept_dtype)
            values[key] = kept.view(layout.count, *layout.shape)
        return values

    def _open(self) -> int:
        """The file, whole and with its header; a foreign one is replaced, for it may be in use."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(file, fcntl.LOCK_EX)  # one process at a time looks and decides
            try:
                if self._is_at_path(file) and self._begin(file):
                    fcntl.flock(file, fcntl.LOCK_UN)
                    return file
            except OSError:
                os.close(file)
                raise
            os.close(file)

    def _is_at_path(self, file: int) -> bool:
        """Whether no other process replaced it before the lock was had."""
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False

    def _begin(self, file: int) -> bool:
        """Give it its length and its header; False where it was a foreign one, and is now gone."""
        found = os.pread(file, PAGE, 0)
        begun = found.strip(b"\0")  # else nothing stands in it yet
        if begun and (found != self._header or os.fstat(file).st_size != self._bytes):
            self.path.unlink()
            return False
        os.ftruncate(file, self._bytes)
        os.pwrite(file, self._header, 0)
        return True

    def _write(self, key: str, slots: NDArray[np.int64], kept: Tensor) -> None:
        size = self.layouts[key].slot_bytes
        try:
            for slot, value in zip(slots.tolist(), kept, strict=True):
                # Not through the map: where the disk is full, that would end the process.
                _write_all(self._file, _bytes(value), self._starts[key] + slot * size)
                checksum = np.uint32(_sum(value))
                _write_all(self._file, checksum.tobytes(), self._sums[key] + 4 * slot)
                self._known[key][slot] = checksum
                self._checked[key][slot] = True
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(
            f"cannot write {self.path}: {error.strerror}; make room there, or set dataset.cache to "
            "ram or none"
        )

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def _header(digests: Mapping[str, str], layouts: Mapping[str, Layout]) -> bytes:
    """One page of JSON."""
    parts: dict[str, Any] = {
        key: [layout.count, layout.shape, str(layout.dtype), layout.channels_last]
        for key, layout in layouts.items()
    }
    about = {"format": FORMAT, "archives": dict(digests), "slots": parts}
    return json.dumps(about).encode().ljust(PAGE)


def _aligned(end: int) -> int:
    return -(-end // PAGE) * PAGE


def _bytes(value: Tensor) -> bytes:
    return value.reshape(-1).view(torch.uint8).numpy().tobytes()


def _sum(value: Tensor) -> int:
    """A checksum that is never 0, which says that there is none."""
    return crc32(_bytes(value)) or 1


def _write_all(file: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
