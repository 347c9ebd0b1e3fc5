"""Losses of the mask: Dice, and Dice with binary cross-entropy.

The maths stands in plain functions, the `nn.Module`s only carry parameters. The one rule: a sample
is scored by itself and the mean is taken over samples, so that a large object does not hide a small
one in the same batch.

Dice as a loss: Milletari et al. 2016, arXiv 1606.04797.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BCEDiceLoss", "DiceLoss", "bce_dice_loss", "dice_loss"]

EPS = 1e-6
DICE_WEIGHT = 2.0


def dice_loss(logits: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """1 - 2 |P T| / (|P| + |T| + eps) of each sample, then the mean.

    `logits` (N, ...) any real, `labels` the same shape in [0, 1]; returns a 0-d tensor in [0, 1].

    An empty mask predicted empty costs 0. "Predicted empty" means that no probability exceeds 0.5,
    as in `iou`: a sigmoid never reaches 0, so "no mass at all" would never happen. Nothing is lost
    by the step this makes: on an empty mask the formula is the constant 1 and has no gradient
    anyway; it is cross-entropy that empties a prediction.
    """
    probabilities = torch.sigmoid(logits).flatten(1)
    truth = labels.to(probabilities.dtype).flatten(1)
    overlap = (probabilities * truth).sum(1)
    loss = 1 - 2 * overlap / (probabilities.sum(1) + truth.sum(1) + eps)
    both_empty = (truth.sum(1) == 0) & (logits.flatten(1) <= 0).all(1)
    return loss.masked_fill(both_empty, 0.0).mean()


def bce_dice_loss(logits: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """Binary cross-entropy over all pixels + 2 x Dice loss. Shapes as in `dice_loss`."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels)
    return cross_entropy + DICE_WEIGHT * dice_loss(logits, labels, eps)


class DiceLoss(nn.Module):
    """`dice_loss` as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return dice_loss(logits, labels)


class BCEDiceLoss(nn.Module):
    """`bce_dice_loss` as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return bce_dice_loss(logits, labels)
