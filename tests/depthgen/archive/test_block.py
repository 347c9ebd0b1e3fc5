"""Blocks, against adding their members one by one and against `zipfile`."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthgen.archive import ArchiveError, ArchiveWriter, Block

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


def pack(members: dict[str, bytes]) -> Block:
    return Block.pack([(name, data, crc32(data)) for name, data in members.items()])


@settings(max_examples=60)
@given(members=st.dictionaries(NAMES, st.binary(max_size=40), max_size=9), cuts=st.data())
def test_a_block_writes_what_its_members_write_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], cuts: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("block")
    with ArchiveWriter(folder / "one.zip") as one:
        for name, data in members.items():
            one.add(name, data)
    cut = cuts.draw(st.integers(0, len(members)))
    items = list(members.items())
    with ArchiveWriter(folder / "block.zip") as block:
        block.add_block(pack(dict(items[:cut])))
        block.add_block(pack(dict(items[cut:])))
        assert [block.name(index) for index in range(len(block))] == list(members)
    assert (folder / "block.zip").read_bytes() == (folder / "one.zip").read_bytes()


def test_a_block_larger_than_the_buffer_goes_after_what_is_pending(tmp_path: Path) -> None:
    large = b"x" * (3 << 20)
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        writer.add("before", b"1")
        writer.add_block(pack({"large": large}))
        writer.add("after", b"2")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["before", "large", "after"]
        assert archive.read("large") == large
        assert archive.testzip() is None


def test_offsets_beyond_four_gib_get_zip64_entries() -> None:
    start = 2**32 - 20  # the first member's header starts below the border, the second's above
    block = pack({"a": b"12345", "b": b"67"})
    directory, ends = block.directory_at(start)
    assert ends[-1] == len(directory)
    found = parse_with_zipfile(directory, 2)
    assert found == [("a", start), ("b", start + 30 + 1 + 5)]
    assert ends[1] - ends[0] == ends[0] + 12  # the ZIP64 field


def parse_with_zipfile(directory: bytes, count: int) -> list[tuple[str, int]]:
    """Names and offsets as `zipfile` reads them from a file that is a directory alone."""
    tail = b"PK\x05\x06" + bytes(4) + count.to_bytes(2, "little") * 2
    tail += len(directory).to_bytes(4, "little") + bytes(6)
    with zipfile.ZipFile(io.BytesIO(directory + tail)) as archive:
        return [(info.filename, info.header_offset) for info in archive.infolist()]


@pytest.mark.parametrize("earlier", [True, False])
def test_a_doubled_name_is_refused_by_name_and_adds_nothing(tmp_path: Path, earlier: bool) -> None:
    writer = ArchiveWriter(tmp_path / "a.zip")
    writer.add("a" if earlier else "other", b"1")
    doubled = [("b", b"2", crc32(b"2")), ("a", b"3", crc32(b"3"))]
    if not earlier:
        doubled.append(("a", b"4", crc32(b"4")))
    with pytest.raises(ArchiveError, match="already has a member 'a'"):
        writer.add_block(Block.pack(doubled))
    writer.close()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.namelist()) == 1


def test_names_that_no_archive_holds_are_refused() -> None:
    for name in ("", "a\0b", "x" * 70_000):
        with pytest.raises(ArchiveError, match="cannot add"):
            Block.pack([(name, b"", 0)])
