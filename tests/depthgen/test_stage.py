"""A stage goes on only with what it began, and says what differs."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from depthgen.archive import ArchiveWriter, shard_path
from depthgen.errors import StageError
from depthgen.files import write_atomically
from depthgen.stage import Manifest, archive_digest, files_digest, open_adding_stage, open_stage
from depthgen.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"seed": 0, "scale": (0.25, 0.55), "flip": True}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def run(
    workspace: Workspace,
    settings: dict[str, Any] | None = None,
    reads: dict[str, str] | None = None,
    overwrite: bool = False,
    finish: bool = True,
) -> bool:
    """Run a stage that makes `a.zip`; whether an earlier run had finished it."""
    output = workspace.archive("a")
    with open_stage(
        workspace,
        "make",
        SETTINGS if settings is None else settings,
        lambda: reads or {"bg": "1"},
        [output],
        overwrite,
    ) as stage:
        if stage.done:
            return True
        assert json.loads(workspace.manifest("make").read_text())["state"] == "running"
        output.unlink(missing_ok=True)
        with ArchiveWriter(output) as writer:
            writer.add("made", b"")
        if finish:
            stage.finish({"samples": 3}, ["a note"], quantity="depth")
    return False


def test_a_finished_stage_is_done_and_tells_what_it_did(workspace: Workspace) -> None:
    assert not run(workspace)
    assert run(workspace)
    with open_stage(
        workspace, "make", SETTINGS, lambda: {"bg": "1"}, [workspace.archive("a")]
    ) as stage:
        summary = stage.summary()
    assert summary.already_done
    assert summary.counts == {"samples": 3}
    assert summary.notes == ("a note",)
    manifest = Manifest.read(workspace.manifest("make"))
    assert manifest is not None
    assert manifest.facts == {"quantity": "depth"}
    assert manifest.versions["numpy"]
    assert not workspace.lock.exists()


def test_an_unfinished_stage_goes_on(workspace: Workspace) -> None:
    run(workspace, finish=False)
    assert not run(workspace)
    assert run(workspace)


def test_a_finished_stage_whose_output_is_gone_runs_again(workspace: Workspace) -> None:
    run(workspace)
    workspace.archive("a").unlink()
    assert not run(workspace)


@pytest.mark.parametrize("broken", [b"", b"no archive"])
def test_a_finished_archive_that_no_longer_opens_is_named(
    workspace: Workspace, broken: bytes
) -> None:
    run(workspace)
    workspace.archive("a").write_bytes(broken)
    with pytest.raises(StageError, match=r"a\.zip.*make it anew with --overwrite"):
        run(workspace)
    assert not run(workspace, overwrite=True)


@pytest.mark.parametrize("finish", [True, False])
def test_other_settings_are_named_with_both_values(workspace: Workspace, finish: bool) -> None:
    run(workspace, finish=finish)
    before = workspace.manifest("make").read_bytes()
    with pytest.raises(StageError, match=r"seed was 0, now 1.*--overwrite") as caught:
        run(workspace, SETTINGS | {"seed": 1})
    assert "flip" not in str(caught.value)
    with pytest.raises(StageError, match=r"extra was None, now 5; flip was True, now None"):
        run(workspace, {"seed": 0, "scale": [0.25, 0.55], "extra": 5})
    assert workspace.manifest("make").read_bytes() == before
    assert not workspace.lock.exists()


def test_a_refusal_names_the_command_of_a_stage_that_is_named_otherwise(
    workspace: Workspace,
) -> None:
    Manifest("depthmap_backgrounds", {"a": 1}, {}).write(workspace.manifest("depthmap_backgrounds"))
    told = r"^`depthmap` ran before .*depthmap_backgrounds\.json\): a was 1, now 2"
    with (
        pytest.raises(StageError, match=told),
        open_stage(workspace, "depthmap_backgrounds", {"a": 2}, dict, []),
    ):
        pass


def test_an_input_that_changed_is_named(workspace: Workspace) -> None:
    run(workspace, reads={"bg": "1", "fg": "2"})
    with pytest.raises(StageError, match="fg has changed since") as caught:
        run(workspace, reads={"bg": "1", "fg": "3"})
    assert "bg has" not in str(caught.value)
    with pytest.raises(StageError, match="fg is not read now; depth was not read then"):
        run(workspace, reads={"bg": "1", "depth": "4"})


def test_other_library_versions_are_only_warned_of(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    run(workspace, finish=False)
    path = workspace.manifest("make")
    path.write_text(path.read_text().replace('"numpy": "', '"numpy": "0.'))
    run(workspace)
    assert "goes on with" in caplog.text


def test_overwrite_deletes_what_was_made_shards_and_partial_files_included(
    workspace: Workspace,
) -> None:
    run(workspace)
    output = workspace.archive("a")
    made = [shard_path(output, 1, 3), output.with_name("a.zip.partial")]
    made.append(shard_path(output, 0, 2).with_name("a-00000-of-00002.zip.partial"))
    others = [output.with_name(name) for name in ("a_small.zip", "a-one-of-many.zip", "ba.zip")]
    for path in made + others:
        path.write_bytes(b"")
    assert not run(workspace, {"seed": 9}, overwrite=True)
    assert not any(path.exists() for path in made)
    assert all(path.exists() for path in others)
    assert run(workspace, {"seed": 9})


@pytest.mark.parametrize("name", ["a.zip", "a.zip.partial", "a-00000-of-00002.zip"])
def test_an_output_that_no_manifest_knows_is_refused(workspace: Workspace, name: str) -> None:
    workspace.root.mkdir()
    (workspace.root / name).write_bytes(b"somebody's")
    with pytest.raises(StageError, match=f"{name} is there, but no manifest"):
        run(workspace)
    assert (workspace.root / name).read_bytes() == b"somebody's"
    assert not workspace.manifest("make").exists()
    assert not run(workspace, overwrite=True)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"3", b"\xff\xfe", b"{}", b'{"stage": "make"}', b"[" * 10**5,
        b'{"stage": "make", "settings": 5, "reads": {}}',
        b'{"stage": "make", "settings": {}, "reads": null}',
        b'{"stage": "make", "settings": {}, "reads": {}, "strange": 1}',
        b'{"stage": "make", "settings": {}, "reads": {}, "counts": []}',
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_named_and_can_be_overwritten(
    workspace: Workspace, text: bytes
) -> None:
    path = workspace.manifest("make")
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(StageError, match=r"make\.json is not a manifest"):
        run(workspace)
    assert not run(workspace, overwrite=True)


def test_what_cannot_be_deleted_is_named(workspace: Workspace) -> None:
    (workspace.root / "a.zip").mkdir(parents=True)
    with pytest.raises(StageError, match=r"cannot delete .*a\.zip"):
        run(workspace, overwrite=True)


def test_an_adding_stage_refuses_no_difference(workspace: Workspace) -> None:
    for seed in (1, 2):
        with open_adding_stage(workspace, "crawl", {"seed": seed}) as stage:
            stage.finish({"pictures": seed})
    manifest = Manifest.read(workspace.manifest("crawl"))
    assert manifest is not None
    assert (manifest.settings, manifest.counts) == ({"seed": 2}, {"pictures": 2})


def test_a_stage_within_a_stage_is_refused(workspace: Workspace) -> None:
    with (
        open_adding_stage(workspace, "crawl", {}),
        pytest.raises(StageError, match="this very process"),
        open_adding_stage(workspace, "render", {}),
    ):
        pass


def test_an_archive_that_is_missing_is_asked_for_by_its_command(workspace: Workspace) -> None:
    with pytest.raises(StageError, match=r"bg\.zip is missing; run `depthgen crop` first"):
        archive_digest(workspace, "bg", "crop")
    with ArchiveWriter(workspace.archive("bg")) as writer:
        writer.add("bg/bg_000.jpg", b"1")
    assert len(archive_digest(workspace, "bg", "crop")) == 64


def test_files_digest_depends_on_names_and_contents(tmp_path: Path) -> None:
    digests = set()
    for name, data in (("a", b"1"), ("a", b"2"), ("b", b"1")):
        (tmp_path / name).write_bytes(data)
        digests.add(files_digest([tmp_path / name]))
    assert len(digests) == 3
    expected = hashlib.sha256(b"b\0001\0" + hashlib.sha256(b"1").digest()).hexdigest()
    assert expected in digests


def test_write_atomically_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for data in (b"old", b"new and longer"):
        write_atomically(tmp_path / "folder" / "file", data)
    assert (tmp_path / "folder" / "file").read_bytes() == b"new and longer"
    assert len(list((tmp_path / "folder").iterdir())) == 1


def test_write_atomically_names_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    for path in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(StageError, match=path.name):
            write_atomically(path, b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
