"""Figures as tables, never without the baselines beside the network.

The one rule: a table is Markdown whose columns are aligned, so that it reads the same on a terminal
and on a page.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vathos.baselines import FIT_SAMPLES, fit_baselines
from vathos.data_loader.split import TEST_PART, thin
from vathos.evaluate.run import Scored, batches_of, score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vathos.evaluate import Evaluation, Part, RegionFigures
    from vathos.runner import Runner

__all__ = ["evaluation_report", "markdown", "result_table"]

MEANS = {
    "iou": ("mask IoU", ".3f"),
    "dice": ("Dice", ".3f"),
    "soft_dice_half": ("the original's mIOU", ".3f"),
    "rmse": ("depth RMSE", ".4f"),
    "ssim": ("SSIM", ".3f"),
}
# By the names that a trainer gives them.
TRAINED = {"iou": "miou", "dice": "dice", "soft_dice_half": "soft_dice_half", "ssim": "ssim"}
TRAINED["rmse"] = "mrmse"
REGION_HEADER = ("pixels", "RMSE", "AbsRel", "log10", "δ<1.25", "δ<1.25²", "δ<1.25³")
NOTHING = "–"
BATCH = 64


def result_table(runner: Runner, metrics: Mapping[str, float]) -> str:
    """The network and the baselines on the test samples of a run that was just trained.

    metrics: as `Runner.start_train` returns them.
    """
    seed, limit = runner.config.seed, runner.config.training.test_samples
    tested = runner.test_rows if limit is None else thin(runner.test_rows, limit, seed)
    fitting = thin(runner.train_rows, FIT_SAMPLES, seed)
    base = fit_baselines(batch for _, batch in batches_of(runner.dataset, fitting, BATCH))
    means = {name: metrics[key] for name, key in TRAINED.items() if key in metrics}
    trained = Scored(f"{runner.config.model}, trained", False, means, {})
    scored = score(runner.dataset, tested, [base.seeing() | base.blind()], BATCH, seed)
    part = TEST_PART[runner.split.by]
    return f"{_means_table(part, [trained, *scored])}\n\n{len(tested):,} test samples: {part}."


def evaluation_report(evaluation: Evaluation) -> str:
    """All parts of an evaluation, two tables each: means over samples, and depth by region."""
    blocks = [_heading(evaluation)]
    for part in evaluation.parts:
        counted = f"{part.name}: {part.samples:,} of {part.of:,} samples"
        blocks.append(f"## {counted}")
        blocks.append(_means_table("mean over samples", part.scored))
        blocks.append(_regions_table(part, evaluation.relative))
    if not evaluation.relative:
        blocks.append(
            "The labels have no unit and an unknown shift, so ratios of them (AbsRel, log10, δ) "
            "mean nothing and are left out."
        )
    return "\n\n".join(blocks)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def _heading(evaluation: Evaluation) -> str:
    when = "" if evaluation.epoch is None else f", after {evaluation.epoch} epochs"
    if evaluation.step is not None:
        when += f" and {evaluation.step:,} steps" if when else f", after {evaluation.step:,} steps"
    return f"{evaluation.model} of {evaluation.checkpoint}{when}"


def _means_table(title: str, scored: Iterable[Scored]) -> str:
    header = (title, *(name for name, _ in MEANS.values()))
    rows = [
        (_called(each), *(_cell(each.means.get(key), how) for key, (_, how) in MEANS.items()))
        for each in scored
    ]
    return markdown(header, rows)


def _regions_table(part: Part, relative: bool) -> str:
    rows = [
        (f"{region}: {_called(each)}", *_region_cells(figures[region], relative))
        for region in part.scored[0].regions
        for each in part.scored
        if (figures := each.regions)
    ]
    return markdown(("depth over pixels", *REGION_HEADER), rows)


def _region_cells(figures: RegionFigures, relative: bool) -> list[str]:
    ratios = (figures.delta1, figures.delta2, figures.delta3)
    cells = [_cell(figures.abs_rel, ".4f"), _cell(figures.log10, ".4f")]
    cells += [_cell(each, ".1%") for each in ratios]
    if not relative:
        cells = [NOTHING] * len(cells)
    return [_cell(figures.share, ".1%"), _cell(figures.rmse, ".4f"), *cells]


def _called(scored: Scored) -> str:
    return f"{scored.name}, perturbed" if scored.perturbed else scored.name


def _cell(value: float | None, how: str) -> str:
    if value is None:
        return ""
    return NOTHING if math.isnan(value) else format(value, how)
