"""`depthgen depthmap` as it is typed, over real networks that are small."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from depthgen import images, resize, stats, verify
from depthgen.archive import Archive, ArchiveWriter
from depthgen.composite import CompositeOptions
from depthgen.composite import run as composite
from depthgen.depth import DepthmapOptions, prepare, run
from depthgen.depth.choose import Network
from depthgen.depth.densedepth_layout import TORCH_EPSILON, Layout
from depthgen.depth.network_plan import NetworkPlan
from depthgen.errors import OptionsError, StageError
from depthgen.prepare import crop, mask
from depthgen.retype import retype
from depthgen.sources import studio
from depthgen.workspace import DEPTH_INFO_MEMBER, Workspace
from tests.command_line import said
from tests.conftest import ROOT
from tests.depthgen.depth.composites import (
    SIDE,
    Formula,
    flip_a_bit,
    make_composites,
    write_densedepth,
    write_onnx,
)
from tests.depthgen.depth.test_pipeline import labels_of
from vathos.data_loader.dense_depth import DenseDepth

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Run

    Typed = Callable[..., Run]

DEPTHMAP = ("depthmap", "--model", "onnx", "--quantity", "depth_m", "--weights")
LAYOUT = Layout((1, 2, 2, 1), 56, False, True, TORCH_EPSILON)
# Has the network take its time, and more with more pictures: whatever forward batch is the fastest
# here, the labels take four seconds and there is some to be killed in.
SLOWLY = """
import time
from depthgen.depth import onnx_model
real = onnx_model.OnnxEstimator.__call__
def slow(self, pictures):
    time.sleep(0.02 + 0.01 * len(pictures))
    return real(self, pictures)
