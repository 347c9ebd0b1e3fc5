"""Tversky loss of the mask: Dice with prices of their own for too much and too little.

The one rule, as in all region losses here: a sample is scored by itself and the mean is taken over
samples.

Tversky index as a loss: Salehi et al. 2017, arXiv 1706.05721.
"""

from __future__ import annotations

from torch import Tensor, nn

from vathos.model.loss.inputs import both_empty, probabilities_and_labels

__all__ = ["TverskyLoss", "check_prices", "tversky_loss"]

EPS = 1e-6


def tversky_loss(
    logits: Tensor, labels: Tensor, alpha: float, beta: float, eps: float = EPS
) -> Tensor:
    """1 - |P T| / (|P T| + alpha |P (1 - T)| + beta |(1 - P) T| + eps) of each sample, the mean.

    `alpha` is the price of what is predicted and not labelled, `beta` of what is labelled and not
    predicted; 0.5 and 0.5 make it Dice, 1 and 1 the soft intersection over union. `logits` (N, ...)
    any real, `labels` the same shape in [0, 1]; returns a 0-d tensor in [0, 1]. An empty mask
    predicted empty (no probability above 0.5) costs 0. Raises ValueError if the shapes differ.
    """
    probabilities, truth = probabilities_and_labels(logits, labels)
    probabilities, truth = probabilities.flatten(1), truth.flatten(1)
    overlap = (probabilities * truth).sum(1)
    too_much = (probabilities * (1 - truth)).sum(1)
    too_little = ((1 - probabilities) * truth).sum(1)
    loss = 1 - overlap / (overlap + alpha * too_much + beta * too_little + eps)
    return loss.masked_fill(both_empty(logits, labels), 0.0).mean()


def check_prices(alpha: float, beta: float) -> None:
    """Raise ValueError if a price is negative: such a loss would reward the error."""
    if alpha < 0 or beta < 0:
        raise ValueError(f"alpha and beta must be 0 or more; they are {alpha} and {beta}")


class TverskyLoss(nn.Module):
    """`tversky_loss` as a module. Raises ValueError if `alpha` or `beta` is negative."""

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        check_prices(alpha, beta)
        self.alpha, self.beta = alpha, beta

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return tversky_loss(logits, labels, self.alpha, self.beta)
