"""What can be had without a network: the figures that a trained one must beat.

The one rule: a baseline is fitted on training backgrounds and scored on test samples, exactly as
the network is, with the same definitions of IoU and RMSE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vathos.data_loader.dense_depth import MASK_THRESHOLD, normalise
from vathos.data_loader.split import thin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["FIXED_THRESHOLD", "Baselines", "difference", "measure_baselines"]

FIXED_THRESHOLD = 12
CHUNK = 64


@dataclass(frozen=True)
class Baselines:
    """Scores on the test samples.

    `difference_iou`: mask where |fg_bg - bg| exceeds `threshold` / 255 in any channel, the
    threshold that is best on the training samples; `difference_iou_at_12`: the same with 12 / 255.
    `depth_rmse`: predicting `depth`, the mean label of the training samples, everywhere.
    """

    threshold: int
    difference_iou: float
    difference_iou_at_12: float
    depth: float
    depth_rmse: float
    samples: int


def difference(bg: NDArray[np.uint8], fg_bg: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest difference over the channels: (..., 3, H, W) uint8 -> (..., H, W) uint8."""
    larger, smaller = np.maximum(bg, fg_bg), np.minimum(bg, fg_bg)
    return (larger - smaller).max(axis=-3)


def measure_baselines(
    dataset: Any,
    train_rows: NDArray[np.int64],
    test_rows: NDArray[np.int64],
    max_samples: int | None = 512,
    seed: int = 0,
) -> Baselines:
    """Fit on `train_rows`, score on `test_rows`; at most `max_samples` of either, drawn by `seed`.

    With `training.test_samples` equal to `max_samples` and the same seed, these are the very
    samples that the trainer tests.
    """
    if max_samples is not None:
        train_rows = thin(train_rows, max_samples, seed)
        test_rows = thin(test_rows, max_samples, seed)
    fitted = list(_score(dataset, train_rows))
    threshold = int(np.concatenate([ious for ious, _, _ in fitted]).mean(axis=0).argmax())
    depth = float(np.concatenate([means for _, means, _ in fitted]).mean())
    tested = list(_score(dataset, test_rows, depth))
    ious = np.concatenate([ious for ious, _, _ in tested]).mean(axis=0)
    rmse = np.concatenate([errors for _, _, errors in tested]).mean()
    return Baselines(
        threshold=threshold,
        difference_iou=float(ious[threshold]),
        difference_iou_at_12=float(ious[FIXED_THRESHOLD]),
        depth=depth,
        depth_rmse=float(rmse),
        samples=len(test_rows),
    )


def _score(
    dataset: Any, rows: NDArray[np.int64], depth: float = 0.0
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Chunks of (IoU (n, 256) at each threshold, mean label (n,), RMSE (n,) of `depth`)."""
    for start in range(0, len(rows), CHUNK):
        batch = dataset.load_batch(rows[start : start + CHUNK])
        change = difference(batch["bg"].numpy(), batch["fg_bg"].numpy())
        mask = batch["fg_bg_mask"].numpy()[:, 0] >= MASK_THRESHOLD
        labels = normalise({"depth_fg_bg": batch["depth_fg_bg"]})["depth_fg_bg"].double().numpy()
        errors = np.sqrt(((labels - depth) ** 2).mean(axis=(1, 2, 3)))
        ious = np.stack([_ious(*pair) for pair in zip(change, mask, strict=True)])
        yield ious, labels.mean(axis=(1, 2, 3)), errors


def _ious(change: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of `change > t` with `mask` for each t from 0 to 255; two empty masks agree."""
    above = [
        # How many pixels exceed t: all of them, less those up to t.
        pixels.size - np.cumsum(np.bincount(pixels, minlength=256))
        for pixels in (change[mask], change[~mask])
    ]
    union = int(mask.sum()) + above[1]
    return np.where(union == 0, 1.0, above[0] / np.maximum(union, 1))
