"""Gradient loss of the depth map: edges where the label has edges, and flat where it is flat.

The one rule: it compares slopes alone, so it does not see a depth map that is wrong by a constant;
add it to a loss that does.

Slopes of depth as a loss: Eigen and Fergus 2015, arXiv 1411.4734; the derivative is Sobel's.
"""

from __future__ import annotations

from kornia.filters import spatial_gradient
from torch import Tensor, nn

from vathos.model.loss.inputs import probabilities_and_labels

__all__ = ["GradLoss", "grad_loss"]


def grad_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean L1 between the x and y slopes of sigmoid(logits) and those of labels, a 0-d tensor.

    Slopes are in label units a pixel: Sobel, divided by 8, with the border repeated. `logits`
    (N, C, H, W) any real, `labels` the same shape in [0, 1]. Raises ValueError if the shapes
    differ.
    """
    prediction, truth = probabilities_and_labels(logits, labels)
    # A slope is linear, so the slope of the difference is the difference of the slopes, once.
    slopes: Tensor = spatial_gradient(prediction - truth, mode="sobel", normalized=True)
    return slopes.abs().mean()


class GradLoss(nn.Module):
    """`grad_loss` as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return grad_loss(logits, labels)
