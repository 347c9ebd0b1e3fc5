"""Reading archives at random: one mapped file, or several as one sequence.

The one rule: a member is a view of the map, without a copy and without a shared file position, so
that one `Archive` serves threads, forked and spawned processes alike.
"""

from __future__ import annotations

import glob
import hashlib
import mmap
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from depthgen.archive import format as zf
from depthgen.archive.directory import read_directory, zip64_fields
from depthgen.archive.format import ArchiveError
from depthgen.archive.names import NameIndex, hash_names
from depthgen.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from numpy.typing import NDArray

# Of a directory entry: flags and name length; method, stored size, size, name length and offset.
_ENTRY_NAME = struct.Struct("<8xH18xH")
_ENTRY_DATA = struct.Struct("<10xH8xIIH12xI")
# Of a local header: signature, method, name length and extra length.
_LOCAL_DATA = struct.Struct("<4s4xH16xHH")
_CENTRAL_SIZE, _LOCAL_SIZE = zf.CENTRAL.size, zf.LOCAL.size
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


class Archive(Closing):
    """A read-only sequence of members over one ZIP file, or several in a row.

    `archive[3]` and `archive["bg/bg_003.jpg"]` give a member's bytes as a memoryview; stored
    members are not copied. Two members of one name make look-ups by name an error.
    Raises `ArchiveError` for a file that is missing, truncated, encrypted, overlapping or lying.
    """

    def __init__(self, *paths: str | Path) -> None:
        if not paths:
            raise ArchiveError("an archive needs at least one file")
        self.paths = tuple(Path(path) for path in paths)
        self._files = [_File(path) for path in self.paths]
        self._starts = [0, *accumulate(len(file) for file in self._files)]
        # The number of members if one file holds them all: most archives, and a shorter way.
        self._single = len(self) if len(self._files) == 1 else 0
        self._index: NameIndex | None = None
        self._at_random = False

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open `path`, or its shards `<stem>-00000-of-00008.zip` … if there is no such file."""
        path = Path(path)
        if path.exists():
            return cls(path)
        return cls(*find_shards(path))

    def at_random(self) -> Self:
        """Tell the system that members will be read in no order; returns this archive.

        Without it a cold read of 8 KB may pull in megabytes that nobody asked for: 7 ms against
        0.2 ms on a disk that reads far ahead.
        """
        self._at_random = True
        for file in self._files:
            file.read_at_random()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.paths, self._at_random)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, key: int) -> memoryview: ...
    @overload
    def __getitem__(self, key: str) -> memoryview: ...
    def __getitem__(self, key: int | str) -> memoryview:
        # The two common ways, with as few calls as can be; all else goes the long one.
        if isinstance(key, str):
            if self._single and key.isascii():
                raw = key.encode()
                for member in (self._index or self._build_index()).candidates(raw):
                    data = self._files[0].read(member, raw)
                    if data is not None:
                        return data
            key = self.index(key)
        elif 0 <= key < self._single:
            return self._files[0].read(key)
        file, local = self._place(key)
        return file.read(local)

    def __iter__(self) -> Iterator[memoryview]:
        return (self[index] for index in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    @property
    def names(self) -> Sequence[str]:
        """The members' names, in the order of the directory; decoded when asked for."""
        return _Names(self)

    def name(self, index: int) -> str:
        """The name of member `index`."""
        file, local = self._place(index)
        return file.name(local)

    def index(self, name: str) -> int:
        """The number of the member of this name. Raises `ArchiveError` if there is none."""
        found = self._find(name)
        if found is None:
            raise ArchiveError(f"{self.paths[0]} has no member {name!r}")
        return found

    def crc_is_right(self, index: int) -> bool:
        """Whether the member's bytes have the CRC-32 that the directory gives."""
        file, local = self._place(index)
        return zlib.crc32(file.read(local)) == file.crc(local)

    def digest(self) -> str:
        """SHA-256 (hex) of the central directory: it changes if any name or content does."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(file.directory_bytes())
        return digest.hexdigest()

    def extract(self, folder: str | Path) -> None:
        """Write every member below `folder`; a name that would leave it is an `ArchiveError`."""
        root = Path(folder).resolve()
        for index, name in enumerate(self.names):
            if not self.crc_is_right(index):
                raise ArchiveError(f"{self.paths[0]}: member {name!r} is damaged")
            target = self._target(root, name)
            try:
                if name.endswith("/"):
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self[index])
            except OSError as error:
                raise ArchiveError(f"cannot write {target}: {error.strerror}") from error

    def _target(self, root: Path, name: str) -> Path:
        """Where a member belongs below `root`, all links on the way followed."""
        if "\0" not in name and "\\" not in name:
            with suppress(OSError, RuntimeError):  # a loop of links is no place to write to
                target = (root / name).resolve()
                if root in target.parents:
                    return target
        raise ArchiveError(f"{self.paths[0]}: member {name!r} would be written outside {root}")

    def close(self) -> None:
        """Let the maps go; members still in use keep theirs until they are dropped."""
        self._files = []
        self._starts = [0]
        self._single = 0
        self._index = None

    def _place(self, index: int) -> tuple[_File, int]:
        count = self._starts[-1]
        if index < 0:
            index += count
        if not 0 <= index < count:
            raise IndexError(f"{self.paths[0]} has {count} members, no member {index}")
        if len(self._files) == 1:
            return self._files[0], index
        number = bisect_right(self._starts, index) - 1
        return self._files[number], index - self._starts[number]

    def _find(self, name: str) -> int | None:
        index = self._index or self._build_index()
        plain = name.isascii()
        for raw in (name.encode(),) if plain else _encodings(name):
            for member in index.candidates(raw):
                file, local = self._place(member)
                # Other bytes than ASCII need their entry's flag to become a name.
                if file.has_name(local, raw) and (plain or file.name(local) == name):
                    return member
        return None

    def _build_index(self) -> NameIndex:
        hashes = [file.name_hashes() for file in self._files]
        index = NameIndex(hashes[0] if len(hashes) == 1 else np.concatenate(hashes))
        seen: set[str] = set()
        for member in index.ambiguous():
            if (name := self.name(member)) in seen:
                raise ArchiveError(f"{self.paths[0]} has two members named {name!r}")
            seen.add(name)
        self._index = index
        return index


def _reopen(kind: type[Archive], paths: Sequence[Path], at_random: bool) -> Archive:
    archive = kind(*paths)
    return archive.at_random() if at_random else archive


def files_of(path: Path) -> list[Path]:
    """The files of an archive: `path`, or its shards in order; empty if there are neither.

    Raises `ArchiveError` if a shard is missing.
    """
    if path.exists():
        return [path]
    return find_shards(path) if _shards(path) else []


def _shards(path: Path) -> dict[tuple[int, int], Path]:
    """What there is of (number, total) of `path`."""
    shards = {}
    for candidate in path.parent.glob(f"*-of-*{glob.escape(path.suffix)}"):
        match = _SHARD.search(candidate.stem)
        if match and candidate.stem[: match.start()] == path.stem:
            shards[int(match[1]), int(match[2])] = candidate
    return shards


def find_shards(path: Path) -> list[Path]:
    """The shards of `path` in order. Raises `ArchiveError` if there are none, or one is missing."""
    shards = _shards(path)
    if not shards:
        raise ArchiveError(f"{path} does not exist")
    totals = {total for _, total in shards}
    total = totals.pop()
    if totals:
        raise ArchiveError(f"{path} has shards of two different sets; move one of them away")
    for number in range(total):
        if (number, total) not in shards:
            raise ArchiveError(f"{zf.shard_path(path, number, total)} is missing")
    return [shards[number, total] for number in range(total)]


def _encodings(name: str) -> list[bytes]:
    """The byte strings that a directory may hold for a name that is not ASCII."""
    found = []
    for encoding in ("utf-8", "cp437"):
        with suppress(UnicodeEncodeError):
            found.append(name.encode(encoding))
    return found


class _Names(Sequence[str]):
    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def __len__(self) -> int:
        return len(self._archive)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._archive.name(each) for each in range(*index.indices(len(self)))]
        return self._archive.name(index)


class _File:
    """One mapped ZIP file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ArchiveError(f"{path} is empty") from error
        except OSError as error:
            raise ArchiveError(f"cannot open {path}: {error.strerror}") from error
        self._view = memoryview(self._map)
        self._directory = read_directory(self._map, path)
        # A memoryview gives single elements as Python integers, twice as fast as NumPy does.
        self._start = self._directory.start
        self._entries: memoryview[int] = memoryview(self._directory.entries)  # type: ignore[arg-type]
        offsets = self._directory.offsets
        self._offsets: memoryview[int] | None = None
        if offsets is not None:
            self._offsets = memoryview(offsets)  # type: ignore[arg-type]

    def read_at_random(self) -> None:
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        entry = self._start + self._entries[index]
        flags, length = _ENTRY_NAME.unpack_from(self._map, entry)
        entry += _CENTRAL_SIZE
        return zf.decode_name(self._map[entry : entry + length], flags)

    def has_name(self, index: int, raw: bytes) -> bool:
        entry = self._start + self._entries[index]
        _, length = _ENTRY_NAME.unpack_from(self._map, entry)
        entry += _CENTRAL_SIZE
        return length == len(raw) and self._map[entry : entry + length] == raw

    def crc(self, index: int) -> int:
        return zf.CENTRAL.unpack_from(self._map, self._start + self._entries[index])[7]

    @overload
    def read(self, index: int) -> memoryview: ...
    @overload
    def read(self, index: int, name: bytes) -> memoryview | None: ...
    def read(self, index: int, name: bytes | None = None) -> memoryview | None:
        """The member's bytes; None if it has another name than the one given."""
        entry = self._start + self._entries[index]
        method, stored, plain, name_size, start = _ENTRY_DATA.unpack_from(self._map, entry)
        entry += _CENTRAL_SIZE
        own_name = self._map[entry : entry + name_size]
        if name is not None and name != own_name:
            return None
        if stored == zf.MAX_32 or plain == zf.MAX_32:
            values = zip64_fields(self._map, self._start + self._entries[index])
            assert values is not None, "read_directory checked this"
            plain, stored, _ = values
        if self._offsets is not None:
            start = self._offsets[index]
        signature, local_method, local_name_size, extra_size = _LOCAL_DATA.unpack_from(
            self._map, start
        )
        start += _LOCAL_SIZE
        if (
            signature != zf.LOCAL_SIGNATURE
            or local_method != method
            or local_name_size != name_size
            or self._map[start : start + name_size] != own_name
        ):
            raise ArchiveError(
                f"{self.path}: member {self.name(index)!r} is not where the directory says"
            )
        start += name_size + extra_size
        if start + stored > self._start:
            raise ArchiveError(f"{self.path}: member {self.name(index)!r} is cut off")
        data = self._view[start : start + stored]
        return data if method == zf.STORED else self._inflate(index, data, plain)

    def _inflate(self, index: int, data: memoryview, size: int) -> memoryview:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than promised is asked for, so that a bomb cannot grow past its claim.
            plain = inflater.decompress(data, size + 1)
        except zlib.error as error:
            raise ArchiveError(
                f"{self.path}: member {self.name(index)!r} is damaged: {error}"
            ) from error
        if len(plain) != size or not inflater.eof:
            raise ArchiveError(
                f"{self.path}: member {self.name(index)!r} does not have the {size} bytes it claims"
            )
        return memoryview(plain)

    def directory_bytes(self) -> memoryview:
        return self._view[self._start : self._directory.end]

    def name_hashes(self) -> NDArray[np.uint64]:
        return hash_names(np.frombuffer(self.directory_bytes(), np.uint8), self._directory.entries)
