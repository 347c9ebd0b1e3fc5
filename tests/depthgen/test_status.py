"""What status says at each point of the chain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from depthgen.archive import Archive, ArchiveWriter, shard_path
from depthgen.composite import CompositeOptions
from depthgen.lock import hold_lock
from depthgen.prepare.crop import CropOptions
from depthgen.retype import retype
from depthgen.sources.crawl import CrawlOptions
from depthgen.sources.studio import RenderOptions
from depthgen.stage import Manifest
from depthgen.status import last_number, status
from depthgen.workspace import Member, Workspace, sample_member


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def put_sources(workspace: Workspace) -> None:
    for kind in ("bg", "fg"):
        folder = workspace.root / "sources" / kind
        folder.mkdir(parents=True)
        (folder / f"{kind}_000.png").write_bytes(b"")


def finish(workspace: Workspace, stage: str, *archives: str, **reads: str) -> None:
    for name in archives:
        with ArchiveWriter(workspace.archive(name)) as writer:
            writer.add(f"{name}/{name}_000.png", stage.encode())
    digests = {f"{name}.zip": digest for name, digest in reads.items()}
    Manifest(stage, {"size": 8}, digests, "done", counts={stage: 3}, finished="2026").write(
        workspace.manifest(stage)
    )


def state(workspace: Workspace, stage: str) -> str:
    return next(each.state for each in status(workspace).stages if each.stage == stage)


def typed(workspace: Workspace, command: str) -> str:
    return f"depthgen -w {workspace.root} {command}"


def test_the_next_command_walks_along_the_chain(workspace: Workspace) -> None:
    assert " crawl --source folder --kind fg" in status(workspace).next_command
    put_sources(workspace)
    steps = {
        "mask": ("fg", "fg_mask"),
        "crop": ("bg", "bg_depth"),
        "composite": ("fg_bg", "fg_bg_mask"),
        "depthmap": ("depth_fg_bg",),
        "stats": (),
    }
    for stage, archives in steps.items():
        assert status(workspace).next_command == typed(workspace, stage)
        finish(workspace, stage, *archives)
        if stage == "stats":
            assert state(workspace, stage) == "unfinished"
            workspace.stats.write_bytes(b"{}")
        assert state(workspace, stage) == "done"
    assert status(workspace).next_command.startswith(typed(workspace, "train "))


def test_the_last_command_names_a_configuration_only_if_there_is_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sources(workspace)
    for stage in ("mask", "crop", "composite", "depthmap", "stats"):
        finish(workspace, stage)
    workspace.stats.write_bytes(b"{}")
    for archive in ("fg", "fg_mask", "bg", "fg_bg", "fg_bg_mask", "depth_fg_bg"):
        with ArchiveWriter(workspace.archive(archive)) as writer:
            writer.add("x", b"")
    monkeypatch.chdir(workspace.root)
    assert status(workspace).next_command == typed(workspace, "train CONFIG.yaml")
    assert status(Workspace("data")).next_command.startswith("depthgen crawl ")
    assert 'see the manual, "Training"' in status(workspace).text()
    (workspace.root / "configs").mkdir()
    (workspace.root / "configs" / "small.yaml").write_bytes(b"")
    assert status(workspace).next_command == typed(workspace, "train configs/small.yaml")
    assert "manual" not in status(workspace).text()


def test_pictures_that_came_after_a_stage_make_it_stale(workspace: Workspace) -> None:
    put_sources(workspace)
    for stage, archives in (("mask", ("fg", "fg_mask")), ("crop", ("bg",))):
        finish(workspace, stage, *archives)
        path = workspace.manifest(stage)
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"counts": {archives[0]: 1}}))
        assert state(workspace, stage) == "done"
    (workspace.sources("bg") / "bg_001.png").write_bytes(b"")
    (workspace.sources("bg") / "bg_002.old").mkdir()
    assert status(workspace).sources["bg"] == 2
    assert "1 new picture" in status(workspace).text()
    assert status(workspace).next_command == typed(workspace, "crop --size 8 --overwrite")
    (workspace.sources("fg") / "fg_001.png").write_bytes(b"")
    (workspace.sources("fg") / "fg_002.png").write_bytes(b"")
    assert "2 new pictures" in status(workspace).text()
    assert status(workspace).next_command == typed(workspace, "mask --overwrite")
    for path in workspace.sources("fg").iterdir():
        path.unlink()
    assert state(workspace, "mask") == "done"


def test_a_stage_that_was_stopped_is_typed_again_with_its_options(workspace: Workspace) -> None:
    put_sources(workspace)
    wanted = {"bg": 9, "fg": 100, "size": 64, "seed": 0}
    Manifest("render", wanted, {}).write(workspace.manifest("render"))
    assert status(workspace).next_command == typed(workspace, "render --bg 9 --size 64")
    Manifest("render", wanted, {}, "done").write(workspace.manifest("render"))
    crawl = {"source": "folder", "kind": "bg", "origin": "my rooms", "count": 3, "dedupe": True}
    Manifest("crawl_bg", crawl, {}).write(workspace.manifest("crawl_bg"))
    told = "crawl --source folder --kind bg --from 'my rooms' --count 3 --dedupe"
    assert status(workspace).next_command == typed(workspace, told)
    finish(workspace, "mask", "fg", "fg_mask")
    finish(workspace, "crop", "bg")
    for stage, kind in (("mask", "fg"), ("crop", "bg")):
        record = json.loads(workspace.manifest(stage).read_text()) | {"counts": {kind: 1}}
        workspace.manifest(stage).write_text(json.dumps(record))
    made = {"bg": 1, "fg": 1, "placements": 3, "flip": False, "scale": [0.5, 0.5], "seed": 7}
    options = "--placements 3 --no-flip --scale 0.5 0.5 --seed 7"
    Manifest("composite", made, {}).write(workspace.manifest("composite"))
    assert status(workspace).next_command == typed(workspace, f"composite {options}")
    Manifest("composite", made | {"fg": 2}, {}).write(workspace.manifest("composite"))
    told = f"composite --bg 1 --fg 2 {options}"
    assert status(workspace).next_command == typed(workspace, told)
    Manifest("composite", made | {"fg": 2}, {"bg.zip": ""}).write(workspace.manifest("composite"))
    told = f"composite {options} --overwrite"
    assert status(workspace).next_command == typed(workspace, told)


def test_every_option_of_a_manifest_can_be_typed_again() -> None:
    options = {
        "render": RenderOptions(),
        "crop": CropOptions(),
        "composite": CompositeOptions(),
        "crawl": CrawlOptions(),
    }
    for stage, values in options.items():
        settings = vars(values) | {"kind": ""}
        said = retype(Path("data"), stage, json.loads(json.dumps(settings)))
        assert said == f"depthgen {stage}"


def test_a_crawl_can_be_typed_again_but_for_what_is_secret() -> None:
    values: dict[str, Any] = {
        "source": "flickr",
        "kind": "fg",
        "keywords": ("polar bear", "cat"),
        "license": "commercial",
        "flickr_key": "mine",
        "count": 7,
        "max_bytes": 1000,
        "deadline_s": 60.0,
        "allow_private": True,
    }
    settings = json.loads(json.dumps(CrawlOptions(**values).settings()))
    assert retype(Path("data"), "crawl_fg", settings) == (
        "depthgen crawl --source flickr --kind fg --keyword 'polar bear' --keyword cat --count 7 "
        "--license commercial --max-bytes 1000 --deadline 60.0 --allow-private"
    )


def test_labels_can_be_made_of_backgrounds_without_depth(workspace: Workspace) -> None:
    put_sources(workspace)
    finish(workspace, "mask", "fg", "fg_mask")
    finish(workspace, "crop", "bg")
    finish(workspace, "composite", "fg_bg", "fg_bg_mask")
    assert status(workspace).next_command == typed(workspace, "depthmap")


def test_labels_whose_backgrounds_were_stopped_go_on_with_their_network(
    workspace: Workspace,
) -> None:
    put_sources(workspace)
    finish(workspace, "mask", "fg", "fg_mask")
    finish(workspace, "crop", "bg")
    finish(workspace, "composite", "fg_bg", "fg_bg_mask")
    over = {"bg_model": "glpn-nyu", "weights": "d", "given": {}}
    stage = workspace.manifest("depthmap_backgrounds")
    told = typed(workspace, "depthmap --model layered --bg-model glpn-nyu --bits 16")
    for state_now in ("running", "done"):
        Manifest("depthmap_backgrounds", over, {}, state_now, facts={"bits": 16}).write(stage)
        assert status(workspace).next_command == told
    Manifest("depthmap_backgrounds", over, {"bg.zip": "other"}, facts={"bits": 16}).write(stage)
    assert status(workspace).next_command == f"{told} --overwrite"
    Manifest("depthmap_backgrounds", over, {}, facts={"bits": 16}).write(stage)
    finish(workspace, "depthmap", "depth_fg_bg")
    assert status(workspace).next_command == f"{told} --overwrite"
    labels = {"model": "layered", "bits": 16, **over}
    Manifest("depthmap", labels, {}, "done").write(workspace.manifest("depthmap"))
    assert status(workspace).next_command == told
    Manifest("depthmap_backgrounds", over, {}, "done", facts={"bits": 16}).write(stage)
    assert status(workspace).next_command == typed(workspace, "stats")


@pytest.mark.parametrize("stage", ["depthmap", "depthmap_backgrounds"])
def test_weights_that_were_typed_are_to_be_typed_again(workspace: Workspace, stage: str) -> None:
    put_sources(workspace)
    finish(workspace, "mask", "fg", "fg_mask")
    finish(workspace, "crop", "bg")
    finish(workspace, "composite", "fg_bg", "fg_bg_mask")
    name = "bg_model" if stage == "depthmap_backgrounds" else "model"
    over = "--model layered --bg-model" if stage == "depthmap_backgrounds" else "--model"
    for kept, told in (({"weights_typed": "FILE"}, " --weights FILE"), ({}, "")):
        manifest = Manifest(stage, {name: "densedepth"}, {}, facts={"bits": 8, **kept})
        manifest.write(workspace.manifest(stage))
        assert status(workspace).next_command == typed(
            workspace, f"depthmap {over} densedepth{told}"
        )


def test_an_archive_that_cannot_be_read_is_made_anew(workspace: Workspace) -> None:
    put_sources(workspace)
    finish(workspace, "mask", "fg", "fg_mask")
    workspace.archive("fg_mask").write_bytes(b"")
    assert state(workspace, "mask") == "damaged"
    assert "fg_mask.zip cannot be read" in status(workspace).text()
    assert status(workspace).next_command == typed(workspace, "mask --overwrite")


def test_lost_depth_is_told(workspace: Workspace) -> None:
    finish(workspace, "crop", "bg", "bg_depth")
    record = json.loads(workspace.manifest("crop").read_text())
    workspace.manifest("crop").write_text(json.dumps(record | {"counts": {"bg_depth": 1}}))
    assert state(workspace, "crop") == "done"
    workspace.archive("bg_depth").unlink()
    assert "bg_depth.zip is gone" in status(workspace).text()


def test_depth_that_came_after_crop_makes_it_stale(workspace: Workspace) -> None:
    put_sources(workspace)
    finish(workspace, "crop", "bg")
    path = workspace.manifest("crop")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"counts": {"bg": 1}}))
    assert state(workspace, "crop") == "done"
    workspace.sources("bg_depth").mkdir()
    (workspace.sources("bg_depth") / "bg_000.npy").write_bytes(b"")
    assert state(workspace, "crop") == "stale"


def test_a_partial_that_is_finished_just_now_is_no_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    Manifest("mask", {}, {}).write(workspace.manifest("mask"))
    for name in ("fg", "fg_mask"):
        workspace.archive(name).with_suffix(".zip.partial").write_bytes(b"")

    def finished(partial: Path) -> int | None:
        partial.unlink()
        raise FileNotFoundError

    monkeypatch.setattr("depthgen.status.last_number", finished)
    assert state(workspace, "mask") == "unfinished"


def test_an_archive_that_lacks_a_shard_is_not_done(workspace: Workspace) -> None:
    finish(workspace, "crop", "bg")
    workspace.archive("bg").rename(shard_path(workspace.archive("bg"), 0, 2))
    assert state(workspace, "crop") == "unfinished"


def test_asking_for_the_status_does_not_free_the_workspace(workspace: Workspace) -> None:
    code = (
        "import sys, pathlib; from depthgen.lock import hold_lock\n"
        "with hold_lock(pathlib.Path(sys.argv[1])): pass"
    )
    with hold_lock(workspace.lock):
        assert status(workspace).lock.startswith(f"process {os.getpid()} on ")
        command = [sys.executable, "-c", code, str(workspace.lock)]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "is in use by process" in other.stderr


def test_a_finished_stage_shows_counts_settings_and_time(workspace: Workspace) -> None:
    put_sources(workspace)
    finish(workspace, "mask", "fg", "fg_mask")
    report = status(workspace)
    mask = next(each for each in report.stages if each.stage == "mask")
    assert (mask.counts, mask.settings, mask.finished) == ({"mask": 3}, {"size": 8}, "2026")
    assert json.loads(json.dumps(report.to_json()))["sources"] == {"bg": 1, "fg": 1, "bg_depth": 0}
    assert "mask 3, 2026" in report.text()


def test_a_stage_whose_input_changed_is_stale(workspace: Workspace) -> None:
    put_sources(workspace)
    finish(workspace, "mask", "fg", "fg_mask")
    finish(workspace, "crop", "bg")
    with Archive(workspace.archive("bg")) as archive:
        digest = archive.digest()
    finish(workspace, "composite", "fg_bg", "fg_bg_mask", bg=digest)
    assert state(workspace, "composite") == "done"
    finish(workspace, "composite", bg="0" * 64)
    assert state(workspace, "composite") == "stale"
    assert status(workspace).next_command == typed(workspace, "composite --overwrite")


def test_a_lost_archive_and_a_damaged_manifest_are_told(workspace: Workspace) -> None:
    finish(workspace, "mask", "fg", "fg_mask")
    workspace.archive("fg_mask").unlink()
    assert state(workspace, "mask") == "unfinished"
    workspace.manifest("crop").write_text("{")
    assert state(workspace, "crop") == "damaged"


def test_a_partial_archive_says_how_far_it_is(workspace: Workspace) -> None:
    settings = {"bg": 2, "fg": 3, "placements": 5, "flip": True}
    Manifest("composite", settings, {}).write(workspace.manifest("composite"))
    writer = ArchiveWriter(workspace.archive("fg_bg"))
    for index in range(7):
        writer.add(sample_member("fg_bg", Member(0, 0, index), ".jpg"), b"PK\3\4" + bytes(40))
    writer.add("labels/bg_000_label_info.txt", b"")
    writer.suspend()
    assert last_number(writer.partial) == 6
    composite = next(each for each in status(workspace).stages if each.stage == "composite")
    assert composite.state == "unfinished"
    assert composite.progress["fg_bg.zip.partial"].startswith("at number 6 of 60")


def test_an_empty_partial_has_no_number(tmp_path: Path) -> None:
    partial = tmp_path / "x.zip.partial"
    partial.write_bytes(b"")
    assert last_number(partial) is None


def test_the_holder_of_the_lock_is_named_and_a_dead_one_is_not(workspace: Workspace) -> None:
    assert status(workspace).lock == ""
    code = (
        "import sys, pathlib; from depthgen.lock import hold_lock\n"
        "with hold_lock(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(workspace.lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert status(workspace).lock.startswith(f"process {holder.pid} on ")
        holder.kill()
        holder.wait()
    assert workspace.lock.exists()
    assert status(workspace).lock == ""
    with hold_lock(workspace.lock):
        assert str(os.getpid()) in workspace.lock.read_text()


def test_other_stages_and_runs_are_listed(workspace: Workspace) -> None:
    finish(workspace, "crawl_fg")
    finish(workspace, "resize_bg_small", "bg_small")
    workspace.run_folder("first").mkdir(parents=True)
    report = status(workspace)
    names = [each.stage for each in report.stages]
    assert (names[0], names[-1]) == ("crawl_fg", "resize_bg_small")
    assert report.runs == ("first",)


def test_nothing_heavy_is_loaded() -> None:
    code = "import sys, depthgen.status; print({'torch', 'cv2', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
