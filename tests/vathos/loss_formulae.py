"""Losses and metrics once more, from their papers, in float64 NumPy.

The one rule: nothing here calls the code it is to check; every function takes arrays (N, 1, H, W)
of logits and labels and returns a float, or one value for each sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

EPS = 1e-6


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def bce(logits: Array, labels: Array) -> float:
    p = sigmoid(logits)
    return float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).mean())


def dice_loss(logits: Array, labels: Array) -> float:
    losses = []
    for p, t in zip(sigmoid(logits), labels, strict=True):
        losses.append(1 - 2 * (p * t).sum() / (p.sum() + t.sum() + EPS))
    return float(np.mean(losses))


def tversky_loss(logits: Array, labels: Array, alpha: float, beta: float) -> float:
    losses = []
    for p, t in zip(sigmoid(logits), labels, strict=True):
        both, only_p, only_t = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        losses.append(1 - both / (both + alpha * only_p + beta * only_t + EPS))
    return float(np.mean(losses))


def rmse_loss(logits: Array, labels: Array, eps: float = EPS) -> float:
    return float(np.sqrt(((sigmoid(logits) - labels) ** 2).mean() + eps))


def berhu_loss(logits: Array, labels: Array, threshold: float = 0.2) -> float:
    d = np.abs(sigmoid(logits) - labels).ravel()
    c = threshold * d.max()
    return float(np.mean([x if x <= c else (x**2 + c**2) / (2 * c) for x in d]))


def sobel(picture: Array) -> tuple[Array, Array]:
    """Slopes of (H, W) along x and y: Sobel / 8, the border repeated."""
    height, width = picture.shape
    padded = np.pad(picture, 1, mode="edge")
    x, y = np.zeros_like(picture), np.zeros_like(picture)
    for offset, weight in ((0, 1), (1, 2), (2, 1)):
        x += weight * (padded[offset : offset + height, 2:] - padded[offset : offset + height, :-2])
        y += weight * (padded[2:, offset : offset + width] - padded[:-2, offset : offset + width])
    return x / 8, y / 8


def grad_loss(logits: Array, labels: Array) -> float:
    errors = []
    for p, t in zip(sigmoid(logits)[:, 0], labels[:, 0], strict=True):
        errors += [np.abs(a - b).mean() for a, b in zip(sobel(p), sobel(t), strict=True)]
    return float(np.mean(errors))


def ssim_map(x: Array, y: Array, window: int) -> Array:
    """Wang et al. 2004, equation 13, of (H, W) pictures in [0, 1]; mirrored at the border."""
    reach = window // 2
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2

    def windows(picture: Array) -> Array:
        padded = np.pad(picture, reach, mode="reflect")
        return np.lib.stride_tricks.sliding_window_view(padded, (window, window))

    def mean(patches: Array) -> Array:
        return (patches * weights).sum((2, 3))

    x, y = windows(x), windows(y)
    mean_x, mean_y = mean(x), mean(y)
    from_x, from_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_x * mean_y + c1) * (2 * mean(from_x * from_y) + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (mean(from_x**2) + mean(from_y**2) + c2)
    )


def ssim(logits: Array, labels: Array, window: int = 11) -> Array:
    pairs = zip(sigmoid(logits)[:, 0], labels[:, 0], strict=True)
    return np.array([ssim_map(p, t, window).mean() for p, t in pairs])


def ssim_loss(logits: Array, labels: Array) -> float:
    return float(sum((1 - ssim(logits, labels, window).mean()) / 2 for window in (5, 11)))


def rmse_with_ssim_loss(logits: Array, labels: Array) -> float:
    return float(np.sqrt(ssim_loss(logits, labels) + EPS) + 4 * rmse_loss(logits, labels))


def iou(logits: Array, labels: Array) -> Array:
    values = []
    for z, t in zip(logits, labels > 0.5, strict=True):
        predicted = sigmoid(z) > 0.5
        union = (predicted | t).sum()
        values.append((predicted & t).sum() / union if union else 1.0)
    return np.array(values)


def dice(logits: Array, labels: Array) -> Array:
    values = []
    for z, t in zip(logits, labels > 0.5, strict=True):
        predicted = sigmoid(z) > 0.5
        total = predicted.sum() + t.sum()
        values.append(2 * (predicted & t).sum() / total if total else 1.0)
    return np.array(values)


def soft_dice_half(logits: Array, labels: Array) -> Array:
    """The original's metric: it divides by the sum of both, not by their union."""
    pairs = zip(sigmoid(logits), labels, strict=True)
    return np.array([(p * t).sum() / (p.sum() + t.sum() + EPS) for p, t in pairs])


def rmse(logits: Array, labels: Array) -> Array:
    pairs = zip(sigmoid(logits), labels, strict=True)
    return np.array([np.sqrt(((p - t) ** 2).mean()) for p, t in pairs])


def _labelled(logits: Array, labels: Array) -> list[tuple[Array, Array]]:
    pairs = zip(sigmoid(logits), labels, strict=True)
    return [(p[t > 0], t[t > 0]) for p, t in pairs]


def abs_rel(logits: Array, labels: Array) -> Array:
    return np.array([(np.abs(p - t) / t).mean() for p, t in _labelled(logits, labels)])


def log10(logits: Array, labels: Array) -> Array:
    pairs = _labelled(logits, labels)
    return np.array([np.abs(np.log10(p) - np.log10(t)).mean() for p, t in pairs])


def delta(logits: Array, labels: Array, k: int = 1) -> Array:
    pairs = _labelled(logits, labels)
    return np.array([(np.maximum(p / t, t / p) < 1.25**k).mean() for p, t in pairs])
