"""Layered labels, against a loop over pixels and NumPy's own percentile."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthgen import images
from depthgen.archive import Archive, ArchiveWriter, shard_path
from depthgen.depth import DepthmapOptions, layered_plan, prepare, run
from depthgen.depth.layered import LayeredLabeller, backgrounds_with_depth, plane_depth
from depthgen.depth.quantity import quantise, to_metres
from depthgen.errors import OptionsError, StageError
from depthgen.workspace import DEPTH_INFO_MEMBER, Member, Workspace, sample_member
from tests.depthgen.depth.clock import Clock
from tests.depthgen.depth.composites import flip_a_bit

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 24


def brute_force_plane(mask: NDArray[np.bool_], depth: NDArray[np.float64]) -> float:
    rows = [y for y in range(mask.shape[0]) if any(mask[y])]
    under = [depth[rows[-1], x] for x in range(mask.shape[1]) if mask[rows[-1], x]]
    covered = [depth[y, x] for y, x in np.ndindex(*mask.shape) if mask[y, x]]
    return min(float(np.median(under)), float(np.percentile(covered, 5)))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), share=st.floats(0.01, 1))
def test_the_plane_is_the_nearer_of_contact_and_cover(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((9, 7)) < share
    mask[random.integers(9), random.integers(7)] = True
    depth = random.uniform(0.5, 9, mask.shape)
    assert plane_depth(mask, depth) == pytest.approx(brute_force_plane(mask, depth), rel=1e-12)


def test_an_object_on_the_floor_stands_where_its_feet_are() -> None:
    floor = np.repeat(np.linspace(8, 2, SIDE)[:, None], SIDE, axis=1)  # nearer further down
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:15, 8:12] = True
    assert plane_depth(mask, floor) == floor[14, 8]


def test_labels_are_metres_over_ten_clipped_and_floored() -> None:
    metres = np.array([0.0, 0.05, 0.1, 1.0, 4.2, 9.999, 10.0, 30.0])
    expected = [int(255 * min(max(z / 10, 0.01), 1.0)) for z in metres]
    assert quantise(metres, 8).tolist() == expected
    wide = quantise(metres, 16)
    assert wide.dtype == np.uint16
    assert wide.tolist() == [int(65535 * min(max(z / 10, 0.01), 1.0)) for z in metres]


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint8, 16), (np.uint16, 16)])
def test_a_stored_depth_comes_out_as_it_went_in(dtype: Any, bits: int) -> None:
    if dtype is np.uint8:
        stored = np.arange(3, 256).astype(np.uint8)
        wanted = stored.astype(int) * (1 if bits == 8 else 257)
    else:
        stored = np.arange(100, 10_001).astype(np.uint16)
        wanted = stored.astype(int) * 65535 // 10_000  # exact in integers
    assert quantise(to_metres(stored, "x"), bits).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("stored", "metres"),
    [
        (np.array([[1234]], np.uint16), 1.234),
        (np.array([[51]], np.uint8), 2.0),
        (np.array([[3.5]], np.float32), 3.5),
    ],
)
def test_background_depth_is_read_in_its_own_unit(stored: NDArray[Any], metres: float) -> None:
    assert to_metres(stored, "x")[0, 0] == pytest.approx(metres)


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf, -1.0])
def test_a_background_depth_with_holes_is_refused_by_name(hole: float) -> None:
    with pytest.raises(images.ImageError, match=r"bg_003.*1 pixels without a depth"):
        to_metres(np.array([[hole, 1.0]], np.float32), "bg_003")


def make_workspace(root: Path, backgrounds: int = 2, samples: int = 7) -> Workspace:
    workspace = Workspace(root)
    random = np.random.default_rng(0)
    with ArchiveWriter(workspace.archive("bg_depth")) as depths:
        for bg in range(backgrounds):
            depth = random.integers(500, 12000, (SIDE, SIDE), np.uint16)
            depths.add(f"bg_depth/bg_{bg:03d}.png", images.encode_png(depth))
    with ArchiveWriter(workspace.archive("fg_bg_mask")) as masks:
        for index in range(backgrounds * samples):
            mask = random.random((SIDE, SIDE)) < 0.2
            if index == 3:
                mask[...] = False
            member = Member(fg=0, bg=index // samples, index=index)
            masks.add(sample_member("fg_bg_mask", member, ".png"), images.encode_mask(mask))
    return workspace


@pytest.mark.parametrize("bits", [8, 16])
def test_every_label_equals_the_formula_pixel_by_pixel(tmp_path: Path, bits: int) -> None:
    workspace = make_workspace(tmp_path)
    summary = run(workspace, DepthmapOptions(batch=3, bits=bits, workers=1))
    assert summary.counts == {"samples": 14}
    with (
        zipfile.ZipFile(workspace.archive("depth_fg_bg")) as labels,
        zipfile.ZipFile(workspace.archive("fg_bg_mask")) as masks,
        zipfile.ZipFile(workspace.archive("bg_depth")) as depths,
    ):
        for name in masks.namelist():
            bg = name.split("/")[1]
            mask = np.asarray(Image.open(io.BytesIO(masks.read(name))).convert("L")) > 0
            depth = np.asarray(Image.open(io.BytesIO(depths.read(f"bg_depth/{bg}.png")))) / 1000
            wanted = depth.copy()
            if mask.any():
                plane = brute_force_plane(mask, depth)
                wanted[mask] = np.minimum(plane, depth[mask])
            wanted = np.floor((2**bits - 1) * np.clip(wanted / 10, 0.01, 1))
            path = name.replace("fg_bg_mask/", "depth_fg_bg/").replace("_mask_", "_depth_")
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(labels.read(path)))), wanted)


def test_the_archive_says_what_its_numbers_are(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    run(workspace, DepthmapOptions(workers=1))
    with Archive(workspace.archive("depth_fg_bg")) as archive:
        info = json.loads(bytes(archive[DEPTH_INFO_MEMBER]))
    assert info == {
        "quantity": "depth_m",
        "scale_m": 10.0,
        "bits": 8,
        "model": "layered",
        "size": SIDE,
        "full_scale": 1.0,
        "weights": "",
        "precision": "",
    }
    manifest = json.loads(workspace.manifest("depthmap").read_text())
    assert manifest["state"] == "done"
    assert manifest["facts"] == info


def test_batches_and_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    made = []
    for number, (batch, workers) in enumerate([(1000, 1), (1, 1), (4, 2)]):
        workspace = make_workspace(tmp_path / str(number))
        run(workspace, DepthmapOptions(batch=batch, workers=workers))
        made.append(workspace.archive("depth_fg_bg").read_bytes())
    assert made[0] == made[1] == made[2]


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = make_workspace(tmp_path / "whole")
    run(whole, DepthmapOptions(batch=2, workers=1))
    stopped = make_workspace(tmp_path / "stopped")

    def stop_in_the_middle(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stopped, DepthmapOptions(batch=2, workers=1), stop_in_the_middle)
    assert not stopped.archive("depth_fg_bg").exists()
    seen: list[int] = []
    run(stopped, DepthmapOptions(batch=2, workers=1), lambda done, total: seen.append(done))
    assert seen[0] == 6
    assert stopped.archive("depth_fg_bg").read_bytes() == whole.archive("depth_fg_bg").read_bytes()


def test_a_background_without_depth_is_named_with_what_to_do(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    workspace.archive("bg_depth").unlink()
    with ArchiveWriter(workspace.archive("bg_depth")) as depths:
        depth = np.full((SIDE, SIDE), 3000, np.uint16)
        depths.add("bg_depth/bg_000.png", images.encode_png(depth))
    with pytest.raises(StageError, match=r"1 backgrounds .*bg_001.*depthgen render"):
        run(workspace, DepthmapOptions(model="layered", workers=1))


def test_depth_in_shards_and_under_other_names_gives_the_same_labels(tmp_path: Path) -> None:
    whole, other = make_workspace(tmp_path / "whole"), make_workspace(tmp_path / "other")
    run(whole, DepthmapOptions(workers=1))
    path = other.archive("bg_depth")
    with Archive(path) as archive:
        depths = [bytes(data) for data in archive]
    path.unlink()
    for shard, name in enumerate(("bg_0000.png", "depths/bg_001.png")):
        with ArchiveWriter(shard_path(path, shard, 2)) as writer:
            writer.add(name, depths[shard])
            writer.add(f"bg_{shard:03d}.txt", b"a note")
            writer.add(f"fg_{shard + 5:03d}.png", b"no background")
    assert backgrounds_with_depth(other) == {0, 1}
    run(other, DepthmapOptions(workers=1))
    assert other.archive("depth_fg_bg").read_bytes() == whole.archive("depth_fg_bg").read_bytes()


@pytest.mark.parametrize(
    ("archive", "index", "command"), [("fg_bg_mask", 9, "composite"), ("bg_depth", 1, "crop")]
)
def test_a_damaged_member_that_still_decodes_is_not_labelled_from(
    tmp_path: Path, archive: str, index: int, command: str
) -> None:
    workspace = make_workspace(tmp_path)
    path = workspace.archive("bg_depth")
    path.unlink()
    with ArchiveWriter(path) as depths:
        for bg in range(2):
            depth = np.full((SIDE, SIDE), 3.0, np.float32)
            depths.add(f"bg_depth/bg_{bg:03d}.npy", images.encode_depth(depth))
    name, _ = flip_a_bit(workspace.archive(archive), index)
    told = rf"{archive}\.zip: {name} is damaged.*`depthgen {command} --overwrite`"
    with pytest.raises(StageError, match=told):
        run(workspace, DepthmapOptions(workers=1))
    assert not workspace.archive("depth_fg_bg").exists()


def test_two_depths_of_one_background_are_named(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, backgrounds=1)
    workspace.archive("bg_depth").unlink()
    with ArchiveWriter(workspace.archive("bg_depth")) as depths:
        for suffix in (".png", ".npy"):
            depths.add(f"bg_depth/bg_000{suffix}", b"")
    with pytest.raises(StageError, match=r"bg_000\.png and bg_depth/bg_000\.npy"):
        run(workspace, DepthmapOptions(workers=1))


def test_depth_of_another_size_is_named_before_labels_are_deleted(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, backgrounds=1)
    run(workspace, DepthmapOptions(workers=1))
    workspace.archive("bg_depth").unlink()
    with ArchiveWriter(workspace.archive("bg_depth")) as depths:
        depths.add("bg_depth/bg_000.png", images.encode_png(np.full((9, 5), 3000, np.uint16)))
    with pytest.raises(StageError, match=r"bg_000 is 5 × 9 .* 24 × 24"):
        run(workspace, DepthmapOptions(workers=1, overwrite=True))
    assert workspace.archive("depth_fg_bg").exists()


def test_no_composites_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"fg_bg_mask.zip is missing; run `depthgen composite`"):
        run(Workspace(tmp_path), DepthmapOptions())


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"forward_batch": -1},
        {"bits": 12},
        {"workers": 0},
        {"precision": "fp8"},
        {"quantity": "feet"},
        {"bg_model": "densedepth"},
        {"model": "layered", "weights": Path("nyu.h5")},
        {"model": "layered", "precision": "bf16"},
        {"model": "layered", "bg_model": "densedepth", "precision": "bf16"},
        {"model": "layered", "quantity": "depth_m"},
        {"model": "layered", "input_size": (64, 64)},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="--"):
        DepthmapOptions(**wrong)


def test_a_model_that_there_is_not_is_told_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"no model 'magic'; use one of auto, layered, .*onnx"):
        run(Workspace(tmp_path), DepthmapOptions(model="magic"))


def test_float_labels_are_the_label_itself_and_all_readers_take_them(tmp_path: Path) -> None:
    workspace, eight = make_workspace(tmp_path / "32"), make_workspace(tmp_path / "8")
    run(workspace, DepthmapOptions(bits=32, workers=1))
    run(eight, DepthmapOptions(workers=1))
    with (
        Archive(workspace.archive("depth_fg_bg")) as fine,
        Archive(eight.archive("depth_fg_bg")) as coarse,
    ):
        assert [name.replace(".npy", ".png") for name in fine.names] == list(coarse.names)
        for name, data, other in list(zip(fine.names, fine, coarse, strict=True))[1:]:
            label = np.load(io.BytesIO(data))
            assert label.dtype == np.float32
            level = np.asarray(Image.open(io.BytesIO(other))).astype(float)
            # float32 may round a label up to the next 255th, and 1e-9 below counts as there.
            assert np.all(np.abs(label * 255 - level - 0.5) <= 0.5 + 1e-5), name


def test_a_forecast_is_near_the_truth_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, label = Clock(), LayeredLabeller.__call__

    def slow(labeller: LayeredLabeller, unit: tuple[int, int, int]) -> Any:
        clock.sleep(0.03 * (unit[2] - unit[1]))
        return label(labeller, unit)

    monkeypatch.setattr(layered_plan, "time", clock)
    monkeypatch.setattr(LayeredLabeller, "__call__", slow)
    workspace = make_workspace(tmp_path, samples=300)
    before = sorted(tmp_path.rglob("*"))
    plan = prepare(workspace, DepthmapOptions(workers=1))
    forecast = plan.forecast()
    assert sorted(tmp_path.rglob("*")) == before
    assert forecast.samples == 600
    assert clock.now < 4, "it times a few samples only"
    began = clock.now
    run(workspace, DepthmapOptions(workers=1, batch=600), plan=plan)
    assert clock.now - began == pytest.approx(forecast.seconds, rel=0.01)
    shared = prepare(workspace, DepthmapOptions(workers=2)).forecast()
    assert shared.seconds == pytest.approx(forecast.seconds / 2, rel=0.01)
