"""Score a checkpoint and the baselines, part by part of its run's split.

The one rule: all are scored on the same samples by the same code; with `perturbed`, on the same
disturbed pictures too, and the difference threshold is fitted anew to those.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from vathos.baselines import (
    FIT_SAMPLES,
    Baselines,
    Guess,
    difference_guesser,
    fit_baselines,
    fit_threshold,
)
from vathos.data_loader.perturb import perturb
from vathos.data_loader.split import thin
from vathos.errors import UsageError
from vathos.evaluate.opening import open_run
from vathos.evaluate.scores import RegionFigures, Scores, zones
from vathos.predict.predictor import Predictor
from vathos.trainer.checkpoint import find_checkpoint
from vathos.utils.allocator import give_back, keep_freed
from vathos.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vathos.baselines import Guesser
    from vathos.data_loader.dense_depth import Batch

__all__ = ["EvaluateOptions", "Evaluation", "Part", "Scored", "batches_of", "evaluate", "score"]


@dataclass(frozen=True)
class EvaluateOptions:
    """How to evaluate. Raises `UsageError` where a value makes no sense.

    config: the run's configuration, None for the one beside the checkpoint. zip_dir: where the
    archives are now, None for where they were. samples: at most of each part, the same each time.
    perturbed: score under independent brightness, noise and JPEG quality of bg and fg_bg as well.
    """

    config: Path | None = None
    zip_dir: Path | None = None
    samples: int = 256
    batch_size: int = 16
    device: str = "auto"
    perturbed: bool = False

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("batch-size", self.batch_size)):
            if value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Scored:
    """Who guessed, on pictures perturbed or not, and how well.

    means: over samples, of iou, dice, soft_dice_half (if a mask is guessed), rmse and ssim (if
    depth is). regions: depth by region, empty if none is guessed.
    """

    name: str
    perturbed: bool
    means: dict[str, float]
    regions: dict[str, RegionFigures]


@dataclass(frozen=True)
class Part:
    """A part of the split: `samples` of its `of` samples, the network first among the scored."""

    name: str
    samples: int
    of: int
    scored: tuple[Scored, ...]


@dataclass(frozen=True)
class Evaluation:
    """What came of it. relative: whether ratios of labels mean anything."""

    checkpoint: str
    model: str
    epoch: int | None
    step: int | None
    quantity: dict[str, Any] | None
    relative: bool
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON takes it; null where there is nothing to measure."""
        return _without_nan(asdict(self))


def evaluate(
    checkpoint: str | Path,
    options: EvaluateOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score the network in `checkpoint` on every part of its split, beside the baselines.

    progress: called with samples done and to do. Raises `CheckpointError`, `DataError`,
    `UsageError`, and `ImageError` for a damaged member.
    """
    options = options or EvaluateOptions()
    path = find_checkpoint(checkpoint)
    predictor = Predictor.load(path, options.device)
    opened = open_run(path, options.config, options.zip_dir)
    dataset, seed = opened.dataset, opened.config.seed
    rows = {name: thin(each, options.samples, seed) for name, each in opened.parts.items()}
    fitting = thin(opened.parts["train"], FIT_SAMPLES, seed)
    count = _Count(len(fitting) + sum(map(len, rows.values())), progress)
    try:
        base, threshold = _fit(dataset, fitting, options, seed, count)
        seeing = {predictor.network.name: _network_guesser(predictor), **base.seeing()}
        guessers = [seeing | base.blind()]
        if options.perturbed:
            again = {f"difference > {threshold} (best here)": difference_guesser(threshold)}
            guessers.append(seeing | again)
        parts = []
        for name, each in rows.items():
            scored = score(dataset, each, guessers, options.batch_size, seed, count.add)
            parts.append(Part(name, len(each), len(opened.parts[name]), tuple(scored)))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(
            f"the memory has no room for {options.batch_size} samples at once; lower --batch-size"
        ) from error
    finally:
        give_back()
    found = predictor.network
    quantity = dataset.quantity or found.quantity
    return Evaluation(
        *(str(path), found.name, found.epoch, found.step, quantity),
        relative=(quantity or {}).get("quantity", "depth_m") == "depth_m",
        parts=tuple(parts),
    )


def score(
    dataset: Any,
    rows: NDArray[np.int64],
    guessers: Sequence[Mapping[str, Guesser]],
    batch_size: int,
    seed: int,
    done: Callable[[int], None] | None = None,
) -> list[Scored]:
    """Score guessers on rows of a data set: those of `guessers[0]` on its pictures as they are,
    those of `guessers[1]`, if there, on the same pictures perturbed by `seed`."""
    scores = [{name: Scores() for name in each} for each in guessers]
    for some, batch in batches_of(dataset, rows, batch_size):
        zone = zones(batch["fg_bg_mask"])
        for disturbed, (each, gathered) in enumerate(zip(guessers, scores, strict=True)):
            shown = perturb(batch, seed, some) if disturbed else batch
            for name, guess in each.items():
                gathered[name].add(guess(shown), batch["fg_bg_mask"], batch["depth_fg_bg"], zone)
        if done is not None:
            done(len(some))
    return [
        Scored(name, bool(disturbed), each.means(), each.regions())
        for disturbed, gathered in enumerate(scores)
        for name, each in gathered.items()
    ]


def _network_guesser(predictor: Predictor) -> Guesser:
    def guess(batch: Batch) -> Guess:
        pair = torch.cat((batch["bg"], batch["fg_bg"]), dim=1)
        depth, mask = (each.cpu() for each in predictor.logits(pair))
        keep_freed(predictor.device)
        return Guess(mask, depth)

    return guess


def batches_of(
    dataset: Any, rows: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """(rows, samples as floats in [0, 1]) in order."""
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        yield some, dataset.prepare(dataset.load_batch(some))


def _fit(
    dataset: Any, rows: NDArray[np.int64], options: EvaluateOptions, seed: int, count: _Count
) -> tuple[Baselines, int]:
    """The baselines, and the best threshold on perturbed pictures (0 if not asked for)."""

    def told() -> Iterator[Batch]:
        for some, batch in batches_of(dataset, rows, options.batch_size):
            yield batch
            count.add(len(some))

    base = fit_baselines(told())
    if not options.perturbed:
        return base, 0
    batches = batches_of(dataset, rows, options.batch_size)
    return base, fit_threshold(perturb(batch, seed, some) for some, batch in batches)


class _Count:
    """Tells the progress callback how many samples are done."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, samples: int) -> None:
        self._done += samples
        if self._progress is not None:
            self._progress(self._done, self._total)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
