"""What can be had without a network: the figures that a trained one must beat.

The one rule: a baseline is fitted on training samples, and then guesses as the network does, from a
batch to logits, so that both are scored by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from vathos.data_loader.dense_depth import Batch

    Guesser = Callable[[Batch], "Guess"]

__all__ = [
    "FIT_SAMPLES",
    "FIXED_THRESHOLD",
    "Baselines",
    "Guess",
    "difference",
    "difference_guesser",
    "fit_baselines",
    "fit_threshold",
]

FIXED_THRESHOLD = 12
FIT_SAMPLES = 512
LEVELS = 255
CERTAIN_LOGIT = 100.0  # its sigmoid is 1 in float32
NEAREST_TO_CERTAIN = 1e-6


@dataclass(frozen=True)
class Guess:
    """What is guessed of a batch: logits (N, 1, H, W) float32, None where nothing is guessed."""

    mask: Tensor | None = None
    depth: Tensor | None = None


@dataclass(frozen=True)
class Baselines:
    """Fitted on training samples.

    threshold: mask where |fg_bg - bg| exceeds it in any channel, of 255. mean_mask: how often each
    pixel is white, (H, W) float64 in [0, 1]; mask_threshold: mask where it exceeds this.
    mean_depth: the mean label of each pixel, (H, W) float64; depth: its mean.
    """

    threshold: int
    mean_mask: NDArray[np.float64]
    mask_threshold: float
    mean_depth: NDArray[np.float64]
    depth: float

    def seeing(self) -> dict[str, Guesser]:
        """By name, those that look at the pictures."""
        return {
            f"difference > {self.threshold} (best)": difference_guesser(self.threshold),
            f"difference > {FIXED_THRESHOLD}": difference_guesser(FIXED_THRESHOLD),
        }

    def blind(self) -> dict[str, Guesser]:
        """By name, those that guess the same whatever the pictures show."""
        mask = _certain(torch.from_numpy(self.mean_mask > self.mask_threshold))
        mean_depth = _logits(torch.from_numpy(self.mean_depth))
        constant = _logits(torch.full(self.mean_depth.shape, self.depth, dtype=torch.float64))
        return {
            f"mean mask > {self.mask_threshold:.2f} (best)": lambda batch: Guess(
                mask=_repeat(mask, batch)
            ),
            "mean depth of each pixel": lambda batch: Guess(depth=_repeat(mean_depth, batch)),
            f"depth {self.depth:.3f} everywhere": lambda batch: Guess(
                depth=_repeat(constant, batch)
            ),
        }


def difference_guesser(threshold: int) -> Guesser:
    """The mask is where `difference` exceeds `threshold`."""
    return lambda batch: Guess(
        mask=_certain(difference(batch["bg"], batch["fg_bg"]) > threshold)[:, None]
    )


def difference(bg: Tensor, fg_bg: Tensor) -> Tensor:
    """Largest difference over the channels: (N, 3, H, W) float in [0, 1] -> (N, H, W) uint8."""
    return ((fg_bg - bg).abs().amax(1) * LEVELS).round().to(torch.uint8)


def fit_baselines(batches: Iterable[Batch]) -> Baselines:
    """Fit all of them on batches of training samples, floats in [0, 1] of one size."""
    ious, masks, depths = np.zeros(LEVELS + 1), [], []
    for batch in batches:
        mask = _masks(batch)
        ious += _ious_of(difference(batch["bg"], batch["fg_bg"]).numpy(), mask)
        masks.append(mask)
        depths.append(batch["depth_fg_bg"][:, 0].double().sum(0).numpy())
    every = np.concatenate(masks)
    mean_mask = every.mean(axis=0)
    mean_depth = np.sum(depths, axis=0) / len(every)
    return Baselines(
        threshold=int(ious.argmax()),
        mean_mask=mean_mask,
        mask_threshold=_best_level(mean_mask, every),
        mean_depth=mean_depth,
        depth=float(mean_depth.mean()),
    )


def fit_threshold(batches: Iterable[Batch]) -> int:
    """The threshold of the difference, 0 to 255, with the best mean IoU."""
    ious = np.zeros(LEVELS + 1)
    for batch in batches:
        ious += _ious_of(difference(batch["bg"], batch["fg_bg"]).numpy(), _masks(batch))
    return int(ious.argmax())


def _masks(batch: Batch) -> NDArray[np.bool_]:
    return batch["fg_bg_mask"][:, 0].numpy() > 0.5


def _best_level(mean_mask: NDArray[np.float64], masks: NDArray[np.bool_]) -> float:
    """Above which mean the mask has the best mean IoU with the masks; tried at 256 levels."""
    highest = float(mean_mask.max()) or 1.0
    levels = np.floor(mean_mask / highest * LEVELS).astype(np.uint8)
    ious = _ious_of(np.broadcast_to(levels, masks.shape), masks)
    # Levels above the best one begin at the next: `levels > best` is `mean_mask >= this`.
    return np.nextafter((int(ious.argmax()) + 1) * highest / LEVELS, 0.0)


def _ious_of(change: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sum over the samples of the IoU at each threshold, (256,)."""
    return np.sum([_ious(*pair) for pair in zip(change, mask, strict=True)], axis=0)


def _ious(change: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of `change > t` with `mask` for each t from 0 to 255; two empty masks agree."""
    above = [
        # How many pixels exceed t: all of them, less those up to t.
        pixels.size - np.cumsum(np.bincount(pixels, minlength=LEVELS + 1))
        for pixels in (change[mask], change[~mask])
    ]
    union = int(mask.sum()) + above[1]
    return np.where(union == 0, 1.0, above[0] / np.maximum(union, 1))


def _certain(mask: Tensor) -> Tensor:
    return (mask.float() * 2 - 1) * CERTAIN_LOGIT


def _logits(labels: Tensor) -> Tensor:
    return torch.logit(labels, eps=NEAREST_TO_CERTAIN).float()


def _repeat(picture: Tensor, batch: Batch) -> Tensor:
    count: Any = len(batch["bg"])
    return picture.expand(count, 1, *picture.shape)