onnx_model.OnnxEstimator.__call__ = slow
"""


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return write_onnx(tmp_path / "net.onnx")


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPTHGEN_WEIGHTS", raising=False)


def manifest_of(workspace: Workspace, stage: str = "depthmap") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(workspace.manifest(stage).read_text())
    return found


def info_of(workspace: Workspace) -> dict[str, Any]:
    with Archive.open(workspace.archive("depth_fg_bg")) as archive:
        found: dict[str, Any] = json.loads(bytes(archive[DEPTH_INFO_MEMBER]))
    return found


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte(tmp_path: Path, onnx: Path, typed: Typed) -> None:
    workspace = make_composites(tmp_path / "W", samples=400, shards=2)
    depthmap = ("-w", workspace.root, *DEPTHMAP, onnx, "--batch", "10")
    code = f"import sys\n{SLOWLY}\nimport cli\nsys.argv[0] = 'depthgen'\ncli.entry()\n"
    command = [sys.executable, "-c", code, *map(str, depthmap)]
    draw = random.Random(4)
    chosen: set[int] = set()
    for workers in (1, 2, 3):
        killed = subprocess.Popen(
            [*command, "--workers", str(workers)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before, until = _size(workspace), time.monotonic() + 60
        while _size(workspace) <= before and killed.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.25))
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL, "it had finished before it was killed"
        chosen.add(manifest_of(workspace)["settings"]["forward_batch"])
    assert len(chosen) == 1
    assert list(workspace.root.glob("*.partial"))
    done = typed(*depthmap, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert manifest_of(workspace)["settings"]["forward_batch"] in chosen
    whole = make_composites(tmp_path / "whole", samples=400, shards=2)
    options = DepthmapOptions("onnx", onnx, quantity="depth_m", forward_batch=min(chosen))
    run(whole, options)
    names = sorted(path.name for path in whole.root.glob("depth_fg_bg*"))
    assert len(names) == 2
    for name in names:
        assert (workspace.root / name).read_bytes() == (whole.root / name).read_bytes()
    assert "done before" in typed(*depthmap).stdout


def _size(workspace: Workspace) -> int:
    return sum(path.stat().st_size for path in workspace.root.glob("depth_fg_bg*"))


def test_a_dry_run_writes_nothing_and_tells_the_rate(
    tmp_path: Path, onnx: Path, typed: Typed
) -> None:
    make_composites(tmp_path / "W")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "W").rglob("*")}
    done = typed("-w", "W", *DEPTHMAP, onnx, "--device", "cpu", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^net on cpu, float32, \d+ pictures? at a time$", done.stdout, re.M)
    assert re.search(r"^23 labels in about \d+ s, [\d,.]+ a second$", done.stdout, re.M)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "W").rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--device", "gpu"), 2, "--device gpu is not to be had here"),
        (("--precision", "bf16"), 2, "--model onnx computes as its file says"),
        (("--quantity", "feet"), 2, "--quantity must be one of depth_m"),
        (("--weights", "nowhere.onnx"), 1, "nowhere.onnx is not there"),
        (("--weights", "text.onnx"), 1, "text.onnx"),
        (("--model", "magic"), 2, "no model 'magic'; use one of auto, layered"),
        (("--model", "layered"), 2, "--weights goes with a network"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, onnx: Path, typed: Typed, arguments: tuple[str, ...], code: int, told: str
) -> None:
    make_composites(tmp_path / "W")
    (tmp_path / "text.onnx").write_text("no network")
    assert told in said(typed("-w", "W", *DEPTHMAP, onnx, *arguments), code)
    assert not (tmp_path / "W" / "manifests").exists()


def test_a_file_of_another_kind_and_an_empty_archive_are_told(tmp_path: Path, onnx: Path) -> None:
    workspace = make_composites(tmp_path / "W")
    with pytest.raises(Exception, match=r"net\.onnx") as caught:
        prepare(workspace, DepthmapOptions("densedepth", onnx, device="cpu"))
    assert type(caught.value).__module__.startswith("depthgen")
    with pytest.raises(OptionsError, match="does not say what its numbers mean"):
        prepare(workspace, DepthmapOptions("onnx", onnx, device="cpu"))
    with pytest.raises(StageError, match=r"fg_bg_mask\.zip is missing; run `depthgen composite`"):
        prepare(Workspace(tmp_path), DepthmapOptions("onnx", onnx))


def test_a_file_for_one_picture_at_a_time_labels_with_forward_batch_1(
    tmp_path: Path, onnx: Path, typed: Typed
) -> None:
    make_composites(tmp_path / "W")
    one_by_one(onnx)
    depthmap = ("-w", "W", "depthmap", "--model", "onnx", "--weights", onnx, "--device", "cpu")
    relative = (*depthmap, "--quantity", "depth_relative")
    assert "try --forward-batch 1" in said(typed(*relative), 1)
    done = typed(*relative, "--forward-batch", "1")
    assert done.returncode == 0, done.stderr
    assert info_of(Workspace(tmp_path / "W"))["full_scale"] > 0


def one_by_one(path: Path) -> None:
    """Let a file hold the shape of one picture inside, as one exported carelessly does."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    shape = numpy_helper.from_array(np.array([1, 3, SIDE, SIDE]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("Reshape", ["picture", "shape"], ["one"]))
    model.graph.node[1].input[0] = "one"
    onnx.save(model, path)


def test_another_forward_batch_rounds_hardly_a_pixel_otherwise(tmp_path: Path) -> None:
    weights = write_densedepth(tmp_path / "nyu.pt", LAYOUT)
    made = []
    for batch in (1, 3):
        workspace = make_composites(tmp_path / str(batch), samples=6)
        options = DepthmapOptions(
            weights=weights, device="cpu", precision="float32", forward_batch=batch
        )
        run(workspace, options)
        made.append(np.stack([*labels_of(workspace).values()]).astype(int))
        info = info_of(workspace)
        assert (info["model"], info["quantity"]) == ("densedepth", "depth_m")
        assert manifest_of(workspace)["settings"]["weights"] == info["weights"] != ""
        assert manifest_of(workspace)["facts"]["weights_typed"] == "FILE"
    apart = abs(made[0] - made[1])
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 0.001
    assert len(np.unique(made[0])) > 3


