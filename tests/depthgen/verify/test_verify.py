"""Everything that can be wrong in a workspace is named."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from depthgen.archive import ArchiveWriter
from depthgen.errors import StageError
from depthgen.images import encode_jpeg, encode_mask, encode_png
from depthgen.stage import Manifest
from depthgen.verify import VerifyOptions, VerifyReport, run
from depthgen.workspace import (
    DEPTH_INFO_MEMBER,
    Layout,
    Member,
    Workspace,
    labels_member,
    picture_member,
    sample_member,
)

if TYPE_CHECKING:
    from pathlib import Path

_LAYOUT = Layout(n_bg=2, n_fg=2, placements=1)
_SIDE = 16
_SUFFIXES = {"fg_bg": ".jpg", "fg_bg_mask": ".png", "depth_fg_bg": ".png"}
Contents = dict[str, dict[str, bytes]]


def encoded(name: str, side: int = _SIDE) -> bytes:
    grey = np.full((side, side), 99, np.uint8)
    if name in ("fg_bg_mask", "fg_mask"):
        return encode_mask(grey)
    if name in ("depth_fg_bg", "bg_depth"):
        return encode_png(grey)
    if name == "fg":
        return encode_png(np.full((side, side, 4), 99, np.uint8))
    return encode_jpeg(np.full((side, side, 3), 99, np.uint8), 90)


def table(bg: int) -> bytes:
    lines = []
    for index in range(bg * _LAYOUT.per_background, (bg + 1) * _LAYOUT.per_background):
        sample = _LAYOUT.sample(index)
        member = Member(sample.fg, sample.bg, index)
        names = (sample_member(n, member, _SUFFIXES[n]) for n in ("fg_bg", "fg_bg_mask"))
        lines.append("\t".join((*names, "1", "2", "5", "6", str(sample.flip), "0.3")) + "\n")
    return "".join(lines).encode()


def whole() -> Contents:
    """Every archive of a small set, as it should be."""
    contents: Contents = {name: {} for name in ("bg", "fg", "fg_mask", *_SUFFIXES)}
    for number in range(2):
        contents["bg"][picture_member("bg", "bg", number, ".jpg")] = encoded("bg")
        for name in ("fg", "fg_mask"):
            contents[name][picture_member(name, "fg", number, ".png")] = encoded(name, 9)
    for name, suffix in _SUFFIXES.items():
        for index in range(_LAYOUT.samples):
            sample = _LAYOUT.sample(index)
            member = sample_member(name, Member(sample.fg, sample.bg, index), suffix)
            contents[name][member] = encoded(name)
    for bg in range(2):
        contents["fg_bg"][labels_member(bg)] = table(bg)
    contents["depth_fg_bg"][DEPTH_INFO_MEMBER] = b"{}"
    return contents


def build(workspace: Workspace, contents: Contents, manifest: bool = True) -> None:
    for name, members in contents.items():
        with ArchiveWriter(workspace.archive(name)) as writer:
            for member, data in members.items():
                writer.add(member, data)
    if manifest:
        facts = {"layout": vars(_LAYOUT), "side": _SIDE}
        Manifest("composite", {}, {}, state="done", facts=facts).write(
            workspace.manifest("composite")
        )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def verified(workspace: Workspace) -> VerifyReport:
    return run(workspace, VerifyOptions(workers=1))


def only_problem(workspace: Workspace) -> str:
    report = verified(workspace)
    assert report.total == 1, report.text()
    return str(report.findings[0])


def sample(name: str, index: int) -> str:
    each = _LAYOUT.sample(index)
    return sample_member(name, Member(each.fg, each.bg, index), _SUFFIXES[name])


def test_a_whole_workspace_is_clean_for_any_number_of_workers(workspace: Workspace) -> None:
    build(workspace, whole())
    report = verified(workspace)
    assert report.ok, report.text()
    assert report.counts["fg_bg"] == _LAYOUT.samples + 2
    assert run(workspace, VerifyOptions(workers=2)) == report
    assert json.loads(json.dumps(report.to_json()))["ok"]


def test_a_flipped_bit_is_named(workspace: Workspace) -> None:
    build(workspace, whole())
    path = workspace.archive("fg_bg")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(sample("fg_bg", 5))
    data[info.header_offset + 200 + len(info.filename)] ^= 1
    path.write_bytes(data)
    problem = only_problem(workspace)
    assert sample("fg_bg", 5) in problem
    assert "checksum" in problem


@pytest.mark.parametrize("name", list(_SUFFIXES))
def test_a_missing_sample_is_named(workspace: Workspace, name: str) -> None:
    contents = whole()
    del contents[name][sample(name, 3)]
    build(workspace, contents)
    assert only_problem(workspace) == f"{name}: it lacks 1 samples (3)"


def test_a_doubled_and_a_strange_sample_are_named(workspace: Workspace) -> None:
    contents = whole()
    data = encoded("fg_bg_mask")
    contents["fg_bg_mask"][sample("fg_bg_mask", 3).replace(".png", ".jpg")] = data
    contents["fg_bg_mask"][sample_member("fg_bg_mask", Member(1, 1, 77), ".png")] = data
    build(workspace, contents)
    text = verified(workspace).text()
    assert "doubles 1 samples (3)" in text
    assert "beyond the 8 there should be, 1 samples (77)" in text


def test_a_sample_of_another_pair_is_named(workspace: Workspace) -> None:
    contents = whole()
    masks = contents["fg_bg_mask"]
    masks[sample_member("fg_bg_mask", Member(0, 0, 3), ".png")] = masks.pop(sample("fg_bg_mask", 3))
    build(workspace, contents)
    assert "another background or cut-out" in only_problem(workspace)


def test_a_picture_that_does_not_decode_or_has_another_size_is_named(workspace: Workspace) -> None:
    contents = whole()
    contents["fg_bg"][sample("fg_bg", 1)] = encoded("fg_bg")[:-40]
    contents["depth_fg_bg"][sample("depth_fg_bg", 2)] = encoded("depth_fg_bg", 8)
    contents["bg"]["bg/bg_001.jpg"] = b"text"
    build(workspace, contents)
    report = verified(workspace)
    assert report.total == 3, report.text()
    found = {finding.member: finding.problem for finding in report.findings}
    assert sample("fg_bg", 1) in found
    assert found[sample("depth_fg_bg", 2)] == "it is 8 × 8 px, not 16 × 16"
    assert "not a picture" in found["bg/bg_001.jpg"]


def test_wrong_tables_are_named(workspace: Workspace) -> None:
    contents = whole()
    tables = contents["fg_bg"]
    tables[labels_member(0)] = table(0)[: len(table(0)) // 2]
    del tables[labels_member(1)]
    build(workspace, contents)
    text = verified(workspace).text()
    assert "lines for 4 samples" in text
    assert "lacks 1 tables of backgrounds (1)" in text


@pytest.mark.parametrize(
    ("old", "new"), [(b"\t1\t2\t5", b"\t14\t2\t5"), (b"000001", b"000007"), (b"\t0.3\n", b"\n")]
)
def test_a_wrong_line_in_a_table_is_named(workspace: Workspace, old: bytes, new: bytes) -> None:
    contents = whole()
    contents["fg_bg"][labels_member(0)] = table(0).replace(old, new)
    build(workspace, contents)
    assert "line " in only_problem(workspace)


def test_masks_of_another_size_than_their_cut_out_are_named(workspace: Workspace) -> None:
    contents = whole()
    contents["fg_mask"]["fg_mask/fg_001.png"] = encoded("fg_mask", 8)
    build(workspace, contents)
    assert only_problem(workspace) == "fg_mask: 1 cut-outs have no mask of their size (1)"


def test_truncated_unfinished_and_missing_archives_are_named(workspace: Workspace) -> None:
    build(workspace, whole())
    path = workspace.archive("depth_fg_bg")
    path.write_bytes(path.read_bytes()[:-100])
    workspace.archive("fg_bg_mask").unlink()
    path.with_name("fg_bg_mask.zip.partial").write_bytes(b"")
    archives = [finding.archive for finding in verified(workspace).findings]
    assert sorted(archives) == ["depth_fg_bg", "fg_bg_mask", "fg_bg_mask.zip.partial"]


def test_an_unfinished_stage_and_changed_input_are_named(workspace: Workspace) -> None:
    build(workspace, whole())
    Manifest("depthmap", {}, {"fg_bg_mask.zip": "0" * 64}).write(workspace.manifest("depthmap"))
    text = verified(workspace).text()
    assert "the stage is unfinished" in text
    assert "read another fg_bg_mask.zip" in text


def test_without_a_manifest_the_archives_are_compared_with_each_other(workspace: Workspace) -> None:
    contents = whole()
    del contents["depth_fg_bg"][sample("depth_fg_bg", 3)]
    build(workspace, contents, manifest=False)
    assert only_problem(workspace) == ("depth_fg_bg: 1 samples are not in both it and fg_bg (3)")


def test_resized_archives_are_checked_too(workspace: Workspace) -> None:
    contents = whole()
    contents["fg_bg_mask_small"] = {
        sample("fg_bg_mask", index): encoded("fg_bg_mask", 8) for index in range(1, 8)
    }
    build(workspace, contents)
    Manifest("resize_fg_bg_mask_small", {"size": 8}, {}, state="done").write(
        workspace.manifest("resize_fg_bg_mask_small")
    )
    assert only_problem(workspace) == "fg_bg_mask_small: it lacks 1 samples (0)"


def test_many_findings_are_counted_and_the_first_told(workspace: Workspace) -> None:
    build(workspace, {"bg": {f"bg/picture_{number}.jpg": b"" for number in range(150)}}, False)
    report = verified(workspace)
    assert report.total == 150
    assert len(report.findings) == 100
    assert report.text().endswith("and 50 more")


@pytest.mark.parametrize(
    ("stage", "name"),
    [("crop", "bg"), ("crop", "bg_depth"), ("mask", "fg"), ("mask", "fg_mask")],
)
def test_a_picture_lost_at_the_end_is_named(workspace: Workspace, stage: str, name: str) -> None:
    contents = whole()
    contents["bg_depth"] = {
        picture_member("bg_depth", "bg", number, ".png"): encoded("bg_depth") for number in range(2)
    }
    contents[name].popitem()
    build(workspace, contents)
    counts = {"bg": 2, "bg_depth": 2} if stage == "crop" else {"fg": 2, "fg_mask": 2}
    Manifest(stage, {}, {}, "done", counts=counts).write(workspace.manifest(stage))
    assert f"{name}: it lacks 1 pictures (1)" in verified(workspace).text()


def test_a_resized_picture_lost_at_the_end_is_named(workspace: Workspace) -> None:
    contents = whole()
    contents["bg_small"] = {"bg/bg_000.jpg": encoded("bg", 8)}
    build(workspace, contents)
    Manifest("resize_bg_small", {"size": 8}, {}, "done", counts={"bg_small": 2}).write(
        workspace.manifest("resize_bg_small")
    )
    assert only_problem(workspace) == "bg_small: it lacks 1 pictures (1)"


def test_pictures_that_came_later_are_a_note(workspace: Workspace) -> None:
    build(workspace, whole())
    Manifest("mask", {}, {}, "done", counts={"fg": 2, "fg_mask": 2}).write(
        workspace.manifest("mask")
    )
    workspace.sources("fg").mkdir(parents=True)
    for number in range(3):
        (workspace.sources("fg") / f"fg_{number:03d}.png").write_bytes(b"")
    report = verified(workspace)
    assert report.ok
    note = "1 new picture in sources since `mask` ran; `depthgen mask --overwrite` takes them"
    assert report.to_json()["notes"] == [note]
    assert note in report.text()


def test_an_empty_workspace_is_an_error(workspace: Workspace) -> None:
    with pytest.raises(StageError, match="no archive to verify"):
        verified(workspace)
