"""Root mean squared error and structural dissimilarity of the depth map together.

The one rule: whatever stands under a root has `eps` added, so that a perfect prediction has a
gradient of 0 and not of 0 / 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vathos.model.loss.rmse_loss import EPS, rmse_loss
from vathos.model.loss.ssim_loss import ssim_loss

__all__ = ["RMSEwSSIMLoss", "rmse_with_ssim_loss"]

RMSE_WEIGHT = 4.0


def rmse_with_ssim_loss(logits: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """sqrt(SSIM loss + eps) + 4 x RMSE loss, a 0-d tensor. Arguments as in `ssim_loss`."""
    dissimilarity = torch.sqrt(ssim_loss(logits, labels) + eps)
    return dissimilarity + RMSE_WEIGHT * rmse_loss(logits, labels, eps)


class RMSEwSSIMLoss(nn.Module):
    """`rmse_with_ssim_loss` as a module; `eps` stands under both roots."""

    def __init__(self, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return rmse_with_ssim_loss(logits, labels, self.eps)