def test_a_network_folder_labels_relative_depth_on_one_scale(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.depthgen.depth import small_networks

    network = small_networks.depth_anything()
    folder = small_networks.save(network, "depth_anything", tmp_path / "tiny")
    small = small_networks.SETTINGS["depth_anything"] | {"size": {"height": 56, "width": 56}}
    small_networks.write_settings(folder, small)
    workspace = make_composites(tmp_path / "W")
    run(workspace, DepthmapOptions(weights=folder, device="cpu", bits=32))
    info, kept = info_of(workspace), manifest_of(workspace)
    assert (info["quantity"], info["scale_m"]) == ("inverse_depth_relative", None)
    assert info["full_scale"] == kept["settings"]["full_scale"] > 0
    assert info["precision"] == kept["settings"]["precision"]
    assert {"precisions", "forward_batches"} < kept["facts"].keys()
    labels = np.stack([*labels_of(workspace).values()])
    assert 0.01 <= labels.min() < labels.max() <= 1
    assert kept["settings"]["model"] == "tiny"
    # What was measured of it goes on with it, and with no other network.
    manifest = workspace.manifest("depthmap")
    for model, measured in (("tiny", False), ("other", True)):
        kept["settings"] |= {"model": model, "full_scale": 77.0}
        manifest.write_text(json.dumps(kept))
        plan = prepare(workspace, DepthmapOptions(weights=folder, device="cpu", bits=32))
        assert isinstance(plan, NetworkPlan)
        assert (plan.quantity.full_scale != 77.0) == measured
        assert ("precisions" in plan.facts) == measured


def test_layered_over_a_network_runs_it_on_the_backgrounds_alone(
    tmp_path: Path, onnx: Path
) -> None:
    workspace = make_composites(tmp_path / "W")
    options = DepthmapOptions(
        "layered", onnx, bg_model="onnx", quantity="depth_m", device="cpu", bits=16, workers=1
    )
    before = sorted(tmp_path.rglob("*"))
    plan = prepare(workspace, options)
    assert plan.forecast().samples == 23
    assert sorted(tmp_path.rglob("*")) == before, "a forecast writes nothing"
    run(workspace, options, plan=plan)
    assert manifest_of(workspace, "depthmap_backgrounds")["counts"] == {"bg": 5}
    info = info_of(workspace)
    assert info["model"] == "layered over net"
    assert len(info["weights"]) == 64
    with Archive(workspace.archive("bg_depth_network")) as depths:
        assert len(depths) == 5
    assert run(workspace, options).already_done
    # The same depth, brought by a person, gives the same labels.
    own = make_composites(tmp_path / "own")
    own.archive("bg_depth").write_bytes(workspace.archive("bg_depth_network").read_bytes())
    run(own, DepthmapOptions("layered", bits=16, workers=1))
    for one, other in zip(labels_of(workspace).values(), labels_of(own).values(), strict=True):
        assert np.array_equal(one, other)
    assert retype(workspace.root, "depthmap", manifest_of(workspace)["settings"]) == (
        f"depthgen -w {workspace.root} depthmap --model layered --bg-model onnx --weights FILE "
        "--bits 16 --quantity depth_m"
    )


def test_layered_without_backgrounds_is_told_before_its_network_is_loaded(
    tmp_path: Path, onnx: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "load", lambda *_: pytest.fail("it was loaded"))
    make_composites(tmp_path / "W").archive("bg").unlink()
    layered = ("--model", "layered", "--bg-model", "onnx")
    sentence = said(typed("-w", "W", *DEPTHMAP, onnx, *layered), 1)
    assert "bg.zip is missing; run `depthgen crop`" in sentence


def test_layered_names_the_background_that_its_network_fails_on(
    tmp_path: Path, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_composites(tmp_path / "W")
    with Archive(workspace.archive("bg")) as archive:
        high, low, _ = images.decode(archive[3], "RGB", name="")[0, 0].tolist()
    broken = Formula(poisoned=(high * 256 + low,))
    monkeypatch.setattr(Network, "load", lambda *_: broken)
    with pytest.raises(StageError, match=r"formula .* no number for bg/bg_003\.png; .* --bg-model"):
        run(workspace, DepthmapOptions("layered", onnx, bg_model="onnx", bits=16, workers=1))
    assert broken.seen == [1, 1, 1, 1]
    stopped = manifest_of(workspace, "depthmap_backgrounds")
    assert (stopped["state"], stopped["facts"]) == ("running", {"bits": 16}), "status needs it"
    assert not workspace.archive("bg_depth_network").exists()
    assert not workspace.archive("depth_fg_bg").exists()


def test_layered_runs_no_network_on_a_damaged_background(tmp_path: Path, onnx: Path) -> None:
    workspace = make_composites(tmp_path / "W")
    name, _ = flip_a_bit(workspace.archive("bg"), 3)
    options = DepthmapOptions(
        "layered", onnx, bg_model="onnx", quantity="depth_m", device="cpu", workers=1
    )
    with pytest.raises(StageError, match=rf"bg\.zip: {name} is damaged.*`depthgen crop --over"):
        run(workspace, options)
    assert not workspace.archive("bg_depth_network").exists()


def test_layered_is_refused_before_its_network_looks_at_the_backgrounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_composites(tmp_path / "W")
    idle = Formula()
    monkeypatch.setattr(Network, "load", lambda *_: idle)
    over = DepthmapOptions("layered", tmp_path, "glpn-nyu", device="cpu", workers=1)
    stranger = workspace.archive("depth_fg_bg")
    stranger.write_bytes(workspace.archive("bg").read_bytes())
    with pytest.raises(StageError, match="no manifest says that `depthmap` made it"):
        run(workspace, over)
    stranger.unlink()
    own = workspace.archive("bg_depth")
    with ArchiveWriter(own) as depths:
        for bg in range(5):
            depth = np.full((SIDE, SIDE), 3.0, np.float32)
            depths.add(f"bg_depth/bg_{bg:03d}.npy", images.encode_depth(depth))
    run(workspace, DepthmapOptions("layered", workers=1))
    with pytest.raises(StageError, match=r"bg_model was None, now 'glpn-nyu'.*--overwrite"):
        run(workspace, over)
    assert idle.seen == []
    assert not workspace.archive("bg_depth_network").exists()
    run(workspace, replace(over, overwrite=True))
    assert idle.seen == [1] * 5
    assert manifest_of(workspace)["facts"]["weights_typed"] == "DIR"
    assert manifest_of(workspace, "depthmap_backgrounds")["facts"]["weights_typed"] == "DIR"
    masks = make_composites(tmp_path / "other", samples=22).archive("fg_bg_mask")
    workspace.archive("fg_bg_mask").write_bytes(masks.read_bytes())
    workspace.archive("bg_depth_network").unlink()
    with pytest.raises(StageError, match=r"fg_bg_mask\.zip has changed since"):
        run(workspace, over)
    assert idle.seen == [1] * 5


def test_what_a_network_made_of_the_backgrounds_goes_with_the_labels_it_was_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "load", lambda *_: Formula())
    workspace = Workspace(tmp_path / "W")
    studio.run(workspace, studio.RenderOptions(bg=2, fg=2, size=48, workers=1))
    mask.run(workspace, mask.MaskOptions(workers=1))
    crop.run(workspace, crop.CropOptions(size=33, workers=1))
    composite(workspace, CompositeOptions(placements=2, workers=1))
    over = DepthmapOptions("layered", tmp_path, "glpn-nyu", device="cpu", workers=1)
    run(workspace, over)
    made = workspace.archive("bg_depth_network"), workspace.manifest("depthmap_backgrounds")
    crop.run(workspace, crop.CropOptions(size=40, workers=1, overwrite=True))
    composite(workspace, CompositeOptions(placements=2, workers=1, overwrite=True))
    told = verify.run(workspace, verify.VerifyOptions(workers=1)).text()
    assert "`depthmap` read another bg.zip; run it again with --overwrite" in told
    assert "`depthmap_backgrounds`" not in told
    with pytest.raises(StageError, match=r"`depthmap` ran before .*fg_bg_mask\.zip has changed"):
        run(workspace, over)
    assert all(path.exists() for path in made)
    run(workspace, DepthmapOptions("layered", workers=1, overwrite=True))
    assert not any(path.exists() for path in made)
    assert verify.run(workspace, verify.VerifyOptions(workers=1)).findings == []
    made[0].write_bytes(b"a person's own")
    assert run(workspace, DepthmapOptions("layered", workers=1)).already_done
    assert made[0].exists()


def test_composites_of_backgrounds_of_another_size_are_told_before_labels_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "load", lambda *_: pytest.fail("it was loaded"))
    workspace = Workspace(tmp_path / "W")
    studio.run(workspace, studio.RenderOptions(bg=2, fg=2, size=48, workers=1))
    mask.run(workspace, mask.MaskOptions(workers=1))
    crop.run(workspace, crop.CropOptions(size=33, workers=1))
    composite(workspace, CompositeOptions(placements=2, workers=1))
    run(workspace, DepthmapOptions("layered", workers=1))
    before = workspace.archive("depth_fg_bg").read_bytes()
    crop.run(workspace, crop.CropOptions(size=40, workers=1, overwrite=True))
    told = r"bg_000\.\w+ in .*bg\.zip is 40 × 40 now and .* 33 × 33; .*`depthgen composite --over"
    anew = DepthmapOptions("layered", workers=1, overwrite=True)
    for options in (anew, replace(anew, bg_model="glpn-nyu", weights=tmp_path)):
        with pytest.raises(StageError, match=told):
            run(workspace, options)
    assert workspace.archive("depth_fg_bg").read_bytes() == before
    assert manifest_of(workspace)["state"] == "done"
    composite(workspace, CompositeOptions(placements=2, workers=1, overwrite=True))
    assert run(workspace, anew).counts == {"samples": 16}


