"""BerHu, the reverse Huber loss, of the depth map: L1 for small errors, squares for large ones.

The one rule: both branches and the border between them are taken of the same error, that of the
sigmoid, so that they meet at the border with one value and one slope.

The function: Zwald and Lambert-Lacroix 2012, arXiv 1207.6868. For depth, with the border at a fifth
of the batch's largest error: Laina et al. 2016, arXiv 1606.00373.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vathos.model.loss.inputs import probabilities_and_labels

__all__ = ["BerHuLoss", "berhu", "berhu_loss"]

THRESHOLD = 0.2


def berhu(error: Tensor, border: Tensor) -> Tensor:
    """|d| where |d| <= c, else (d^2 + c^2) / (2 c): `error` d any shape, `border` c a 0-d tensor.

    A border of 0 is raised to the smallest positive number, else an error of 0 had no gradient.
    """
    size = error.abs()
    border = border.clamp(min=torch.finfo(size.dtype).tiny)
    return torch.where(size <= border, size, (size * (size / border) + border) / 2)


def berhu_loss(logits: Tensor, labels: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Mean over all pixels of `berhu`(d, c), d = sigmoid(logits) - labels, a 0-d tensor.

    The border c is `threshold` x the largest |d| of the batch, and a constant to the gradient: one
    that went through it would reward the worst pixel for getting worse. `logits` any real, `labels`
    the same shape in [0, 1]. Raises ValueError if the shapes differ.
    """
    prediction, truth = probabilities_and_labels(logits, labels)
    error = prediction - truth
    return berhu(error, threshold * error.detach().abs().max()).mean()


class BerHuLoss(nn.Module):
    """`berhu_loss` as a module. Raises ValueError for a `threshold` that is not positive."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        super().__init__()
        if threshold <= 0:
            raise ValueError(f"threshold must be above 0, such as {THRESHOLD}; it is {threshold}")
        self.threshold = threshold

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return berhu_loss(logits, labels, self.threshold)
