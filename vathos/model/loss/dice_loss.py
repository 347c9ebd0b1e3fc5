"""Dice loss of the mask.

The one rule, as in all region losses here: a sample is scored by itself and the mean is taken over
samples, so that a large object does not hide a small one in the same batch.

Dice as a loss: Milletari et al. 2016, arXiv 1606.04797.
"""

from __future__ import annotations

from torch import Tensor, nn

from vathos.model.loss.inputs import both_empty, probabilities_and_labels

__all__ = ["DiceLoss", "dice_loss"]

EPS = 1e-6


def dice_loss(logits: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """1 - 2 |P T| / (|P| + |T| + eps) of each sample, then the mean.

    `logits` (N, ...) any real, `labels` the same shape in [0, 1]; returns a 0-d tensor in [0, 1].
    Raises ValueError if the shapes differ.

    An empty mask predicted empty (no probability above 0.5) costs 0. Nothing is lost by the step
    this makes: on an empty mask the formula is the constant 1 and has no gradient anyway; it is
    cross-entropy that empties a prediction.
    """
    probabilities, truth = probabilities_and_labels(logits, labels)
    probabilities, truth = probabilities.flatten(1), truth.flatten(1)
    overlap = (probabilities * truth).sum(1)
    loss = 1 - 2 * overlap / (probabilities.sum(1) + truth.sum(1) + eps)
    return loss.masked_fill(both_empty(logits, labels), 0.0).mean()


class DiceLoss(nn.Module):
    """`dice_loss` as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return dice_loss(logits, labels)
