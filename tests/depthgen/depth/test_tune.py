"""What is measured before labelling: scale, precision, forward batch; and that it is kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from depthgen.depth import network_plan, tune
from depthgen.depth.network_plan import device_of, plan_network
from depthgen.depth.run import DepthmapOptions, run
from depthgen.depth.tune import choose_batch, choose_precision, measure_full_scale
from depthgen.errors import OptionsError, StageError
from tests.depthgen.depth import composites
from tests.depthgen.depth.clock import Clock
from tests.depthgen.depth.composites import (
    Formula,
    FormulaNetwork,
    formula,
    make_composites,
    pictures_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from depthgen.depth.network_plan import NetworkPlan
    from depthgen.workspace import Workspace

CPU = torch.device("cpu")
LEVEL = 1 / 255


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(tune, "time", clock)
    monkeypatch.setattr(network_plan, "time", clock)
    monkeypatch.setattr(composites, "time", clock)


@pytest.fixture
def pictures() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)


def planned(workspace: Workspace, network: FormulaNetwork, **wanted: Any) -> NetworkPlan:
    said: dict[str, Any] = {"device": "cpu", "workers": 2} | wanted
    options = DepthmapOptions(**said)
    given: Any = network
    return plan_network(workspace, options, given, lambda _: None)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("off", "a_picture_s", "chosen"),
    [
        (0.5 * LEVEL, 0.0, "bf16"),  # half the pixels one level off
        (1.0 * LEVEL, 0.0, "bf16"),
        (2.5 * LEVEL, 0.0, "float32"),  # all of them two or three
        (0.0, 0.02, "float32"),  # faithful, but slower
    ],
)
def test_the_fastest_faithful_precision_is_chosen(
    pictures: np.ndarray[Any, Any], off: float, a_picture_s: float, chosen: str
) -> None:
    networks: dict[str, Formula] = {
        "float32": Formula("float32", a_picture_s=0.01),
        "bf16": Formula("bf16", off=off, a_picture_s=a_picture_s),
    }
    found, compared = choose_precision(networks.__getitem__, CPU, pictures)
    assert found.precision == chosen
    assert [each.precision for each in compared] == ["float32", "bf16"]
    assert compared[1].is_faithful == (off < 2 * LEVEL)
    assert compared[0].seconds == pytest.approx(0.01, rel=0.01)
    assert compared[1].within_one == (1.0 if off < 2 * LEVEL else 0.0)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("share", "levels", "chosen"),
    [
        (0.0098, 2, "bf16"),
        (0.0102, 2, "float32"),
        (0.0009, 5, "bf16"),
        (0.0011, 5, "float32"),
    ],
)
def test_a_hundredth_of_the_pixels_may_be_two_levels_off_and_a_thousandth_more(
    share: float, levels: int, chosen: str
) -> None:
    class Speckled(Formula):
        def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
            values = super().__call__(pictures).flatten()
            values[: int(share * len(values))] += levels * LEVEL
            return values.view(pictures.shape[:3])

    pictures = np.random.default_rng(0).integers(0, 200, (1, 100, 100, 3), np.uint8)
    networks: dict[str, Formula] = {"float32": Formula(a_picture_s=0.01), "bf16": Speckled("bf16")}
    found, compared = choose_precision(networks.__getitem__, CPU, pictures)
    assert compared[1].within_one == pytest.approx(1 - share)
    assert compared[1].within_two == pytest.approx(1 - share if levels > 2 else 1)
    assert found.precision == chosen


def test_a_precision_without_kernels_or_that_overflows_is_passed_over(
    pictures: np.ndarray[Any, Any],
) -> None:
    class NoKernels(Formula):
        def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not implemented for 'BFloat16'")

    for faulty in (NoKernels("bf16"), Formula("bf16", poisoned=(0,), poison=float("inf"))):
        pictures[0, 0, 0] = 0
        networks: dict[str, Formula] = {"float32": Formula(), "bf16": faulty}
        found, _ = choose_precision(networks.__getitem__, CPU, pictures)
        assert found.precision == "float32"


@pytest.mark.usefixtures("clock")
def test_the_fastest_batch_is_found(pictures: np.ndarray[Any, Any]) -> None:
    fixed = Formula(a_call_s=0.02)
    batch, rates = choose_batch(fixed, 1.0, pictures)
    assert batch == 16
    assert [rate.batch for rate in rates] == [1, 2, 4, 8, 16]
    assert rates[0].per_second == pytest.approx(50, rel=0.01)
    each = Formula(a_picture_s=0.03)
    batch, rates = choose_batch(each, 1.0, pictures)
    assert batch == 1
    assert len(rates) < 5  # it does not go on where nothing is to be gained
    tight = Formula(a_call_s=0.02, room=5)
    assert choose_batch(tight, 1.0, pictures)[0] == 4


def test_a_scale_that_is_fixed_is_not_measured(pictures: np.ndarray[Any, Any]) -> None:
    estimator = Formula(full_scale=0.7)
    assert measure_full_scale(estimator, pictures) == 0.7
    assert estimator.seen == []


def test_a_relative_network_gets_one_scale_with_room_above(
    pictures: np.ndarray[Any, Any],
) -> None:
    scale = measure_full_scale(Formula(full_scale=None), pictures)
    assert scale == pytest.approx(1.1 * max(formula(each).max() for each in pictures), rel=1e-6)


@pytest.mark.parametrize(("forward_batch", "seen"), [(0, [4, 2]), (1, [1] * 6), (9, [4, 2])])
def test_the_scale_is_measured_on_no_more_pictures_at_once_than_the_network_may_get(
    pictures: np.ndarray[Any, Any], forward_batch: int, seen: list[int]
) -> None:
    estimator = Formula(full_scale=None)
    scale = measure_full_scale(estimator, pictures, forward_batch)
    assert scale == pytest.approx(measure_full_scale(Formula(full_scale=None), pictures), rel=1e-6)
    assert estimator.seen == seen


def test_a_network_that_gives_nothing_above_0_is_refused(pictures: np.ndarray[Any, Any]) -> None:
    with pytest.raises(StageError, match=r"formula gives -.* at most"):
        measure_full_scale(Formula(full_scale=None, off=-9), pictures)


@pytest.mark.usefixtures("clock")
def test_what_was_found_stands_in_the_manifest_and_is_not_measured_again(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    relative: dict[str, Any] = {"full_scale": None, "quantity": "inverse_depth_relative"}
    networks = {
        "float32": Formula("float32", a_picture_s=0.004, **relative),
        "bf16": Formula("bf16", a_call_s=0.004, **relative),
    }
    plan = planned(workspace, FormulaNetwork(networks))
    run(workspace, DepthmapOptions(), plan=plan)
    manifest = json.loads(workspace.manifest("depthmap").read_text())
    kept = manifest["settings"]
    highest = 1.1 * max(formula(each).max() for each in pictures_of(workspace).values())
    assert kept["precision"] == "bf16"
    assert kept["forward_batch"] > 1
    assert 0.8 * highest < kept["full_scale"] <= highest * (1 + 1e-6)
    facts = manifest["facts"]
    assert facts["precisions"].keys() == {"float32", "bf16"}
    assert facts["precisions"]["bf16"]["within_one_level"] == 1.0
    assert set(facts["forward_batches"]) >= {"1", "2", "4"}
    # Now everything would be found otherwise.
    changed = {
        "float32": Formula("float32", **relative),
        "bf16": Formula("bf16", a_picture_s=0.004, off=1.0, **relative),
    }
    again = planned(workspace, FormulaNetwork(changed), workers=1)
    assert dict(again.settings) == kept
    assert changed["bf16"].seen == changed["float32"].seen == []
    anew = planned(workspace, FormulaNetwork(changed), overwrite=True)
    assert anew.settings["precision"] == "float32"


def test_what_auto_found_is_written_down_before_the_labels_and_stays(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    network = FormulaNetwork({"float32": Formula(), "bf16": Formula("bf16")})
    plan = planned(workspace, network)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workspace, DepthmapOptions(), interrupt, plan)
    manifest = json.loads(workspace.manifest("depthmap").read_text())
    assert manifest["state"] == "running"
    assert manifest["settings"]["forward_batch"] == plan.labelling.forward_batch
    assert manifest["facts"].items() >= plan.facts.items()
    assert {"precisions", "forward_batches"} == plan.facts.keys()
    rest = planned(workspace, network)
    assert rest.facts == {}
    run(workspace, DepthmapOptions(), plan=rest)
    finished = json.loads(workspace.manifest("depthmap").read_text())
    assert (finished["state"], finished["facts"]) == ("done", manifest["facts"])


@pytest.mark.usefixtures("clock")
def test_a_forecast_is_near_the_truth_and_labels_nothing(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path, samples=90)
    network = FormulaNetwork({"float32": Formula(a_picture_s=0.02, a_call_s=0.01)})
    plan = planned(workspace, network, precision="float32", forward_batch=4)
    before = sorted(tmp_path.rglob("*"))
    forecast = plan.forecast()
    assert sorted(tmp_path.rglob("*")) == before
    assert forecast.samples == 90
    truth = 90 * 0.02 + 23 * 0.01
    assert forecast.seconds == pytest.approx(truth, rel=0.5)


def test_a_precision_is_refused_for_a_file_that_has_its_own(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    network = FormulaNetwork({"float32": Formula()}, has_precisions=False, model="onnx")
    with pytest.raises(OptionsError, match="--model onnx computes as its file says"):
        planned(workspace, network, precision="bf16")
    assert planned(workspace, network, forward_batch=1).settings["precision"] == "float32"


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "npu", "meta", "cpu:3", "cuda:", ""])
def test_a_device_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(OptionsError, match=f"--device {name} is not to be had here"):
        device_of(name)
