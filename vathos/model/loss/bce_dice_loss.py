"""Binary cross-entropy and Dice loss of the mask together.

The one rule: cross-entropy is a mean over pixels, Dice over samples; the one moves every pixel, the
other keeps small objects from drowning in background.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vathos.model.loss.dice_loss import EPS, dice_loss
from vathos.model.loss.inputs import widen

__all__ = ["BCEDiceLoss", "bce_dice_loss"]

DICE_WEIGHT = 2.0


def bce_dice_loss(logits: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """Binary cross-entropy over all pixels + 2 x Dice loss. Arguments as in `dice_loss`."""
    cross_entropy = F.binary_cross_entropy_with_logits(*widen(logits, labels))
    return cross_entropy + DICE_WEIGHT * dice_loss(logits, labels, eps)


class BCEDiceLoss(nn.Module):
    """`bce_dice_loss` as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return bce_dice_loss(logits, labels)
