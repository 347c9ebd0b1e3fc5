"""Evaluation against brute force, sample by sample and pixel by pixel."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from depthgen.depth import agreement_sums
from tests.vathos.checkpoints import save_run
from vathos.baselines import Guess
from vathos.data_loader import DenseDepth
from vathos.data_loader.split import Split
from vathos.errors import CheckpointError, DataError, UsageError
from vathos.evaluate import REGIONS, EvaluateOptions, Evaluation, Scores, evaluate, zones
from vathos.evaluate.opening import open_run
from vathos.model.loss import metrics
from vathos.predict import Predictor, load_network
from vathos.report import evaluation_report, markdown
from vathos.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def samples(count: int = 7, side: int = 24) -> tuple[torch.Tensor, ...]:
    """Mask logits, depth logits, masks of discs, depth labels some of which are 0."""
    draw = np.random.default_rng(3)
    y, x = np.ogrid[:side, :side]
    masks = np.stack(
        [(y - a) ** 2 + (x - b) ** 2 < r * r for a, b, r in draw.uniform(2, 22, (count, 3)) / 1.3]
    )
    labels = draw.integers(0, 256, masks.shape) / 255 * (draw.random(masks.shape) > 0.1)
    logits = draw.normal(size=(2, *masks.shape))
    return tuple(
        torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32))[:, None]
        for each in (*logits, masks, labels)
    )


def scored(batch: int) -> Scores:
    mask_logits, depth_logits, masks, labels = samples()
    scores = Scores()
    for at in range(0, len(masks), batch):
        some = slice(at, at + batch)
        guess = Guess(mask_logits[some], depth_logits[some])
        scores.add(guess, masks[some], labels[some], zones(masks[some]))
    return scores


def test_zones_are_those_of_depth_agreement() -> None:
    _, _, masks, _ = samples(20)
    masks[0], masks[1] = 0, 1
    for mask, zone in zip(masks, zones(masks), strict=True):
        expected = agreement_sums.zones((mask[0].numpy() * 255).astype(np.uint8))
        assert np.array_equal(zone[0].numpy(), expected)
    assert REGIONS == agreement_sums.REGIONS


def test_depth_by_region_is_pooled_over_pixels() -> None:
    _, depth_logits, masks, labels = samples()
    zone = zones(masks).numpy().ravel()
    p = 1 / (1 + np.exp(-depth_logits.numpy().astype(np.float64).ravel()))
    d = labels.numpy().astype(np.float64).ravel()
    for name, figures in scored(3).regions().items():
        here = np.isin(zone, REGIONS[name])
        seen = here & (d > 0)
        worse = np.maximum(p[seen] / d[seen], d[seen] / p[seen])
        assert figures.share == pytest.approx(here.mean())
        assert figures.rmse == pytest.approx(np.sqrt(np.mean((p - d)[here] ** 2)))
        assert figures.abs_rel == pytest.approx(np.mean(np.abs(p - d)[seen] / d[seen]))
        assert figures.log10 == pytest.approx(np.mean(np.abs(np.log10(p[seen] / d[seen]))))
        for power, delta in enumerate((figures.delta1, figures.delta2, figures.delta3), start=1):
            assert delta == pytest.approx(np.mean(worse < 1.25**power))


def test_a_network_that_is_sure_and_wrong_has_finite_figures() -> None:
    _, _, masks, labels = samples()
    labels[:, :, :4] = 0.0
    scores = Scores()
    guess = Guess(depth=torch.full_like(labels, -1000.0))
    scores.add(guess, masks, labels, zones(masks))
    whole = scores.regions()["all"]
    seen = labels[labels > 0].double()
    expected = (1000 / np.log(10) + seen.log10()).mean()  # log10 sigmoid(-1000) is -1000 / ln 10
    assert whole.log10 == pytest.approx(float(expected))
    assert np.isfinite(list(vars(whole).values())).all()


def test_an_uneven_last_batch_counts_exactly() -> None:
    one, three, all_at_once = scored(1), scored(3), scored(7)
    for other in (three, all_at_once):
        assert other.means() == pytest.approx(one.means(), abs=1e-6)
        assert other.regions()["all"].rmse == pytest.approx(one.regions()["all"].rmse)


@pytest.fixture
def run(tiny_set: Callable[..., Any], tmp_path: Path) -> Path:
    """A checkpoint of TinyNet in its run folder, split by both."""
    return save_run(tiny_set(n_fg=3).write().folder, tmp_path / "runs" / "a", by="both")


def test_a_batch_without_room_is_one_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "logits", lambda self, pair: torch.empty(2**50))
    with pytest.raises(UsageError, match="no room for 3 samples at once; lower --batch-size"):
        evaluate(run, EvaluateOptions(batch_size=3))


def test_every_part_is_scored_with_the_network_first(
    tiny_set: Callable[..., Any], tmp_path: Path
) -> None:
    archives = tiny_set(n_fg=3).write().folder
    run = save_run(archives, tmp_path / "runs" / "a", by="both", network="ResUNet")
    found = evaluate(run, EvaluateOptions(batch_size=3, device="cpu"))
    dataset = DenseDepth(archives, archives)
    split = Split.from_json(json.loads((run.parent / "split.json").read_text())["split"])
    parts = split.parts(dataset)
    assert [part.name for part in found.parts] == list(parts)
    assert {"train", "new backgrounds", "new cut-outs", "new both"} == set(parts)
    network = load_network(run).model
    for part in found.parts:
        rows = parts[part.name]
        assert part.samples == part.of == len(rows)
        items = [dataset[int(row)] for row in rows]
        with torch.no_grad():
            logits = [network(torch.cat((item["bg"], item["fg_bg"]))[None]) for item in items]
        means = part.scored[0].means
        for name, metric, at, key in (
            ("iou", metrics.iou_per_sample, 1, "fg_bg_mask"),
            ("dice", metrics.dice_per_sample, 1, "fg_bg_mask"),
            ("soft_dice_half", metrics.soft_dice_half_per_sample, 1, "fg_bg_mask"),
            ("rmse", metrics.rmse_per_sample, 0, "depth_fg_bg"),
            ("ssim", metrics.ssim_per_sample, 0, "depth_fg_bg"),
        ):
            each = [
                float(metric(out[at], item[key][None]))
                for out, item in zip(logits, items, strict=True)
            ]
            assert means[name] == pytest.approx(np.mean(each), abs=1e-5), name
        assert part.scored[0].name == "ResUNet"
        assert [each.name.split(" ")[0] for each in part.scored[1:]] == [
            *("difference", "difference", "mean", "mean", "depth"),
        ]


def test_samples_bound_each_part_and_are_the_same_each_time(run: Path) -> None:
    options = EvaluateOptions(samples=2, device="cpu")
    told: list[tuple[int, int]] = []
    first = evaluate(run, options, lambda done, total: told.append((done, total)))
    assert all(part.samples <= 2 <= part.of for part in first.parts)
    assert told[-1][0] == told[-1][1]
    assert first.to_json() == evaluate(run, options).to_json()


@pytest.mark.parametrize(
    ("by", "tested"),
    [("background", "new backgrounds"), ("cutout", "new cut-outs"), ("both", "new both")],
)
@pytest.mark.parametrize("div_factor", [1, 2])
def test_the_trainers_samples_are_the_ones_scored(
    tiny_set: Callable[..., Any], tmp_path: Path, by: str, tested: str, div_factor: int
) -> None:
    split = {"by": by, "test_fraction": 0.4}
    root = str(tiny_set(n_fg=4).write().folder)
    config = {
        "name": "run",
        "chkpt_dir": str(tmp_path),
        "device": "CPU",
        "model": "TinyNet",
        "dataset": {"root": root, "div_factor": div_factor, "split": split},
    }
    runner = Runner(config)
    runner.setup_train()
    parts = open_run(tmp_path / "run" / "model_checkpoint.pt", None, None).parts
    assert parts["train"].tolist() == runner.train_rows.tolist()
    assert parts[tested].tolist() == runner.test_rows.tolist()


def test_perturbed_pictures_are_scored_beside_the_others(run: Path) -> None:
    found = evaluate(run, EvaluateOptions(perturbed=True, device="cpu"))
    scored = found.parts[0].scored
    disturbed = [each for each in scored if each.perturbed]
    assert disturbed[0].name == "TinyNet"
    assert disturbed[0].means != scored[0].means
    assert sum("difference" in each.name for each in disturbed) == 3
    assert "TinyNet, perturbed" in evaluation_report(found)
    assert found.to_json() == evaluate(run, EvaluateOptions(perturbed=True, device="cpu")).to_json()


def test_archives_may_have_moved(run: Path, tmp_path: Path) -> None:
    before = evaluate(run, EvaluateOptions(device="cpu"))
    (tmp_path / "archives").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="--zip-dir") as caught:
        evaluate(run, EvaluateOptions(device="cpu"))
    assert str(tmp_path / "archives") in str(caught.value)
    after = evaluate(run, EvaluateOptions(zip_dir=tmp_path / "elsewhere", device="cpu"))
    assert after.parts == before.parts


def test_archives_that_changed_are_warned_of_once(
    run: Path, tiny_set: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate(run, EvaluateOptions(device="cpu"))
        assert not caplog.records
        tiny_set(n_fg=3, depth_bits=16).write()
        evaluate(run, EvaluateOptions(device="cpu"))
    assert [record.getMessage() for record in caplog.records] == [
        "depth_fg_bg changed since this network was trained: what is called new here may not be"
    ]


def test_archives_of_a_size_that_the_network_cannot_take_are_refused(
    run: Path, tiny_set: Callable[..., Any]
) -> None:
    tiny_set(size=20).write()
    with pytest.raises(DataError, match=r"20 x 20, .* multiple of 16; set dataset\.size to one"):
        evaluate(run, EvaluateOptions(device="cpu"))


def test_archives_of_another_set_are_refused(run: Path, tiny_set: Callable[..., Any]) -> None:
    split = json.loads((run.parent / "split.json").read_text())
    for side in ("train_backgrounds", "test_backgrounds"):
        split["split"][side] = [number + 100 for number in split["split"][side]]
    (run.parent / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match="none of the samples"):
        evaluate(run, EvaluateOptions(device="cpu"))


def test_a_checkpoint_alone_does_not_say_what_it_never_saw(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "model.pt"
    alone.parent.mkdir()
    shutil.copy(run, alone)
    with pytest.raises(CheckpointError, match="--config"):
        evaluate(alone, EvaluateOptions(device="cpu"))
    beside = EvaluateOptions(config=run.parent / "config.yaml", device="cpu")
    assert evaluate(alone, beside).parts == evaluate(run, EvaluateOptions(device="cpu")).parts
    (run.parent / "split.json").write_text("{")
    with pytest.raises(DataError, match=r"split\.json cannot be read"):
        evaluate(run, EvaluateOptions(device="cpu"))
    (run.parent / "split.json").unlink()
    with pytest.raises(CheckpointError, match=r"no split\.json"):
        evaluate(run, EvaluateOptions(device="cpu"))


@pytest.mark.parametrize("options", [{"samples": 0}, {"batch_size": 0}])
def test_wrong_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        EvaluateOptions(**options)  # type: ignore[arg-type]


def test_the_report_is_aligned_and_has_the_baselines_in_every_table(run: Path) -> None:
    found = evaluate(run, EvaluateOptions(device="cpu"))
    blocks = evaluation_report(found).split("\n\n")
    assert "after 3 epochs and 12 steps" in blocks[0]
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 2 * len(found.parts)
    for means, regions in zip(tables[::2], tables[1::2], strict=True):
        assert len({len(line) for line in means}) == len({len(line) for line in regions}) == 1
        assert [line.split("|")[1].split()[0] for line in means[2:]] == [
            *("TinyNet", "difference", "difference", "mean", "mean", "depth"),
        ]
        assert len(regions) == 2 + 3 * len(REGIONS)
    assert markdown(("a", "bb"), [("ccc", "1")]) == "| a   | bb |\n| --- | -: |\n| ccc |  1 |"


def test_labels_without_a_unit_have_no_ratios(run: Path) -> None:
    found = evaluate(run, EvaluateOptions(device="cpu"))
    fields = {**vars(found), "relative": False}
    text = evaluation_report(Evaluation(**fields))
    assert "mean nothing" in text
    line = next(line for line in text.splitlines() if line.startswith("| all: TinyNet"))
    assert line.count("–") == 5


def test_json_has_null_where_there_is_nothing(tiny_set: Callable[..., Any], tmp_path: Path) -> None:
    run = save_run(tiny_set().write().folder, tmp_path / "runs" / "a")
    text = json.dumps(evaluate(run, EvaluateOptions(device="cpu")).to_json(), allow_nan=False)
    assert json.loads(text)["parts"][0]["scored"][0]["regions"]["cut-out"]["rmse"] > 0
