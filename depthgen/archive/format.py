"""The records of a ZIP file, as PKWARE's APPNOTE 6.3.10 lays them out.

The one rule: only this module knows a record's layout; reader and writer go through its structs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    from pathlib import Path

LOCAL_SIGNATURE = b"PK\x03\x04"
CENTRAL_SIGNATURE = b"PK\x01\x02"
END_SIGNATURE = b"PK\x05\x06"
ZIP64_END_SIGNATURE = b"PK\x06\x06"
ZIP64_LOCATOR_SIGNATURE = b"PK\x06\x07"

# signature, version needed, flags, method, time, date, crc, compressed, size, name, extra
LOCAL = struct.Struct("<4sHHHHHIIIHH")
# signature, made by, needed, flags, method, time, date, crc, compressed, size, name, extra,
# comment, disk, internal attributes, external attributes, offset of the local header
CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
# signature, disk, directory's disk, entries here, entries, directory size, offset, comment
END = struct.Struct("<4sHHHHIIH")
# signature, record size, made by, needed, disk, directory's disk, entries here, entries,
# directory size, offset
ZIP64_END = struct.Struct("<4sQHHIIQQQQ")
# signature, disk, offset of the ZIP64 end record, disks
ZIP64_LOCATOR = struct.Struct("<4sIQI")
ZIP64_EXTRA_ID = 1

CENTRAL_OFFSET_AT = 42  # where an entry of the central directory has its local header's offset

STORED = 0
DEFLATED = 8
FLAG_ENCRYPTED = 1 << 0
FLAG_STRONG_ENCRYPTION = 1 << 6
FLAG_UTF8 = 1 << 11
FLAG_MASKED_HEADERS = 1 << 13
FLAGS_ENCRYPTION = FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTION | FLAG_MASKED_HEADERS

MAX_16 = 0xFFFF
MAX_32 = 0xFFFFFFFF
# A deflated member is unpacked into memory: a larger one is refused, for it may be a bomb.
MAX_INFLATED = 1 << 30


class ArchiveError(DepthgenError):
    """An archive that cannot be read or written; the message names the file and the member."""


def decode_name(raw: bytes, flags: int) -> str:
    """A record's member name: UTF-8 if its flag says so, else code page 437 (APPNOTE 4.4.4)."""
    return raw.decode("utf-8" if flags & FLAG_UTF8 else "cp437", errors="replace")


def encode_name(name: str) -> tuple[bytes, int]:
    """(bytes, flags) of a member name; the UTF-8 flag is set only where ASCII does not do."""
    try:
        return name.encode("ascii"), 0
    except UnicodeEncodeError:
        pass
    try:
        return name.encode("utf-8"), FLAG_UTF8
    except UnicodeEncodeError as error:
        raise ArchiveError(f"{name!r} cannot be a member's name: it is not valid text") from error


def shard_path(path: Path, shard: int, shards: int) -> Path:
    """`fg_bg.zip`, 0, 8 → `fg_bg-00000-of-00008.zip`; with one shard, the path itself."""
    if shards == 1:
        return path
    return path.with_name(f"{path.stem}-{shard:05d}-of-{shards:05d}{path.suffix}")


# What every member that we write has: a fixed date, so that bytes depend on contents alone.
_DATE_1980_01_01 = (1 << 5) | 1
VERSION = 20
VERSION_ZIP64 = 45
MADE_BY_UNIX = 3 << 8
_REGULAR_FILE_0644 = 0o100644 << 16


def local_header(flags: int, checksum: int, size: int, name_size: int) -> bytes:
    """Local header of a stored member as we write it; the name follows."""
    return LOCAL.pack(
        LOCAL_SIGNATURE, VERSION, flags, STORED, 0, _DATE_1980_01_01,
        checksum, size, size, name_size, 0,
    )  # fmt: skip


def central_record(raw: bytes, flags: int, checksum: int, size: int, offset: int) -> bytes:
    """Central directory entry of a stored member as we write it, its name included."""
    extra, version = b"", VERSION
    if offset >= MAX_32:
        extra = struct.pack("<HHQ", ZIP64_EXTRA_ID, 8, offset)
        version = VERSION_ZIP64
    record = CENTRAL.pack(
        CENTRAL_SIGNATURE, MADE_BY_UNIX | version, version, flags, STORED, 0,
        _DATE_1980_01_01, checksum, size, size, len(raw), len(extra), 0, 0, 0,
        _REGULAR_FILE_0644, min(offset, MAX_32),
    )  # fmt: skip
    return record + raw + extra
