"""Damaged and hostile archives: an `ArchiveError`, or bytes whose CRC tells; nothing else."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zipfile
from typing import TYPE_CHECKING
from zlib import compressobj

import pytest

from depthgen.archive import Archive, ArchiveError, ArchiveWriter
from depthgen.archive import format as zf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENTS = {"a/stored": b"stored" * 5, "b/deflated": b"deflated" * 30, "c/empty": b""}
METHOD_AT, SIZES_AT, OFFSET_AT = 10, 20, 42


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as oracle:
        for name, data in CONTENTS.items():
            deflated = "deflated" in name
            oracle.writestr(name, data, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    return tmp_path / "a.zip"


def change(path: Path, name: str, at: int, value: bytes) -> None:
    """Overwrite part of a member's entry in the central directory."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - zf.CENTRAL.size
    assert data[entry : entry + 4] == zf.CENTRAL_SIGNATURE
    data[entry + at : entry + at + len(value)] = value
    path.write_bytes(data)


def give_zip64_field(path: Path, name: str, *values: int) -> None:
    """Let a member's size, stored size and offset stand in a ZIP64 field."""
    data = path.read_bytes()
    entry = data.rindex(name.encode()) - zf.CENTRAL.size
    after = entry + zf.CENTRAL.size + len(name)
    extra = struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)
    record = bytearray(data[entry : entry + zf.CENTRAL.size])
    record[20:28] = b"\xff" * 8
    record[30:32] = len(extra).to_bytes(2, "little")
    record[42:46] = b"\xff" * 4
    end = bytearray(data[-zf.END.size :])
    size = int.from_bytes(end[12:16], "little") + len(extra)
    end[12:16] = size.to_bytes(4, "little")
    body = data[entry + zf.CENTRAL.size : after] + extra + data[after : -zf.END.size]
    path.write_bytes(data[:entry] + record + body + end)


def all_right(path: Path) -> bool:
    """Read everything in every way; False where a CRC does not match. Else `ArchiveError`."""
    with Archive(path) as archive:
        right = True
        for index, name in enumerate(archive.names):
            right &= archive.crc_is_right(index)
            assert archive.index(name) == index
            assert archive[name] == archive[index]
        return right


def test_what_is_whole_is_right(path: Path) -> None:
    assert all_right(path)


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"not a ZIP archive" * 9, b"PK\x05\x06" + b"\xff" * 18]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"a\.zip"):
        Archive(tmp_path / "a.zip")


def test_a_file_cut_at_any_byte_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArchiveError, match=r"a\.zip"):
            Archive(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.zip"):
        with pytest.raises(ArchiveError, match="cannot open"):
            Archive(path)


@pytest.mark.parametrize("flag", [zf.FLAG_ENCRYPTED, zf.FLAG_STRONG_ENCRYPTION, 1 << 13])
def test_an_encrypted_member_is_named(path: Path, flag: int) -> None:
    change(path, "b/deflated", 8, flag.to_bytes(2, "little"))
    with pytest.raises(ArchiveError, match="'b/deflated' is encrypted"):
        Archive(path)


def test_a_compression_that_is_not_deflate_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as oracle:
        oracle.writestr("member", b"1" * 100)
    with pytest.raises(ArchiveError, match="'member' uses a compression method"):
        Archive(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (SIZES_AT, struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF), "reaches beyond the data"),
        (SIZES_AT, struct.pack("<II", 30, 31), "two sizes"),
        (SIZES_AT, struct.pack("<II", 60, 60), "overlaps"),
        (OFFSET_AT, struct.pack("<I", 0x7FFFFFFF), "reaches beyond the data"),
        (OFFSET_AT, struct.pack("<I", 90), "overlaps"),
        (OFFSET_AT, struct.pack("<I", 0xFFFFFFFF), "ZIP64"),
    ],
)
def test_a_lie_about_size_or_place_is_named(path: Path, at: int, value: bytes, what: str) -> None:
    change(path, "a/stored", at, value)
    with pytest.raises(ArchiveError, match=rf"'(a/stored|b/deflated)' .*{what}"):
        Archive(path)


