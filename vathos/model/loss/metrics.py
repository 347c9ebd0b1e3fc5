"""Figures of merit: how good mask and depth are, apart from what is minimised.

The one rule: each figure is taken of a sample and then averaged, so that it does not depend on how
the samples were batched. The functions ending in `_per_sample` give the (N,) values themselves;
all take logits of any float type, reckon in float32 or better, and are finite on any finite input.

The depth figures are those of Eigen et al. 2014, arXiv 1406.2283. The relative ones (`abs_rel`,
`log10`, `delta`) leave out pixels whose label is 0, which nothing can be relative to; a sample
without any other pixel has no error: 0, 0 and 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional as F

from vathos.model.loss.inputs import probabilities_and_labels, widen
from vathos.model.loss.ssim_loss import ssim_map

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "abs_rel",
    "abs_rel_per_sample",
    "delta",
    "delta_per_sample",
    "dice",
    "dice_per_sample",
    "iou",
    "iou_per_sample",
    "log10",
    "log10_per_sample",
    "rmse",
    "rmse_per_sample",
    "soft_dice_half",
    "soft_dice_half_per_sample",
    "ssim",
    "ssim_per_sample",
]

EPS = 1e-6
DELTA_BASE = 1.25
SSIM_WINDOW = 11


def iou_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of each mask, (N,) in [0, 1]; two empty masks agree: 1.

    `outputs` (N, ...) logits, a pixel is predicted where its probability exceeds 0.5; `labels` the
    same shape in [0, 1], white where they exceed 0.5.
    """
    predicted, truth = _masks(outputs, labels)
    intersection = (predicted & truth).sum(1)
    union = (predicted | truth).sum(1)
    # Only an empty union is divided by 1; it then counts as full agreement.
    return (intersection / union.clamp(min=1)).masked_fill(union == 0, 1.0)


def dice_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Dice coefficient of each mask, 2 |P T| / (|P| + |T|), (N,) in [0, 1]; two empty masks: 1.

    Arguments as in `iou_per_sample`, of which it is 2 IoU / (1 + IoU).
    """
    predicted, truth = _masks(outputs, labels)
    intersection = (predicted & truth).sum(1)
    total = predicted.sum(1) + truth.sum(1)
    return (2 * intersection / total.clamp(min=1)).masked_fill(total == 0, 1.0)


def soft_dice_half_per_sample(outputs: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """The original's "IoU" of each sample, (N,) in [0, 0.5]: soft intersection / sum of both.

    It divides by the sum where the union belongs, which makes it half a Dice coefficient. Kept
    under its own name because all figures that the original published are on this scale.
    """
    probabilities, truth = probabilities_and_labels(outputs, labels)
    probabilities, truth = probabilities.flatten(1), truth.flatten(1)
    return (probabilities * truth).sum(1) / (probabilities.sum(1) + truth.sum(1) + eps)


def rmse_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Root of the mean squared error of each depth map, (N,), in units of the label.

    `outputs` (N, ...) logits, `labels` the same shape in [0, 1].
    """
    prediction, truth = probabilities_and_labels(outputs, labels)
    return (prediction - truth).square().flatten(1).mean(1).sqrt()


def abs_rel_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of |prediction - label| / label of each depth map, (N,), 0 or more.

    Arguments as in `rmse_per_sample`; pixels of label 0 are left out.
    """
    prediction, truth = probabilities_and_labels(outputs, labels)
    counted = truth > 0
    error = (prediction - truth).abs() / truth.masked_fill(~counted, 1.0)
    return _mean_of_counted(error, counted, 0.0)


def log10_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of |log10 prediction - log10 label| of each depth map, (N,), 0 or more.

    Arguments as in `rmse_per_sample`; pixels of label 0 are left out.
    """
    logits, truth = widen(outputs, labels)
    counted = truth > 0
    # The logarithm of a sigmoid is finite where the sigmoid itself has gone down to 0.
    error = (F.logsigmoid(logits) - truth.masked_fill(~counted, 1.0).log()).abs() / math.log(10)
    return _mean_of_counted(error, counted, 0.0)


def delta_per_sample(outputs: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Share of the pixels where max(prediction / label, label / prediction) < 1.25^k, (N,).

    Arguments as in `rmse_per_sample`; pixels of label 0 are left out. The field uses k = 1, 2, 3.
    """
    prediction, truth = probabilities_and_labels(outputs, labels)
    limit = DELTA_BASE**k
    # Multiplied out, because a prediction may be 0.
    near = (prediction < limit * truth) & (truth < limit * prediction)
    return _mean_of_counted(near.to(truth.dtype), truth > 0, 1.0)


def ssim_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean structural similarity of each depth map, (N,) in [-1, 1]; 1 where both are equal.

    `outputs` (N, C, H, W) logits, `labels` the same shape in [0, 1], H and W at least 6; the window
    of Wang et al. 2004: Gaussian, sigma 1.5, 11 x 11, mirrored at the border.
    """
    prediction, truth = probabilities_and_labels(outputs, labels)
    return ssim_map(prediction, truth, SSIM_WINDOW).flatten(1).mean(1)


def iou(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of `iou_per_sample`, a 0-d tensor."""
    return iou_per_sample(outputs, labels).mean()


def dice(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of `dice_per_sample`, a 0-d tensor."""
    return dice_per_sample(outputs, labels).mean()


def soft_dice_half(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of `soft_dice_half_per_sample`, a 0-d tensor."""
    return soft_dice_half_per_sample(outputs, labels).mean()


def rmse(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of `rmse_per_sample`, a 0-d tensor."""
    return rmse_per_sample(outputs, labels).mean()


def abs_rel(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of `abs_rel_per_sample`, a 0-d tensor."""
    return abs_rel_per_sample(outputs, labels).mean()


def log10(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of `log10_per_sample`, a 0-d tensor."""
    return log10_per_sample(outputs, labels).mean()


def delta(outputs: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Mean of `delta_per_sample`, a 0-d tensor."""
    return delta_per_sample(outputs, labels, k).mean()


def ssim(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of `ssim_per_sample`, a 0-d tensor."""
    return ssim_per_sample(outputs, labels).mean()


def _masks(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and true mask, each (N, pixels) bool."""
    return outputs.flatten(1) > 0, labels.flatten(1) > 0.5


def _mean_of_counted(values: Tensor, counted: Tensor, of_none: float) -> Tensor:
    """Mean of each sample's `values` where `counted`, (N,); `of_none` where nothing is counted."""
    values, counted = values.flatten(1), counted.flatten(1)
    number = counted.sum(1)
    mean = values.masked_fill(~counted, 0.0).sum(1) / number.clamp(min=1)
    return mean.masked_fill(number == 0, of_none)