def test_layered_refuses_depth_without_a_unit(tmp_path: Path, onnx: Path) -> None:
    workspace = make_composites(tmp_path / "W")
    options = DepthmapOptions(
        "layered", onnx, bg_model="onnx", quantity="depth_relative", device="cpu"
    )
    with pytest.raises(OptionsError, match="layered needs metres, and net gives depth_relative"):
        run(workspace, options)


@pytest.mark.parametrize(
    ("settings", "typed"),
    [
        ({"model": "layered", "bits": 8}, ""),
        ({"model": "densedepth", "bits": 32, "given": {}}, " --model densedepth --bits 32"),
        ({"model": "glpn-nyu", "bits": 8, "precision": "bf16"}, " --model glpn-nyu"),
        ({"model": "my-folder", "bits": 8}, " --model DIR"),
        (
            {"model": "keras", "bits": 8, "given": {"meaning": "depth_m", "size": [48, 64]}},
            " --model keras --weights FILE --quantity depth_m --input-size 48 64",
        ),
        (
            {"model": "zoedepth-nyu", "bits": 16, "weights_typed": "DIR"},
            " --model zoedepth-nyu --weights DIR --bits 16",
        ),
        (
            {"model": "layered", "bg_model": "zoedepth-nyu", "bits": 8},
            " --model layered --bg-model zoedepth-nyu",
        ),
    ],
    ids=str,
)
def test_it_can_be_typed_again_from_its_manifest(settings: dict[str, Any], typed: str) -> None:
    assert retype(Path("data"), "depthmap", settings) == f"depthgen depthmap{typed}"


