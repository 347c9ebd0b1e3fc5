"""Reading archives at random: one mapped file, or several as one sequence.

The one rule: a member is a view of the map, without a copy and without a shared file position, so
that one `Archive` serves threads, forked and spawned processes alike.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from depthgen.archive import format as zf
from depthgen.archive.directory import name_hashes, read_directory, zip64_fields
from depthgen.archive.format import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

# Of a directory entry: flags and name length; method, stored size, size and name length.
_ENTRY_NAME = struct.Struct("<8xH18xH")
_ENTRY_DATA = struct.Struct("<10xH8xIIH")
# Of a local header: signature, method, name length and extra length.
_LOCAL_DATA = struct.Struct("<4s4xH16xHH")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


class Archive:
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
        self._index: tuple[array[int], array[int]] | None = None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open `path`, or its shards `<stem>-00000-of-00008.zip` … if there is no such file."""
        path = Path(path)
        if path.exists():
            return cls(path)
        return cls(*find_shards(path))

    def __reduce__(self) -> tuple[type[Archive], tuple[Path, ...]]:
        return type(self), self.paths

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, key: int) -> memoryview: ...
    @overload
    def __getitem__(self, key: str) -> memoryview: ...
    def __getitem__(self, key: int | str) -> memoryview:
        file, local = self._place(self.index(key) if isinstance(key, str) else key)
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
            target = (root / name).resolve()
            if "\0" in name or "\\" in name or target == root or root not in target.parents:
                raise ArchiveError(
                    f"{self.paths[0]}: member {name!r} would be written outside {root}"
                )
            if name.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self[index])

    def close(self) -> None:
        """Let the maps go; members still in use keep theirs until they are dropped."""
        self._files = []
        self._starts = [0]
        self._index = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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
        if self._index is None:
            self._index = self._build_index()
        hashes, order = self._index
        for raw in _encodings(name):
            wanted = zlib.crc32(raw)
            at = bisect_left(hashes, wanted)
            while at < len(hashes) and hashes[at] == wanted:
                if self.name(order[at]) == name:
                    return order[at]
                at += 1
        return None

    def _build_index(self) -> tuple[array[int], array[int]]:
        """(sorted CRC-32 of all names, member of each): 8 bytes a member, no name kept."""
        hashes = np.concatenate([file.name_hashes() for file in self._files])
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        hashes = hashes[order]
        for at in np.flatnonzero(hashes[1:] == hashes[:-1]):
            name = self.name(int(order[at]))
            if name == self.name(int(order[at + 1])):
                raise ArchiveError(f"{self.paths[0]} has two members named {name!r}")
        return array("I", hashes.tobytes()), array("I", order.tobytes())


def find_shards(path: Path) -> list[Path]:
    """The shards of `path` in order. Raises `ArchiveError` if there are none, or one is missing."""
    shards = {}
    for candidate in path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"):
        match = _SHARD.search(candidate.stem)
        if match and candidate.stem[: match.start()] == path.stem:
            shards[int(match[1]), int(match[2])] = candidate
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
    """The byte strings that a directory may hold for this name: UTF-8 and code page 437."""
    utf8 = name.encode("utf-8")
    if len(utf8) == len(name):
        return [utf8]
    try:
        return [utf8, name.encode("cp437")]
    except UnicodeEncodeError:
        return [utf8]


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
        self._offsets: memoryview[int] = memoryview(self._directory.offsets)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._entries)

    def _raw_name(self, index: int) -> tuple[bytes, int]:
        entry = self._start + self._entries[index]
        flags, length = _ENTRY_NAME.unpack_from(self._map, entry)
        return self._map[entry + zf.CENTRAL.size : entry + zf.CENTRAL.size + length], flags

    def name(self, index: int) -> str:
        return zf.decode_name(*self._raw_name(index))

    def crc(self, index: int) -> int:
        return zf.CENTRAL.unpack_from(self._map, self._start + self._entries[index])[7]

    def read(self, index: int) -> memoryview:
        entry = self._start + self._entries[index]
        method, stored, plain, name_size = _ENTRY_DATA.unpack_from(self._map, entry)
        if zf.MAX_32 in (stored, plain):
            fields = zip64_fields(self._map, entry)
            assert fields is not None, "read_directory checked this"
            plain, stored, _ = fields
        start = self._offsets[index]
        signature, local_method, local_name_size, extra_size = _LOCAL_DATA.unpack_from(
            self._map, start
        )
        entry += zf.CENTRAL.size
        start += zf.LOCAL.size
        if (
            signature != zf.LOCAL_SIGNATURE
            or local_method != method
            or local_name_size != name_size
            or self._map[start : start + name_size] != self._map[entry : entry + name_size]
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

    def name_hashes(self) -> NDArray[np.uint32]:
        return name_hashes(np.frombuffer(self.directory_bytes(), np.uint8), self._directory.entries)
