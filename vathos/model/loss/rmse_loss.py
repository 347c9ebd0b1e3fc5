"""Root mean squared error of the depth map.

The one rule, as in all losses of depth here: labels in [0, 1] are compared (of which the archive's
manifest says what they are in metres), over all pixels of the batch at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vathos.model.loss.inputs import probabilities_and_labels

__all__ = ["RMSELoss", "rmse_loss"]

EPS = 1e-6


def rmse_loss(logits: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """sqrt(mean over all pixels of (sigmoid(logits) - labels)^2 + eps), a 0-d tensor.

    `logits` any real, `labels` the same shape in [0, 1]. Under the root, `eps` keeps the gradient
    finite where prediction and label agree everywhere. Raises ValueError if the shapes differ.
    """
    prediction, truth = probabilities_and_labels(logits, labels)
    return torch.sqrt((prediction - truth).square().mean() + eps)


class RMSELoss(nn.Module):
    """`rmse_loss` as a module; `eps` stands under the root."""

    def __init__(self, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return rmse_loss(logits, labels, self.eps)