def test_float_labels_go_through_the_whole_chain(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    studio.run(workspace, studio.RenderOptions(bg=2, fg=2, size=64, workers=1))
    mask.run(workspace, mask.MaskOptions(workers=1))
    crop.run(workspace, crop.CropOptions(size=64, workers=1))
    composite(workspace, CompositeOptions(placements=3, workers=1))
    run(workspace, DepthmapOptions(bits=32, workers=1))
    stats.run(workspace, stats.StatsOptions(workers=1))
    report = verify.run(workspace, verify.VerifyOptions(workers=1))
    assert report.findings == []
    resize.run(workspace, resize.ResizeOptions(size=32, workers=1))
    fine = DenseDepth(workspace.root, workspace.root, suffix="")
    small = DenseDepth(workspace.root, workspace.root, suffix="_small")
    assert len(fine) == len(small) == 24
    labels = labels_of(workspace)
    for index, stored in enumerate(labels.values()):
        label = fine[index]["depth_fg_bg"].numpy()[0]
        assert np.array_equal(label, stored)
        shrunk = small[index]["depth_fg_bg"].numpy()[0]
        np.testing.assert_allclose(shrunk, label.reshape(32, 2, 32, 2).mean(axis=(1, 3)), atol=1e-6)
    channels = json.loads(workspace.stats.read_text())
    assert "depth_fg_bg" in json.dumps(channels)
