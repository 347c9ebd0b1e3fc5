"""Reading a ZIP file's central directory into NumPy arrays.

A directory entry has no fixed length, so a plain reader walks it entry by entry. Here the entries'
signatures are searched all at once and taken only if they chain without a gap, each ending where
the next begins; that is as strict as walking. The one rule: everything a directory claims about
positions is checked here, before any member is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from depthgen.archive import format as zf
from depthgen.archive.format import ArchiveError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# Small pieces: what is allocated and freed at once stays with the process for good.
_SEARCH_BYTES = 1 << 19
_BLOCK_ENTRIES = 1 << 13
_MAX_COMMENT = zf.MAX_16


@dataclass(frozen=True)
class Directory:
    """Where a file's members are: 4 bytes each, or 12 in a file of 4 GiB or with a stub before it.

    start, end: the central directory's bytes in the file.
    entries: (n,) uint32, each entry's position relative to `start`.
    offsets: (n,) int64, each local header's position in the file; None where each entry's own
        32-bit field says it.
    """

    start: int
    end: int
    entries: NDArray[np.uint32]
    offsets: NDArray[np.int64] | None


def read_directory(mapped: mmap.mmap, path: Path) -> Directory:
    """Parse and check the central directory of a mapped ZIP file.

    Raises `ArchiveError` for a file that is truncated, not a ZIP, encrypted, overlapping or lying.
    """
    count, size, start, shift = _locate(mapped, path)
    raw = np.frombuffer(mapped, np.uint8, size, start)
    entries = _find_entries(raw)
    if entries is None:
        entries = _walk_entries(mapped, start, size, path)
    if len(entries) != count:
        raise ArchiveError(f"{path} says it has {count} members, but lists {len(entries)}")
    offsets = _Checker(mapped, path, start, shift).offsets(raw, entries)
    if not shift and not _any_far(raw, entries):
        return Directory(start, start + size, entries, None)
    return Directory(start, start + size, entries, offsets)


def _locate(mapped: mmap.mmap, path: Path) -> tuple[int, int, int, int]:
    """(members, directory size, directory start in the file, shift), from the end records.

    The shift is what stands before the archive proper (a self-extracting stub, say), in bytes.
    """
    end = _find_end(mapped)
    if end < 0:
        raise ArchiveError(
            f"{path} is not a ZIP archive, or its end is missing: it has no end-of-directory record"
        )
    _, disk, _, _, count, size, offset, _ = zf.END.unpack_from(mapped, end)
    if disk not in (0, zf.MAX_16):
        raise ArchiveError(f"{path} is one part of a split archive; join the parts first")
    tail = end
    locator = end - zf.ZIP64_LOCATOR.size
    record = locator - zf.ZIP64_END.size
    if locator >= 0 and mapped[locator : locator + 4] == zf.ZIP64_LOCATOR_SIGNATURE:
        if record >= 0 and mapped[record : record + 4] == zf.ZIP64_END_SIGNATURE:
            tail = record
            count, size, offset = zf.ZIP64_END.unpack_from(mapped, record)[7:]
        elif count == zf.MAX_16 or zf.MAX_32 in (size, offset):
            raise ArchiveError(f"{path} is damaged: its ZIP64 end record is not where it should be")
    shift = tail - size - offset
    if shift < 0 or size > min(tail, zf.MAX_32):
        raise ArchiveError(f"{path} is damaged: its central directory does not fit into the file")
    return count, size, tail - size, shift


def _find_end(mapped: mmap.mmap) -> int:
    """The position of the end record, or -1.

    Its signature may also stand in the archive's comment: the record whose comment reaches just to
    the file's end is the right one, or else the last one that something else follows.
    """
    length = len(mapped)
    lowest = max(0, length - zf.END.size - _MAX_COMMENT)
    followed = -1
    end = mapped.rfind(zf.END_SIGNATURE, lowest)
    while end >= 0:
        if end + zf.END.size <= length:
            beyond = end + zf.END.size + zf.END.unpack_from(mapped, end)[7] - length
            if beyond == 0:
                return end
            if beyond < 0:
                followed = max(followed, end)
        end = mapped.rfind(zf.END_SIGNATURE, lowest, end)
    return followed


def _find_entries(raw: NDArray[np.uint8]) -> NDArray[np.uint32] | None:
    """Positions of all entries, or None if the signatures found do not chain without a gap."""
    last = len(raw) - zf.CENTRAL.size
    found = []
    for start in range(0, len(raw), _SEARCH_BYTES):
        hits = np.flatnonzero(raw[start : start + _SEARCH_BYTES] == zf.CENTRAL_SIGNATURE[0]) + start
        hits = hits[hits <= last]
        for place in (2, 1, 3):  # the rarer bytes first
            hits = hits[raw[hits + place] == zf.CENTRAL_SIGNATURE[place]]
        found.append(hits.astype(np.uint32))
    entries = np.concatenate(found) if found else np.empty(0, np.uint32)
    expected = 0
    for block in _blocks(entries):
        ends = block + zf.CENTRAL.size
        for place in (28, 30, 32):  # lengths of name, extra field and comment
            ends += _field(raw, block + place, 2)
        if block[0] != expected or not np.array_equal(ends[:-1], block[1:]):
            return None
        expected = int(ends[-1])
    return entries if expected == len(raw) else None


def _any_far(raw: NDArray[np.uint8], entries: NDArray[np.uint32]) -> bool:
    """Whether any entry's offset field only refers to a ZIP64 field."""
    return any(bool(np.any(_field(raw, block + 42, 4) == zf.MAX_32)) for block in _blocks(entries))


