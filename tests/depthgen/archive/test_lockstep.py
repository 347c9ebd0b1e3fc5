"""Archives that grow in step come to the same end, wherever they are stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from zlib import crc32

import pytest

from depthgen.archive import Archive, ArchiveError, ArchiveWriter, Block, Entry, Lockstep

UNITS = 5
COUNTS = ([2, 0, 3, 1, 2], [1, 1, 1, 0, 1])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def block(which: int, unit: int) -> list[Entry]:
    entries = []
    for number in range(COUNTS[which][unit]):
        data = bytes([which, unit, number]) * 20
        entries.append((f"{which}/{unit}/{number}", data, crc32(data)))
    return entries


def paths_in(folder: Path) -> list[Path]:
    return [folder / "a.zip", folder / "b.zip"]


def finish(folder: Path) -> tuple[int, list[bytes]]:
    """Make what is missing; (the first unit made, the archives' bytes)."""
    with Lockstep(paths_in(folder), COUNTS) as lockstep:
        start = lockstep.start
        for unit in range(start, UNITS):
            lockstep.append([Block.pack(block(0, unit)), Block.pack(block(1, unit))])
    return start, [path.read_bytes() for path in paths_in(folder)]


@pytest.fixture
def whole(tmp_path: Path) -> list[bytes]:
    start, contents = finish(tmp_path / "whole")
    assert start == 0
    return contents


def test_both_hold_all_units_in_order(tmp_path: Path, whole: list[bytes]) -> None:
    for which, path in enumerate(paths_in(tmp_path / "whole")):
        expected = [name for unit in range(UNITS) for name, _, _ in block(which, unit)]
        assert list(Archive(path).names) == expected


def test_the_smaller_number_of_whole_units_wins(tmp_path: Path, whole: list[bytes]) -> None:
    for which, cut in ((0, 1), (1, 10)):
        for bigger in (False, True):
            partials = [path.with_name(path.name + ".partial") for path in paths_in(tmp_path)]
            for number, partial in enumerate(partials):
                length = len(whole[number]) // 2 if bigger else len(whole[number])
                partial.write_bytes(whole[number][: cut if number == which else length])
            start, contents = finish(tmp_path)
            assert start == 0
            assert contents == whole
            for path in paths_in(tmp_path):
                path.unlink()


def test_any_pair_of_cuts_ends_in_the_same_bytes(
    tmp_path: Path, whole: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    for first in range(0, len(whole[0]), 97):
        for second in range(0, len(whole[1]), 61):
            (tmp_path / "a.zip.partial").write_bytes(whole[0][:first])
            (tmp_path / "b.zip.partial").write_bytes(whole[1][:second])
            assert finish(tmp_path)[1] == whole, (first, second)
            for path in paths_in(tmp_path):
                path.unlink()


@pytest.mark.parametrize("closed", [0, 1])
def test_one_that_is_closed_is_left_alone_and_the_other_completed_to_match(
    tmp_path: Path, whole: list[bytes], closed: int
) -> None:
    paths = paths_in(tmp_path)
    paths[closed].write_bytes(whole[closed])
    before = paths[closed].stat()
    stack = ExitStack()
    lockstep = stack.enter_context(Lockstep(paths, COUNTS))
    for unit in range(3):
        lockstep.append([Block.pack(block(0, unit)), Block.pack(block(1, unit))])
    stack.__exit__(KeyboardInterrupt, None, None)
    start, contents = finish(tmp_path)
    assert start == 3 + (closed == 0)  # the second's unit 3 is empty, so it is there already
    assert contents == whole
    assert paths[closed].stat() == before


def test_when_both_are_closed_nothing_is_left_to_do(tmp_path: Path, whole: list[bytes]) -> None:
    assert finish(tmp_path / "whole") == (UNITS, whole)


def test_a_closed_one_with_another_number_of_members_is_refused(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        writer.add("only", b"")
    before = open_files()
    with pytest.raises(ArchiveError, match=r"a\.zip has 1 members where 8 belong"):
        Lockstep(paths_in(tmp_path), COUNTS)
    with pytest.raises(ArchiveError, match=r"a\.zip has 1 members where 8 belong"):
        Lockstep(paths_in(tmp_path)[::-1], COUNTS[::-1])  # the first is open by then
    assert open_files() <= before


def test_leaving_early_closes_no_archive_that_lacks_members(tmp_path: Path) -> None:
    before = open_files()
    with (
        pytest.raises(ValueError, match="2 of 8 members"),
        Lockstep(paths_in(tmp_path), COUNTS) as lockstep,
    ):
        lockstep.append([Block.pack(block(0, 0)), Block.pack(block(1, 0))])
    assert not any(path.exists() for path in paths_in(tmp_path))
    assert open_files() <= before


def test_if_one_cannot_be_closed_the_others_keep_what_they_have(
    tmp_path: Path, whole: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()

    def fail(writer: ArchiveWriter) -> bytes:
        raise ArchiveError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "_end_records", fail)
        with pytest.raises(ArchiveError, match="no room"):
            finish(tmp_path)
    assert open_files() <= before
    assert finish(tmp_path) == (UNITS, whole)


KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from depthgen.archive import ArchiveWriter, Block, Lockstep
folder = Path(sys.argv[1])
close = ArchiveWriter.close
def close_one_and_die(writer):
    close(writer)
    os.kill(os.getpid(), signal.SIGKILL)
ArchiveWriter.close = close_one_and_die
with Lockstep([folder / "a.zip", folder / "b.zip"], [[1] * 4, [1] * 4]) as lockstep:
    for unit in range(4):
        lockstep.append(
            [Block.pack([(f"{unit}", b"a", 0)]), Block.pack([(f"{unit}", b"b", 0)])]
        )
"""


def test_killed_between_the_two_closes_the_second_is_completed(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "a.zip").exists()
    assert not (tmp_path / "b.zip").exists()
    with Lockstep(paths_in(tmp_path), [[1] * 4, [1] * 4]) as lockstep:
        start = lockstep.start
        for unit in range(start, 4):
            data = b"b"
            lockstep.append([Block.pack([]), Block.pack([(f"{unit}", data, crc32(data))])])
    assert list(Archive(tmp_path / "b.zip").names) == ["0", "1", "2", "3"]
