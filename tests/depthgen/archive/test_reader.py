"""The reader gives what `zipfile` gives, for our archives and for those of others."""

from __future__ import annotations

import concurrent.futures
import io
import multiprocessing
import os
import pickle
import random
import threading
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthgen.archive import Archive, ArchiveError, ArchiveWriter, files_of, shard_path
from depthgen.archive.names import NameIndex

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
members = st.dictionaries(names, st.tuples(st.binary(max_size=300), st.booleans()), max_size=8)


def agrees_with_zipfile(path: Path) -> None:
    with zipfile.ZipFile(path) as oracle, Archive(path) as archive:
        infos = oracle.infolist()
        assert list(archive.names) == [info.filename for info in infos]
        for index, info in enumerate(infos):
            assert bytes(archive[index]) == bytes(archive[info.filename]) == oracle.read(info)
            assert archive.index(info.filename) == index
            assert archive.crc_is_right(index)


@given(members, st.binary(max_size=100), st.binary(max_size=60), st.booleans())
def test_archives_made_by_zipfile_read_alike(
    contents: dict[str, tuple[bytes, bool]], stub: bytes, comment: bytes, streamed: bool
) -> None:
    class Unseekable(io.BytesIO):
        """`zipfile` writes data descriptors where it cannot go back."""

        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    with TemporaryDirectory() as name:
        path = Path(name) / "a.zip"
        stream = Unseekable() if streamed else io.BytesIO()
        with zipfile.ZipFile(stream, "w") as oracle:
            oracle.comment = comment.replace(b"PK\x05\x06", b"")
            for member, (data, deflated) in contents.items():
                oracle.writestr(member, data, zipfile.ZIP_DEFLATED if deflated else 0)
        path.write_bytes(stub.replace(b"PK", b"") + stream.getvalue())
        agrees_with_zipfile(path)


def test_an_empty_archive_has_no_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    archive = Archive(tmp_path / "a.zip")
    assert len(archive) == 0
    assert "a" not in archive
    assert not list(archive)
    assert not list(archive.names)
    with pytest.raises(IndexError, match="has 0 members"):
        archive[0]


def test_zip64_fields_that_were_not_needed_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as oracle:
        for name in ("a", "b"):
            with oracle.open(name, "w", force_zip64=True) as stream:
                stream.write(name.encode() * 50)
    agrees_with_zipfile(tmp_path / "a.zip")


