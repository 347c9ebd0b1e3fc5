"""What the writer writes, and what it makes of a file that an earlier run left."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthgen.archive import Archive, ArchiveError, ArchiveWriter, Block
from depthgen.archive import format as zf

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMBERS = {
    "labels/a.txt": b"",
    "fg_bg/zeros.bin": bytes(9),
    "fg_bg/grün.jpg": b"\xff\xd8" + bytes(range(40)),
    "PK\x03\x04": b"PK\x03\x04PK\x01\x02PK\x05\x06",
    "last": b"the end",
}

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
)
contents = st.dictionaries(names, st.binary(max_size=200), max_size=12)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def write(path: Path, members: Mapping[str, bytes]) -> bytes:
    with ArchiveWriter(path) as writer:
        for name, data in members.items():
            writer.add(name, data)
    return path.read_bytes()


@given(contents)
def test_zipfile_and_archive_give_back_what_was_added(members: dict[str, bytes]) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "a.zip"
        write(path, members)
        with zipfile.ZipFile(path) as oracle, Archive(path) as archive:
            assert oracle.testzip() is None
            assert oracle.namelist() == list(archive.names) == list(members)
            assert [oracle.read(info) for info in oracle.infolist()] == list(members.values())
            assert [bytes(data) for data in archive] == list(members.values())
            for name, data in members.items():
                assert archive[name] == data
                assert crc32(data) == oracle.getinfo(name).CRC


def test_unzip_finds_nothing_wrong(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", MEMBERS)
    subprocess.run(["unzip", "-tq", str(tmp_path / "a.zip")], check=True, capture_output=True)


def test_the_bytes_depend_on_the_members_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path / "a.zip", MEMBERS)
    os.umask(os.umask(0o077))
    monkeypatch.setattr("time.time", lambda: 4e9)
    monkeypatch.chdir(tmp_path)
    with ArchiveWriter("other.zip", resume=False) as writer:
        for name, data in MEMBERS.items():
            writer.add(name, data, crc32(data))
            writer.commit()
    assert Path("other.zip").read_bytes() == first


def test_any_order_of_the_same_members_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", dict(reversed(MEMBERS.items())))
    with zipfile.ZipFile(tmp_path / "a.zip") as oracle:
        assert oracle.namelist() == list(reversed(MEMBERS))


@pytest.mark.parametrize("tail", [b"", bytes(100), b"\xaa" * 100], ids=["cut", "zeros", "noise"])
def test_resuming_from_a_cut_at_every_byte_gives_the_same_archive(
    tmp_path: Path, tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # two thousand of them take their time
    whole = write(tmp_path / "whole.zip", MEMBERS)  # the central directory is cut through as well
    ends = [0]
    for name, data in MEMBERS.items():
        ends.append(ends[-1] + zf.LOCAL.size + len(name.encode()) + len(data))
    path, partial = tmp_path / "a.zip", tmp_path / "a.zip.partial"
    for cut in range(len(whole) + 1):
        partial.write_bytes(whole[:cut] + tail)
        with ArchiveWriter(path) as writer:
            stand = len(writer)
            # Zeros after the cut may complete the member that consists of them.
            assert stand >= sum(end <= cut for end in ends) - 1
            assert tail or stand == sum(end <= cut for end in ends) - 1
            assert [writer.name(index) for index in range(stand)] == list(MEMBERS)[:stand]
            for name, data in list(MEMBERS.items())[stand:]:
                writer.add(name, data)
        assert path.read_bytes() == whole, cut
        path.unlink()


def test_a_name_torn_into_zeros_is_dropped_though_its_member_is_empty(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.zip", {"labels/a.txt": b""})
    (tmp_path / "a.zip.partial").write_bytes(whole[: zf.LOCAL.size + 4] + bytes(500))
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        assert len(writer) == 0


def test_a_changed_byte_in_the_partial_file_drops_it_and_all_after_it(tmp_path: Path) -> None:
    whole = bytearray(write(tmp_path / "whole.zip", MEMBERS))
    whole[whole.index(b"\xff\xd8") + 20] ^= 1
    (tmp_path / "a.zip.partial").write_bytes(whole)
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        assert len(writer) == 2


def test_without_resume_an_earlier_partial_file_is_forgotten(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a.zip")
    writer.add("old", b"old")
    writer.suspend()
    with ArchiveWriter(tmp_path / "a.zip", resume=False) as writer:
        assert len(writer) == 0
        writer.add("new", b"new")
    assert list(Archive(tmp_path / "a.zip").names) == ["new"]


@pytest.mark.parametrize("count", range(len(MEMBERS) + 1))
@pytest.mark.parametrize("resumed", [False, True])
def test_truncate_cuts_back_to_a_count_and_frees_the_names(
    tmp_path: Path, count: int, resumed: bool
) -> None:
    whole = write(tmp_path / "whole.zip", MEMBERS)
    writer = ArchiveWriter(tmp_path / "a.zip")
    for name, data in MEMBERS.items():
        writer.add(name, data)
    if resumed:
        writer.suspend()
        writer = ArchiveWriter(tmp_path / "a.zip")
    with writer:
        writer.truncate(count)
        assert len(writer) == count
        for name, data in list(MEMBERS.items())[count:]:
            writer.add(name, data)
    assert (tmp_path / "a.zip").read_bytes() == whole


@pytest.mark.parametrize("count", [-1, 2])
def test_truncate_refuses_a_count_that_is_not_there(tmp_path: Path, count: int) -> None:
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        writer.add("a", b"")
        with pytest.raises(ValueError, match=str(count)):
            writer.truncate(count)


def test_a_name_is_taken_once_also_across_runs(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a.zip")
    writer.add("grün", b"1")
    with pytest.raises(ArchiveError, match="grün"):
        writer.add("grün", b"2")
    writer.suspend()
    with ArchiveWriter(tmp_path / "a.zip") as writer, pytest.raises(ArchiveError, match="grün"):
        writer.add("grün", b"2")


@pytest.mark.parametrize("name", ["", "x" * 65536, "a\0b", "\udc80"])
def test_a_name_that_zip_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        with pytest.raises(ArchiveError):
            writer.add(name, b"")
        writer.add("good", b"")
    assert list(Archive(tmp_path / "a.zip").names) == ["good"]


def test_the_longest_name_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", {"x" * 65535: b"1"})
    with zipfile.ZipFile(tmp_path / "a.zip") as oracle:
        assert oracle.namelist() == ["x" * 65535]


def test_an_archive_that_exists_is_not_touched(tmp_path: Path) -> None:
    before = write(tmp_path / "a.zip", MEMBERS)
    with pytest.raises(ArchiveError, match="exists already"):
        ArchiveWriter(tmp_path / "a.zip", resume=False)
    assert (tmp_path / "a.zip").read_bytes() == before


def test_nothing_can_be_added_once_closed(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a.zip")
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.add("a", b"")


def test_offsets_beyond_4_gib_use_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, gap = tmp_path / "a.zip", 5 << 30
    with ArchiveWriter(path) as writer:
        writer.add("near", b"1")
        writer.commit()
        near_end = os.lseek(writer._descriptor, 0, os.SEEK_CUR)
        # A hole, which no disk is needed for, stands in for five gigabytes of members.
        writer._end = os.lseek(writer._descriptor, gap, os.SEEK_CUR)
        writer.add("far", b"22")
    assert path.stat().st_size > near_end + gap
    with zipfile.ZipFile(path) as oracle, Archive(path) as archive:
        assert oracle.read("near") == bytes(archive["near"]) == b"1"
        assert oracle.read("far") == bytes(archive["far"]) == b"22"
        assert archive.crc_is_right(1)


@pytest.mark.parametrize("count", [65534, 65535, 65536])
def test_more_members_than_sixteen_bits_count(tmp_path: Path, count: int) -> None:
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        for index in range(count):
            writer.add(f"{index}", b"")
    assert (zf.ZIP64_END_SIGNATURE in (tmp_path / "a.zip").read_bytes()) == (count >= 65535)
    with zipfile.ZipFile(tmp_path / "a.zip") as oracle, Archive(tmp_path / "a.zip") as archive:
        assert len(oracle.infolist()) == len(archive) == count
        assert archive.name(count - 1) == f"{count - 1}"
        assert archive.index(f"{count // 2}") == count // 2


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "whole.zip", MEMBERS)
    write_all = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, block: write_all(descriptor, block[:7]))
    assert write(tmp_path / "a.zip", MEMBERS) == whole


def test_what_a_full_disk_refused_is_written_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "whole.zip", MEMBERS)
    write_all, room = os.write, 50

    def write_while_there_is_room(descriptor: int, block: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= (written := write_all(descriptor, block[:room]))
        return written

    monkeypatch.setattr(os, "write", write_while_there_is_room)
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        for name, data in MEMBERS.items():
            writer.add(name, data)
        with pytest.raises(ArchiveError, match=r"No space left.*again"):
            writer.commit()
        room = 10_000
    assert (tmp_path / "a.zip").read_bytes() == whole


@pytest.mark.parametrize("limit", [60, 200, 500])
def test_a_full_disk_leaves_a_partial_file_to_go_on_from(tmp_path: Path, limit: int) -> None:
    whole = write(tmp_path / "whole.zip", MEMBERS)
    path = tmp_path / "a.zip"
    before = open_files()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ArchiveError, match="File too large"):
            write(path, MEMBERS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert open_files() <= before
    assert not path.exists()
    with ArchiveWriter(path) as writer:
        for name, data in list(MEMBERS.items())[len(writer) :]:
            writer.add(name, data)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArchiveError, match="file"):
        ArchiveWriter(tmp_path / "file" / "a.zip")


KILLED = """
import os, signal, sys
from depthgen.archive import ArchiveWriter
writer = ArchiveWriter(sys.argv[1])
for index in range(1000):
    writer.add(f"{index}", bytes([index % 256]) * 5000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_whole_members_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with ArchiveWriter(path) as writer:
        assert 0 < len(writer) < 1000
        stand = len(writer)
    with zipfile.ZipFile(path) as oracle:
        assert oracle.testzip() is None
        assert oracle.namelist() == [f"{index}" for index in range(stand)]


def test_committing_behind_changes_no_byte_and_can_be_repeated(tmp_path: Path) -> None:
    for name, behind in (("plain.zip", False), ("behind.zip", True)):
        with ArchiveWriter(tmp_path / name) as writer:
            for number in range(50):
                writer.add(f"{number}", bytes(1000))
                if behind:
                    writer.commit_behind()
    assert (tmp_path / "plain.zip").read_bytes() == (tmp_path / "behind.zip").read_bytes()


@pytest.mark.parametrize("what_next", ["commit", "close"])
def test_an_error_behind_is_raised_by_the_next_commit_or_by_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what_next: str
) -> None:
    fsync, calls = os.fsync, []

    def full_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # the kernel tells an error of writing back once, then forgets it
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    writer = ArchiveWriter(tmp_path / "a.zip")
    writer.add("a", b"1")
    monkeypatch.setattr("os.fsync", full_once)
    writer.commit_behind()
    with pytest.raises(ArchiveError, match="No space left"):
        getattr(writer, what_next)()
    assert not (tmp_path / "a.zip").exists()
    assert (tmp_path / "a.zip.partial").exists()
    writer.suspend()


@pytest.mark.parametrize("as_block", [False, True])
@pytest.mark.parametrize("size", [300_000, 1_500_000])
def test_what_a_full_disk_refused_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_block: bool, size: int
) -> None:
    write, full = os.write, [False]

    def write_or_not(descriptor: int, data: bytes) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("os.write", write_or_not)
    writer = ArchiveWriter(tmp_path / "a.zip")
    taken: dict[str, bytes] = {}
    for number in range(12):
        full[0] = 3 <= number < 8
        name, data = f"m{number}", bytes([number]) * size
        before = len(writer)
        with suppress(ArchiveError):
            if as_block:
                writer.add_block(Block.pack([(name, data, crc32(data))]))
            else:
                writer.add(name, data)
        if len(writer) > before:
            taken[name] = data
    full[0] = False
    writer.close()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == taken
    with Archive(tmp_path / "a.zip") as ours:
        assert all(ours[name] == data for name, data in taken.items())
