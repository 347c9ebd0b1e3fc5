"""Losses of the depth map.

The one rule: the sigmoid is taken once, inside, and the loss compares labels in [0, 1] (of which
the archive's manifest says what they are in metres).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RMSELoss", "rmse_loss"]


def rmse_loss(logits: Tensor, labels: Tensor, eps: float = 1e-6) -> Tensor:
    """sqrt(mean over all pixels of (sigmoid(logits) - labels)^2 + eps), a 0-d tensor.

    `logits` any real, `labels` the same shape in [0, 1]. Under the root, `eps` keeps the gradient
    finite where prediction and label agree everywhere.
    """
    return torch.sqrt((torch.sigmoid(logits) - labels).square().mean() + eps)


class RMSELoss(nn.Module):
    """`rmse_loss` as a module; `eps` stands under the root."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return rmse_loss(logits, labels, self.eps)