def test_signatures_in_names_comments_and_contents_mislead_nobody(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as oracle:
        for name in ("PK\x01\x02", "a/PK\x05\x06", "PK\x03\x04" * 20, "PK\x06\x06", "plain"):
            info = zipfile.ZipInfo(name)
            info.comment = b"PK\x01\x02" * 30
            oracle.writestr(info, b"PK\x01\x02PK\x03\x04PK\x05\x06")
        info.comment = b"PK\x06\x07" + bytes(16)  # just where a ZIP64 locator would stand
    agrees_with_zipfile(tmp_path / "a.zip")


def test_an_end_signature_in_the_archives_comment_misleads_nobody(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as oracle:
        oracle.writestr("a", b"1")
        oracle.comment = b"PK\x05\x06" + bytes(30)
    assert bytes(Archive(tmp_path / "a.zip")["a"]) == b"1"  # zipfile itself finds none in it


def test_bytes_after_the_archive_do_no_harm(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        writer.add("a", b"1")
    with (tmp_path / "a.zip").open("ab") as stream:
        stream.write(b"\n" * 100)
    agrees_with_zipfile(tmp_path / "a.zip")


def test_names_in_code_page_437_are_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as oracle:
        oracle.writestr("gr\u00fcn", b"437")
        oracle.writestr("gruen", b"ascii")
    data = (tmp_path / "a.zip").read_bytes()
    # The same length in both encodings' bytes, once the flag is gone: "gr├╝n" in code page 437.
    for at in (6, data.index(b"PK\x01\x02") + 8):
        data = data[: at + 1] + bytes([data[at + 1] & ~8]) + data[at + 2 :]
    (tmp_path / "a.zip").write_bytes(data)
    agrees_with_zipfile(tmp_path / "a.zip")
    archive = Archive(tmp_path / "a.zip")
    assert list(archive.names) == ["gr├╝n", "gruen"]
    assert bytes(archive["gr├╝n"]) == b"437"
    assert "grün" not in archive


def test_directories_are_members_without_content(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as oracle:
        oracle.mkdir("empty")
        oracle.writestr("full/a", b"1")
    agrees_with_zipfile(tmp_path / "a.zip")
    Archive(tmp_path / "a.zip").extract(tmp_path / "out")
    assert (tmp_path / "out/empty").is_dir()
    assert (tmp_path / "out/full/a").read_bytes() == b"1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        for index in range(300):
            writer.add(f"bg/bg_{index:03d}.jpg", f"{index}".encode() * 20)
    return tmp_path / "a.zip"


def test_members_are_views_that_outlive_the_archive(path: Path) -> None:
    archive = Archive(path)
    view = archive[7]
    assert view.readonly
    archive.close()
    path.unlink()
    assert view == b"7" * 20


def test_an_index_counts_from_either_end_and_no_further(path: Path) -> None:
    archive = Archive(path)
    assert archive[-1] == archive[299] == b"299" * 20
    assert archive[np.int64(3)] == b"3" * 20  # type: ignore[call-overload]
    for index in (300, -301):
        with pytest.raises(IndexError, match="300 members"):
            archive[index]
    assert archive.names[-2:] == ["bg/bg_298.jpg", "bg/bg_299.jpg"]


@pytest.mark.parametrize("name", ["", "bg", "bg/bg_000.jpgx", "BG/BG_000.JPG", "grün", "\udc80"])
def test_a_name_that_is_not_there_is_an_error_that_says_so(path: Path, name: str) -> None:
    archive = Archive(path)
    assert name not in archive
    with pytest.raises(ArchiveError, match=r"a\.zip has no member"):
        archive[name]


def test_two_members_of_one_name_make_looking_up_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as oracle:
        oracle.writestr("once", b"0")
        oracle.writestr("twice", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            oracle.writestr("twice", b"2")
    archive = Archive(tmp_path / "a.zip")
    assert [bytes(data) for data in archive] == [b"0", b"1", b"2"]
    with pytest.raises(ArchiveError, match="two members named 'twice'"):
        archive["once"]


def test_names_with_equal_hashes_are_all_candidates() -> None:
    index = NameIndex(np.array([5, 9, 5, 7, 5], np.uint64))
    assert index.candidates((5).to_bytes(1, "little")) == [0, 2, 4]
    assert index.candidates((7).to_bytes(1, "little")) == [3]
    assert index.candidates((6).to_bytes(1, "little")) == []
    assert index.candidates(b"\xff" * 40) == []
    assert sorted(index.ambiguous()) == [0, 2, 4]


def test_a_member_is_found_behind_another_of_the_same_hash(tmp_path: Path) -> None:
    prime, low = 4_000_000_007, int.from_bytes(b"aaaa/bbbb", "little")
    twins = (value for value in range(low + prime, low + (prime << 20), prime))
    other = next(
        text for value in twins if (text := value.to_bytes(9, "little")).isascii() and 0 not in text
    )
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        writer.add("aaaa/bbbb", b"1")
        writer.add(other.decode(), b"2")
    archive = Archive(tmp_path / "a.zip")
    assert bytes(archive["aaaa/bbbb"]) == b"1"
    assert bytes(archive[other.decode()]) == b"2"


def test_the_digest_follows_names_and_contents(tmp_path: Path) -> None:
    digests = set()
    for number, (name, data) in enumerate([("a", b"1"), ("a", b"2"), ("b", b"1"), ("a", b"1")]):
        with ArchiveWriter(tmp_path / f"{number}.zip") as writer:
            writer.add(name, data)
        digests.add(Archive(tmp_path / f"{number}.zip").digest())
    assert len(digests) == 3


def test_many_open_and_closed_archives_leave_no_descriptor(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with Archive(path) as archive:
            archive["bg/bg_007.jpg"]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def read_all(archive: Archive) -> int:
    order = random.Random(0).sample(range(len(archive)), len(archive))
    total = 0
    for index in order:
        assert archive[index] == archive[f"bg/bg_{index:03d}.jpg"] == f"{index}".encode() * 20
        total += crc32(archive[index])
    return total


def test_a_pickled_archive_opens_the_same_files(path: Path) -> None:
    archive = Archive(path)
    expected = read_all(archive)
    assert read_all(pickle.loads(pickle.dumps(archive))) == expected


def test_threads_share_one_archive(path: Path) -> None:
    archive = Archive(path)
    barrier = threading.Barrier(4)

    def work(_: int) -> int:
        barrier.wait()  # the table of names is made by all of them at once
        return read_all(archive)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(4)))) == 1


def test_a_forked_process_reads_the_archive_it_inherits(path: Path) -> None:
    archive = Archive(path)
    expected = read_all(archive) & 0x7F
    if not (child := os.fork()):
        os._exit(read_all(archive) & 0x7F)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected


def test_a_spawned_process_opens_it_anew(path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(bytes.fromhex, ("00",)) == b"\0"
        assert pool.apply(Archive.name, (Archive(path), 299)) == "bg/bg_299.jpg"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    path = tmp_path / "shards" / "fg_bg.zip"
    for shard, count in enumerate((3, 0, 2)):
        with ArchiveWriter(shard_path(path, shard, 3)) as writer:
            for index in range(count):
                writer.add(f"{shard}/{index}", f"{shard}{index}".encode())
    return path


def test_shards_read_as_one_sequence(shards: Path) -> None:
    archive = Archive.open(shards)
    assert list(archive.names) == ["0/0", "0/1", "0/2", "2/0", "2/1"]
    assert [bytes(data) for data in archive] == [b"00", b"01", b"02", b"20", b"21"]
    assert bytes(archive["2/1"]) == bytes(archive[-1]) == b"21"
    assert archive.index("2/0") == 3
    assert "1/0" not in archive
    assert pickle.loads(pickle.dumps(archive))["0/2"] == b"02"


def test_a_missing_shard_is_named(shards: Path) -> None:
    shard_path(shards, 1, 3).unlink()
    with pytest.raises(ArchiveError, match=r"fg_bg-00001-of-00003\.zip is missing"):
        Archive.open(shards)


def test_shards_of_two_sets_are_refused(shards: Path) -> None:
    shard_path(shards, 0, 2).write_bytes(shard_path(shards, 0, 3).read_bytes())
    with pytest.raises(ArchiveError, match="two different sets"):
        Archive.open(shards)


def test_two_shards_with_one_name_make_looking_up_an_error(shards: Path) -> None:
    archive = Archive(shard_path(shards, 0, 3), shard_path(shards, 0, 3))
    assert len(archive) == 6
    with pytest.raises(ArchiveError, match="two members named"):
        archive.index("0/0")


def test_an_archive_of_no_file_is_an_error(tmp_path: Path) -> None:
    for call in (lambda: Archive(), lambda: Archive.open(tmp_path / "a.zip")):
        with pytest.raises(ArchiveError):
            call()


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "..", ".", "a\\..\\x", "link/x", "loop/x"]
)
def test_extract_writes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in" / "out"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    with ArchiveWriter(tmp_path / "in" / "a.zip") as writer:
        writer.add(name, b"evil")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError, match="outside"):
        Archive(tmp_path / "in" / "a.zip").extract(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_extract_writes_what_zipfile_would(path: Path, tmp_path: Path) -> None:
    Archive(path).extract(tmp_path / "ours")
    with zipfile.ZipFile(path) as oracle:
        oracle.extractall(tmp_path / "theirs")
    for theirs in (tmp_path / "theirs").rglob("*.jpg"):
        ours = tmp_path / "ours" / theirs.relative_to(tmp_path / "theirs")
        assert ours.read_bytes() == theirs.read_bytes()


def test_extract_names_what_it_cannot_write(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.zip") as writer:
        writer.add("a", b"a file")
        writer.add("a/b", b"in a folder of its name")
    with pytest.raises(ArchiveError, match="cannot write"):
        Archive(tmp_path / "a.zip").extract(tmp_path / "out")


def test_reading_at_random_changes_nothing_but_the_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        for number in range(9):
            made.writestr(f"{number}", bytes([number]) * 9000)
    archive = Archive(path).at_random()
    for copy in (archive, pickle.loads(pickle.dumps(archive))):
        assert [bytes(copy[index])[:1] for index in (7, 0, 8)] == [b"\7", b"\0", b"\x08"]


def test_the_files_of_an_archive_are_it_or_all_its_shards_or_none(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    assert files_of(path) == []
    shards = [shard_path(path, number, 2) for number in range(2)]
    shards[1].write_bytes(b"")
    shard_path(tmp_path / "a-b.zip", 0, 1).write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"00000-of-00002\.zip is missing"):
        files_of(path)
    shards[0].write_bytes(b"")
    assert files_of(path) == shards
    path.write_bytes(b"")
    assert files_of(path) == [path]
