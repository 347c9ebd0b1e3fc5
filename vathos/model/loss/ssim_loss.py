"""Structural dissimilarity of the depth map, seen through a small and a large window.

The one rule: the windows are Gaussian with sigma 1.5 and slide over the whole picture, mirrored at
the border, so every pixel counts once in each.

SSIM: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity",
IEEE Transactions on Image Processing 13(4), with their constants 0.01 and 0.03.
"""

from __future__ import annotations

import kornia.metrics
from torch import Tensor, nn

from vathos.model.loss.inputs import probabilities_and_labels

__all__ = ["SSIMLoss", "ssim_loss", "ssim_map"]

WINDOWS = (5, 11)


def ssim_map(prediction: Tensor, truth: Tensor, window: int) -> Tensor:
    """SSIM around each pixel, (N, C, H, W) in [-1, 1]; 1 where both are equal.

    `prediction` and `truth` (N, C, H, W) in [0, 1], float32 or float64; `window` odd, in pixels.
    Raises ValueError for pictures that the window cannot be mirrored into.
    """
    height, width = prediction.shape[-2:]
    least = window // 2 + 1
    if min(height, width) < least:
        raise ValueError(
            f"SSIM with a window of {window} pixels needs pictures of at least {least} x {least}; "
            f"these are {height} x {width}"
        )
    # kornia's eps in the denominator would keep two equal black pictures from scoring 1; the
    # constants of SSIM already keep it away from 0.
    result: Tensor = kornia.metrics.ssim(prediction, truth, window, max_val=1.0, eps=0.0)
    return result


def ssim_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of (1 - SSIM) / 2 over all pixels, once with a 5 x 5 and once with an 11 x 11 window.

    Returns the sum of the two, a 0-d tensor in [0, 2]. `logits` (N, C, H, W) any real, `labels` the
    same shape in [0, 1], H and W at least 6. Raises ValueError for smaller pictures and if the
    shapes differ.
    """
    prediction, truth = probabilities_and_labels(logits, labels)
    # Rounding can carry the SSIM of equal pictures past 1, and a root may be taken of this loss.
    small, large = (
        ((1 - ssim_map(prediction, truth, window)) / 2).clamp(0, 1).mean() for window in WINDOWS
    )
    return small + large


class SSIMLoss(nn.Module):
    """`ssim_loss` as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return ssim_loss(logits, labels)
