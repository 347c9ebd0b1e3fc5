"""Members packed into one piece, so that a worker does the packing and the writer only appends.

The one rule: a block is exactly the bytes that adding its members one by one would write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthgen.archive import format as zf
from depthgen.archive.format import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# A member ready to be packed: name, content and the content's CRC-32.
Entry = tuple[str, bytes, int]


@dataclass(frozen=True)
class Block:
    """Some members in a row.

    payload: local headers, names and contents, as uint8. directory: their entries of the central
    directory, with offsets counted from the block's start. ends, offsets: (n,) where each entry
    ends in `directory`, and where each local header starts in `payload`. names: as bytes.
    """

    payload: NDArray[np.uint8]
    directory: bytes
    ends: NDArray[np.uint64]
    offsets: NDArray[np.uint64]
    names: tuple[bytes, ...]

    @classmethod
    def pack(cls, entries: Iterable[Entry]) -> Block:
        """Raises `ArchiveError` for a name or a size that an archive cannot hold."""
        pieces: list[bytes] = []
        records: list[bytes] = []
        offsets, names = [], []
        offset = 0
        local_header, central_record = zf.local_header, zf.central_record
        for name, data, checksum in entries:
            size = len(data)
            raw, flags = check_member(name, size)
            records.append(central_record(raw, flags, checksum, size, offset))
            pieces += (local_header(flags, checksum, size, len(raw)), raw, data)
            names.append(raw)
            offsets.append(offset)
            offset += zf.LOCAL.size + len(raw) + size
        return cls(
            np.frombuffer(b"".join(pieces), np.uint8),
            b"".join(records),
            np.cumsum([len(record) for record in records], dtype=np.uint64),
            np.array(offsets, np.uint64),
            tuple(names),
        )

    def directory_at(self, start: int) -> tuple[bytes, NDArray[np.uint64]]:
        """(directory entries, where each ends) for a payload that starts at byte `start`."""
        if start + len(self.payload) >= zf.MAX_32:
            return self._zip64_directory_at(start)
        entries = np.frombuffer(bytearray(self.directory), np.uint8)
        places = self._starts() + np.uint64(zf.CENTRAL_OFFSET_AT)
        absolute = self.offsets + np.uint64(start)
        for place in range(4):
            entries[places + np.uint64(place)] = absolute >> np.uint64(8 * place) & np.uint64(0xFF)
        return entries.tobytes(), self.ends

    def _zip64_directory_at(self, start: int) -> tuple[bytes, NDArray[np.uint64]]:
        records = []
        starts, offsets = self._starts().tolist(), self.offsets.tolist()
        for at, raw, offset in zip(starts, self.names, offsets, strict=True):
            old = zf.CENTRAL.unpack_from(self.directory, at)
            records.append(zf.central_record(raw, old[3], old[7], old[8], start + offset))
        return b"".join(records), np.cumsum([len(record) for record in records], dtype=np.uint64)

    def _starts(self) -> NDArray[np.uint64]:
        return np.concatenate((np.zeros(1, np.uint64), self.ends[:-1]))[: len(self.ends)]


def check_member(name: str, size: int) -> tuple[bytes, int]:
    """(name as bytes, flags). Raises `ArchiveError` for what an archive cannot hold."""
    raw, flags = zf.encode_name(name)
    if not raw or len(raw) > zf.MAX_16 or b"\0" in raw or size >= zf.MAX_32:
        raise ArchiveError(
            f"cannot add {name[:80]!r} to an archive: a name takes 1 to 65535 bytes, none of "
            "them zero, and a member less than 4 GiB"
        )
    return raw, flags