@pytest.mark.parametrize("offset", [0, 2**60, 2**62, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("size", [30, 2**60, 2**62, 2**63 - 1, 2**64 - 1])
def test_numbers_near_the_end_of_64_bits_are_lies_as_well(
    path: Path, offset: int, size: int
) -> None:
    give_zip64_field(path, "a/stored", size, size, offset)
    if (size, offset) == (30, 0):
        assert all_right(path)
        return
    with pytest.raises(ArchiveError, match="'a/stored' reaches beyond the data"):
        Archive(path)


@pytest.mark.parametrize("count", [0, 2, 4, 65534])
def test_a_wrong_number_of_members_is_refused(path: Path, count: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-14] + struct.pack("<HH", count, count) + data[-10:])
    with pytest.raises(ArchiveError, match=f"says it has {count} members, but lists 3"):
        Archive(path)


def test_a_member_that_is_not_where_the_directory_says_is_named_when_read(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[30] ^= 1  # the first letter of the first member's name
    path.write_bytes(data)
    archive = Archive(path)
    for key in (0, "a/stored"):
        with pytest.raises(ArchiveError, match="'a/stored' is not where"):
            archive[key]
    assert archive[1] == CONTENTS["b/deflated"]


def test_extract_refuses_a_member_with_a_wrong_crc(path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"storedstored") + 10] ^= 1
    path.write_bytes(data)
    assert not Archive(path).crc_is_right(0)
    with pytest.raises(ArchiveError, match="'a/stored' is damaged"):
        Archive(path).extract(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def bomb(path: Path, claim: int) -> None:
    """A member that claims `claim` bytes and unpacks to 64 MiB."""
    packer = compressobj(9, wbits=-15)
    packed = packer.compress(bytes(1 << 26)) + packer.flush()
    with ArchiveWriter(path) as writer:
        writer.add("bomb", packed)
    change(path, "bomb", SIZES_AT + 4, struct.pack("<I", claim))
    change(path, "bomb", METHOD_AT, struct.pack("<H", zf.DEFLATED))
    data = bytearray(path.read_bytes())
    data[8] = zf.DEFLATED
    path.write_bytes(data)


def test_a_bomb_grows_no_further_than_its_claim(tmp_path: Path) -> None:
    bomb(tmp_path / "a.zip", 1000)
    archive = Archive(tmp_path / "a.zip")
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="does not have the 1000 bytes it claims"):
        archive[0]
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_bomb_that_admits_its_size_is_refused(tmp_path: Path) -> None:
    bomb(tmp_path / "a.zip", (1 << 30) + 1)
    with pytest.raises(ArchiveError, match="'bomb' is deflated and larger than 1 GiB"):
        Archive(tmp_path / "a.zip")


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def splice(data: bytes, chance: random.Random) -> bytes:
    first, second = sorted(chance.choices(range(len(data)), k=2))
    return data[:first] + chance.choice([b"", bytes(second - first)]) + data[second:]


def scramble_directory(data: bytes, chance: random.Random) -> bytes:
    """Every field of the directory's records is fair game."""
    changed = bytearray(data)
    start = data.index(zf.CENTRAL_SIGNATURE)
    at = chance.randrange(start, len(data) - 4)
    changed[at : at + 4] = chance.choice([b"\xff" * 4, bytes(4), chance.randbytes(4)])
    return bytes(changed[: len(data)])


@pytest.mark.parametrize("harm", [flip, splice, scramble_directory])
def test_random_damage_is_an_archive_error_or_shows_in_the_crc(
    path: Path, harm: Callable[[bytes, random.Random], bytes]
) -> None:
    whole, chance = path.read_bytes(), random.Random(0)
    refused = 0
    tracemalloc.start()
    for _ in range(600):
        path.write_bytes(harm(whole, chance))
        try:
            right = all_right(path)
        except ArchiveError:
            refused += 1
        else:
            with Archive(path) as archive:
                for name, data in zip(archive.names, archive, strict=True):
                    assert not right or data == CONTENTS.get(name, data)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert refused > 80
