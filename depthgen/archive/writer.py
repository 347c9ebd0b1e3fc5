"""Writing an archive that survives a kill at any moment.

Members are appended to `<path>.partial`. CRC and size stand in each local header (no data
descriptors) and dates are fixed, so the partial file is its own journal: a scan from its start
finds every whole member. The one rule: `<path>` exists only once it is complete and on the disk.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from depthgen.archive import format as zf
from depthgen.archive.block import Block, check_member
from depthgen.archive.format import ArchiveError
from depthgen.files import sync_folder

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_BUFFER_BYTES = 1 << 20


class ArchiveWriter:
    """Appends members to `<path>.partial` and renames it to `path` on `close`.

    path: the archive to make; it must not exist yet.
    resume: keep the whole members of a partial file left by an earlier run, drop its torn tail;
        `len(writer)` says how many stand. False starts anew.
    Used as a context manager, it closes on success; after an exception it leaves the partial file,
    so that the next run goes on from there.
    Raises `ArchiveError` where the disk or the arguments say no.
    """

    def __init__(self, path: str | Path, resume: bool = True) -> None:
        self.path = Path(path)
        self.partial = partial_path(self.path)
        if self.path.exists():
            raise ArchiveError(f"{self.path} exists already; move it away to write it anew")
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._forget_members()
        self._syncer = ThreadPoolExecutor(max_workers=1)  # starts no thread before it is used
        self._behind: Future[None] | None = None
        self._descriptor = self._open(resume)
        try:
            if resume:
                self._scan()
        except BaseException:
            self._release()
            raise

    def _open(self, resume: bool) -> int:
        flags = os.O_RDWR | os.O_CREAT | (0 if resume else os.O_TRUNC)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.partial, flags, 0o644)
        except OSError as error:
            raise ArchiveError(f"cannot write {self.partial}: {error.strerror}") from error

    def _forget_members(self) -> None:
        self._directory = bytearray()
        self._directory_ends = array("Q")
        self._offsets = array("Q")
        self._names: set[bytes] = set()
        self._end = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def name(self, index: int) -> str:
        """The name of member `index`, in the order they were added."""
        return zf.decode_name(*self._raw_name(index))

    def _raw_name(self, index: int) -> tuple[bytes, int]:
        start = self._directory_ends[index - 1] if index else 0
        record = zf.CENTRAL.unpack_from(self._directory, start)
        start += zf.CENTRAL.size
        return bytes(self._directory[start : start + record[10]]), record[3]

    def add(self, name: str, data: bytes, crc: int | None = None) -> None:
        """Append one member; `crc` is the CRC-32 of `data` where the caller has it already.

        Where the disk says no, the member is held back: `commit` or `close` tries again.
        """
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed; nothing can be added to it")
        raw, flags = check_member(name, len(data))
        if raw in self._names:
            raise self._doubled(raw)
        checksum = crc32(data) if crc is None else crc
        self._hold(zf.local_header(flags, checksum, len(data), len(raw)), raw, data)
        self._enter(raw, flags, checksum, len(data))
        self._flush_if_full()

    def add_block(self, block: Block) -> None:
        """Append the members of a block; the same as adding them one by one, but at once."""
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed; nothing can be added to it")
        new = set(block.names)
        if len(new) < len(block.names) or not self._names.isdisjoint(new):
            counted = Counter(block.names)
            raise self._doubled(
                next(raw for raw in block.names if raw in self._names or counted[raw] > 1)
            )
        if len(block.payload) >= _BUFFER_BYTES:
            self._flush()  # so that the payload goes out as it is, without a copy
        directory, ends = block.directory_at(self._end)
        self._directory_ends.frombytes((ends + np.uint64(len(self._directory))).tobytes())
        self._directory += directory
        self._names |= new
        self._offsets.frombytes((block.offsets + np.uint64(self._end)).tobytes())
        self._end += len(block.payload)
        self._hold(block.payload.data)
        self._flush_if_full()

    def _doubled(self, raw: bytes) -> ArchiveError:
        name = raw.decode("utf-8", "replace")
        return ArchiveError(f"{self.path} already has a member {name!r}; names must be unique")

    def _hold(self, *pieces: bytes | memoryview) -> None:
        self._pending += pieces
        self._pending_bytes += sum(map(len, pieces))

    def _flush_if_full(self) -> None:
        if self._pending_bytes >= _BUFFER_BYTES:
            self._flush()

    def _enter(self, raw: bytes, flags: int, checksum: int, size: int) -> None:
        """Put a member that lies at the end into the directory-to-be."""
        self._directory += zf.central_record(raw, flags, checksum, size, self._end)
        self._directory_ends.append(len(self._directory))
        self._offsets.append(self._end)
        self._names.add(raw)
        self._end += zf.LOCAL.size + len(raw) + size

    def _flush(self) -> None:
        """Write what is pending; what the disk would not take stays pending, in its order."""
        one = len(self._pending) == 1  # a block, say: no need to copy it
        block = memoryview(self._pending[0] if one else b"".join(self._pending))
        try:
            while block:
                block = block[os.write(self._descriptor, block) :]
        except OSError as error:
            raise self._no_room(error) from error
        finally:
            self._pending, self._pending_bytes = ([bytes(block)] if block else []), len(block)

    def _no_room(self, error: OSError) -> ArchiveError:
        return ArchiveError(
            f"cannot write {self.partial}: {error.strerror}; make room and run the same command "
            "again, it goes on where it stopped"
        )

    def commit(self) -> None:
        """Put everything added so far on the disk (flush and fsync)."""
        self._flush()
        self._join_behind()  # an fsync's error is told once: ours must not be the one that is fine
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._no_room(error) from error

    def commit_behind(self) -> None:
        """Start putting everything added so far on the disk, and go on meanwhile.

        What is there leaves the system's page cache: a long archive must not push out all else, and
        pages used again cost less than new ones. An error of an earlier start is raised by the next
        commit, or by `close`.
        """
        self._flush()
        if self._behind is None or self._behind.done():
            self._join_behind()
            self._behind = self._syncer.submit(_sync_and_drop, self._descriptor)

    def _join_behind(self) -> None:
        behind, self._behind = self._behind, None
        if behind is not None:
            try:
                behind.result()
            except OSError as error:
                raise self._no_room(error) from error

    def truncate(self, count: int) -> None:
        """Cut back to the first `count` members."""
        if not 0 <= count <= len(self):
            raise ValueError(f"cannot cut {self.partial} of {len(self)} members to {count}")
        if count == len(self):
            return
        self._flush()
        for index in range(count, len(self)):
            self._names.discard(self._raw_name(index)[0])
        self._end = self._offsets[count]
        del self._offsets[count:]
        del self._directory[self._directory_ends[count - 1] if count else 0 :]
        del self._directory_ends[count:]
        self._cut_file()

    def _cut_file(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
        except OSError as error:
            raise self._no_room(error) from error

    def _scan(self) -> None:
        """Enter every whole member of the partial file and cut off what follows the last one."""
        size = os.fstat(self._descriptor).st_size
        if size:
            with mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ) as mapped:
                while self._scan_member(mapped, size):
                    pass
        self._cut_file()

    def _scan_member(self, mapped: mmap.mmap, size: int) -> bool:
        data_start = self._end + zf.LOCAL.size
        if data_start > size:
            return False
        signature, _, flags, method, _, _, checksum, stored, plain, name_size, extra = (
            zf.LOCAL.unpack_from(mapped, self._end)
        )
        data_start += name_size
        if signature != zf.LOCAL_SIGNATURE or method != zf.STORED or stored != plain or extra:
            return False
        if data_start + plain > size or not name_size:
            return False
        raw = mapped[data_start - name_size : data_start]
        with memoryview(mapped) as view, view[data_start : data_start + plain] as data:
            if crc32(data) != checksum or raw in self._names:
                return False
        # No CRC covers the name, so a torn one shows only in not being as `add` writes them.
        if b"\0" in raw or zf.encode_name(zf.decode_name(raw, flags)) != (raw, flags):
            return False
        self._enter(raw, flags, checksum, plain)
        return True

    def close(self) -> None:
        """Write the central directory, fsync, rename to `path`, fsync the folder.

        Where the disk says no, the partial file stays and a later writer resumes from it.
        """
        if self._descriptor < 0:
            return
        try:
            self._flush()
            self._pending += (bytes(self._directory), self._end_records())
            self.commit()
        finally:
            self._release()
        try:
            self.partial.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise self._no_room(error) from error

    def _end_records(self) -> bytes:
        count, size, offset = len(self), len(self._directory), self._end
        records = b""
        if count >= zf.MAX_16 or size >= zf.MAX_32 or offset >= zf.MAX_32:
            records += zf.ZIP64_END.pack(
                zf.ZIP64_END_SIGNATURE, zf.ZIP64_END.size - 12, zf.MADE_BY_UNIX | zf.VERSION_ZIP64,
                zf.VERSION_ZIP64, 0, 0, count, count, size, offset,
            )  # fmt: skip
            records += zf.ZIP64_LOCATOR.pack(zf.ZIP64_LOCATOR_SIGNATURE, 0, offset + size, 1)
        short = min(count, zf.MAX_16)
        return records + zf.END.pack(
            zf.END_SIGNATURE, 0, 0, short, short, min(size, zf.MAX_32), min(offset, zf.MAX_32), 0
        )

    def suspend(self) -> None:
        """Let go of the partial file without finishing it; a later writer resumes from it."""
        if self._descriptor >= 0:
            try:
                self._flush()
            finally:
                self._release()

    def _release(self) -> None:
        self._syncer.shutdown()
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(ArchiveError):  # the error on its way out says more than this one
                self.suspend()


def partial_path(path: Path) -> Path:
    """Where an archive is until it is whole."""
    return path.with_name(path.name + ".partial")


def _sync_and_drop(descriptor: int) -> None:
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
