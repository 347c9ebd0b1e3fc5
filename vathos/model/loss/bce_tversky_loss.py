"""Binary cross-entropy and Tversky loss of the mask together.

The one rule: the prices of too much and too little are the caller's; 0.6 and 0.5 are those that the
original had fixed.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vathos.model.loss.inputs import widen
from vathos.model.loss.tversky_loss import EPS, check_prices, tversky_loss

__all__ = ["BCETverskyLoss", "bce_tversky_loss"]

ALPHA = 0.6
BETA = 0.5
TVERSKY_WEIGHT = 2.0


def bce_tversky_loss(
    logits: Tensor, labels: Tensor, alpha: float = ALPHA, beta: float = BETA, eps: float = EPS
) -> Tensor:
    """Binary cross-entropy over all pixels + 2 x Tversky loss. Arguments as in `tversky_loss`."""
    cross_entropy = F.binary_cross_entropy_with_logits(*widen(logits, labels))
    return cross_entropy + TVERSKY_WEIGHT * tversky_loss(logits, labels, alpha, beta, eps)


class BCETverskyLoss(nn.Module):
    """`bce_tversky_loss` as a module. Raises ValueError if `alpha` or `beta` is negative."""

    def __init__(self, alpha: float = ALPHA, beta: float = BETA) -> None:
        super().__init__()
        check_prices(alpha, beta)
        self.alpha, self.beta = alpha, beta

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return bce_tversky_loss(logits, labels, self.alpha, self.beta)