def _blocks(entries: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """The entries' positions block by block: few at a time keep the temporaries small."""
    for start in range(0, len(entries), _BLOCK_ENTRIES):
        yield entries[start : start + _BLOCK_ENTRIES].astype(np.int64)


def _walk_entries(mapped: mmap.mmap, start: int, size: int, path: Path) -> NDArray[np.uint32]:
    """The same, entry by entry: for a directory whose names or comments hold a signature."""
    entries: list[int] = []
    position = 0
    while position < size:
        if position + zf.CENTRAL.size > size:
            raise ArchiveError(f"{path} is damaged: its central directory ends inside an entry")
        record = zf.CENTRAL.unpack_from(mapped, start + position)
        if record[0] != zf.CENTRAL_SIGNATURE:
            raise ArchiveError(f"{path} is damaged: member {len(entries)} of its directory is torn")
        entries.append(position)
        position += zf.CENTRAL.size + record[10] + record[11] + record[12]
    if position != size:
        raise ArchiveError(f"{path} is damaged: its central directory ends inside an entry")
    return np.array(entries, np.uint32)


def _field(raw: NDArray[np.uint8], at: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Little-endian integers of `width` bytes at the given positions."""
    value = raw[at].astype(np.int64)
    for place in range(1, width):
        value |= raw[at + place].astype(np.int64) << (8 * place)
    return value


class _Checker:
    """Goes through the entries block by block and refuses the first one that lies."""

    def __init__(self, mapped: mmap.mmap, path: Path, start: int, shift: int) -> None:
        self._mapped, self._path, self._start, self._shift = mapped, path, start, shift

    def offsets(self, raw: NDArray[np.uint8], entries: NDArray[np.uint32]) -> NDArray[np.int64]:
        """(n,) the local headers' positions in the file, every claim about them checked."""
        spans = [self._check(raw, block) for block in _blocks(entries)]
        if not spans:
            return np.empty(0, np.int64)
        offsets, ends = (np.concatenate(column) for column in zip(*spans, strict=True))
        ordered = bool(np.all(offsets[1:] >= offsets[:-1]))
        order = np.arange(len(offsets)) if ordered else np.argsort(offsets, kind="stable")
        overlap = np.flatnonzero(ends[order[:-1]] > offsets[order[1:]])
        if len(overlap):
            self._refuse(int(entries[order[overlap[0] + 1]]), "overlaps with the one before it")
        return offsets

    def _check(
        self, raw: NDArray[np.uint8], entries: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        flags, method = _field(raw, entries + 8, 2), _field(raw, entries + 10, 2)
        self._refuse_where(
            entries, flags & zf.FLAGS_ENCRYPTION != 0, "is encrypted; decrypt the archive first"
        )
        self._refuse_where(
            entries,
            (method != zf.STORED) & (method != zf.DEFLATED),
            "uses a compression method other than deflate; repack the archive with `zip -0`",
        )
        stored, plain, offsets = (_field(raw, entries + place, 4) for place in (20, 24, 42))
        in_zip64 = (stored == zf.MAX_32) | (plain == zf.MAX_32) | (offsets == zf.MAX_32)
        for index in np.flatnonzero(in_zip64):
            fields = zip64_fields(self._mapped, self._start + int(entries[index]))
            if fields is None:
                self._refuse(int(entries[index]), "refers to ZIP64 sizes that it does not have")
            plain[index], stored[index], offsets[index] = fields
        self._refuse_where(
            entries, (method == zf.STORED) & (stored != plain), "is stored, but has two sizes"
        )
        self._refuse_where(
            entries,
            (method == zf.DEFLATED) & (plain > zf.MAX_INFLATED),
            "is deflated and larger than 1 GiB; repack the archive with `zip -0`",
        )
        offsets += self._shift
        ends = offsets + zf.LOCAL.size + _field(raw, entries + 28, 2) + stored
        self._refuse_where(
            entries, (offsets < self._shift) | (ends > self._start), "reaches beyond the data"
        )
        return offsets, ends

    def _refuse_where(
        self, entries: NDArray[np.int64], wrong: NDArray[np.bool_], what: str
    ) -> None:
        if wrong.any():
            self._refuse(int(entries[int(np.argmax(wrong))]), what)

    def _refuse(self, entry: int, what: str) -> NoReturn:
        record = zf.CENTRAL.unpack_from(self._mapped, self._start + entry)
        name_start = self._start + entry + zf.CENTRAL.size
        name = zf.decode_name(self._mapped[name_start : name_start + record[10]], record[3])
        raise ArchiveError(f"{self._path}: member {name!r} {what}")


def zip64_fields(mapped: mmap.mmap, position: int) -> tuple[int, int, int] | None:
    """(size, stored size, offset) of the entry at `position`, with its ZIP64 field applied.

    None if the entry refers to a ZIP64 field that it does not have.
    """
    record = zf.CENTRAL.unpack_from(mapped, position)
    values = [record[9], record[8], record[16]]
    extra_start = position + zf.CENTRAL.size + record[10]
    extra = mapped[extra_start : extra_start + record[11]]
    wanted = [place for place, value in enumerate(values) if value == zf.MAX_32]
    while wanted and len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == zf.ZIP64_EXTRA_ID:
            if length < 8 * len(wanted) or len(extra) < 4 + 8 * len(wanted):
                return None
            found = struct.unpack_from(f"<{len(wanted)}Q", extra, 4)
            for place, value in zip(wanted, found, strict=True):
                values[place] = value
            wanted = []
        extra = extra[4 + length :]
    # A value beyond 2**60 is a lie; the sum of several still fits an int64, and is out of bounds.
    size, stored, offset = (min(value, 1 << 60) for value in values)
    return None if wanted else (size, stored, offset)
