"""Figures of merit: how good mask and depth are, apart from what is minimised.

The one rule: each figure is taken of a sample and then averaged, so that it does not depend on how
the samples were batched. The functions ending in `_per_sample` give the (N,) values themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "iou",
    "iou_per_sample",
    "rmse",
    "rmse_per_sample",
    "soft_dice_half",
    "soft_dice_half_per_sample",
]

EPS = 1e-6


def iou_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of each mask, (N,) in [0, 1]; two empty masks agree: 1.

    `outputs` (N, ...) logits, a pixel is predicted where its probability exceeds 0.5; `labels` the
    same shape in [0, 1], white where they exceed 0.5.
    """
    predicted = outputs.flatten(1) > 0
    truth = labels.flatten(1) > 0.5
    intersection = (predicted & truth).sum(1)
    union = (predicted | truth).sum(1)
    # Only an empty union is divided by 1; it then counts as full agreement.
    return torch.where(union == 0, 1.0, intersection / union.clamp(min=1))


def soft_dice_half_per_sample(outputs: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """The original's "IoU" of each sample, (N,) in [0, 0.5]: soft intersection / sum of both.

    It divides by the sum where the union belongs, which makes it half a Dice coefficient. Kept
    under its own name because all figures that the original published are on this scale.
    """
    probabilities = torch.sigmoid(outputs).flatten(1)
    truth = labels.to(probabilities.dtype).flatten(1)
    return (probabilities * truth).sum(1) / (probabilities.sum(1) + truth.sum(1) + eps)


def rmse_per_sample(outputs: Tensor, labels: Tensor) -> Tensor:
    """Root of the mean squared error of each depth map, (N,), in units of the label.

    `outputs` (N, ...) logits, `labels` the same shape in [0, 1].
    """
    error = torch.sigmoid(outputs) - labels
    return error.square().flatten(1).mean(1).sqrt()


def iou(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of `iou_per_sample`, a 0-d tensor."""
    return iou_per_sample(outputs, labels).mean()


def soft_dice_half(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of `soft_dice_half_per_sample`, a 0-d tensor."""
    return soft_dice_half_per_sample(outputs, labels).mean()


def rmse(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of `rmse_per_sample`, a 0-d tensor."""
    return rmse_per_sample(outputs, labels).mean()
