"""Figures of mask and depth, gathered batch by batch.

The one rule: mask, RMSE and SSIM are taken of each sample and then averaged, as in training; depth
by region is pooled over pixels, as `depthgen depth-agreement` does it. Neither depends on how
samples were batched.

The depth figures are those of Eigen et al. 2014, arXiv 1406.2283.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vathos.model.loss import metrics

if TYPE_CHECKING:
    from torch import Tensor

    from vathos.baselines import Guess

__all__ = ["REGIONS", "RegionFigures", "Scores", "zones"]

BORDER_PX = 3
# Zones do not overlap; regions are made of them. 0: rest, 1: border outside, 2: border inside, 3:
# inside.
ZONES = 4
REGIONS = {"cut-out": (2, 3), "border": (1, 2), "rest": (0,), "all": (0, 1, 2, 3)}
MASK_METRICS = {
    "iou": metrics.iou_per_sample,
    "dice": metrics.dice_per_sample,
    "soft_dice_half": metrics.soft_dice_half_per_sample,
}
DEPTH_METRICS = {"rmse": metrics.rmse_per_sample, "ssim": metrics.ssim_per_sample}
# Rows of the sums by zone.
PIXELS, SQUARES, COUNTED, ABS_REL, LOG10, DELTA = range(6)
DELTAS = 3
DELTA_BASE = 1.25


@dataclass(frozen=True)
class RegionFigures:
    """Depth in one region, over all its pixels; labels in [0, 1], NaN where there is no pixel.

    share: of all pixels. rmse: in units of the label. abs_rel: mean |p - d| / d. log10: mean of
    |log10 p - log10 d|. delta1 to delta3: share with max(p / d, d / p) < 1.25, 1.25², 1.25³. The
    relative ones leave out pixels whose label is 0.
    """

    share: float
    rmse: float
    abs_rel: float
    log10: float
    delta1: float
    delta2: float
    delta3: float


def zones(mask: Tensor) -> Tensor:
    """The zone of each pixel of masks (N, 1, H, W) float, 0 or 1: int64 of the same shape.

    The border is every pixel at most 3 px (Euclidean) from one on the other side of the mask's
    edge.
    """
    steps = torch.arange(-BORDER_PX, BORDER_PX + 1)
    disc = (steps[:, None] ** 2 + steps**2 <= BORDER_PX**2).float()[None, None]
    near_white = F.conv2d(mask, disc, padding=BORDER_PX) > 0
    near_black = F.conv2d(1 - mask, disc, padding=BORDER_PX) > 0
    return near_white.long() + mask.long() + (~near_black).long()


class Scores:
    """The figures of one guesser on one set of samples."""

    def __init__(self) -> None:
        self._samples: dict[str, list[Tensor]] = {}
        self._sums = torch.zeros(DELTA + DELTAS, ZONES, dtype=torch.float64)

    def add(self, guess: Guess, mask: Tensor, depth: Tensor, zone: Tensor) -> None:
        """A batch: mask and depth (N, 1, H, W) float labels, and `zones(mask)`; on the CPU."""
        if guess.mask is not None:
            for name, metric in MASK_METRICS.items():
                self._samples.setdefault(name, []).append(metric(guess.mask, mask))
        if guess.depth is not None:
            for name, metric in DEPTH_METRICS.items():
                self._samples.setdefault(name, []).append(metric(guess.depth, depth))
            self._add_regions(guess.depth, depth, zone.flatten())

    def means(self) -> dict[str, float]:
        """Means over the samples of what was guessed: iou, dice, soft_dice_half; rmse, ssim."""
        return {
            name: float(torch.cat(values).double().mean()) for name, values in self._samples.items()
        }

    def regions(self) -> dict[str, RegionFigures]:
        """Depth by region; empty if no depth was guessed."""
        whole = float(self._sums[PIXELS].sum())
        return {name: self._region(REGIONS[name], whole) for name in REGIONS} if whole else {}

    def _add_regions(self, logits: Tensor, depth: Tensor, zone: Tensor) -> None:
        label, truth = torch.sigmoid(logits.double()).flatten(), depth.double().flatten()
        counted = truth > 0
        safe = truth.masked_fill(~counted, 1.0)
        ratio = label / safe
        worse = torch.maximum(ratio, 1 / ratio)
        # The logarithm of a sigmoid is finite where the sigmoid itself has gone down to 0.
        decades = (F.logsigmoid(logits.double()).flatten() - safe.log()).abs() / math.log(10)
        rows = [
            torch.ones_like(truth),
            (label - truth).square(),
            counted.double(),
            (ratio - 1).abs() * counted,
            decades * counted,
        ]
        rows += [(worse < DELTA_BASE**power) & counted for power in range(1, DELTAS + 1)]
        for number, row in enumerate(rows):
            self._sums[number] += torch.bincount(zone, row.double(), ZONES)

    def _region(self, members: tuple[int, ...], whole: float) -> RegionFigures:
        sums = self._sums[:, list(members)].sum(1).tolist()
        relative = [_quotient(each, sums[COUNTED]) for each in sums[ABS_REL:]]
        rmse = math.sqrt(_quotient(sums[SQUARES], sums[PIXELS]))
        return RegionFigures(sums[PIXELS] / whole, rmse, *relative)


def _quotient(total: float, count: float) -> float:
    return total / count if count else math.nan
