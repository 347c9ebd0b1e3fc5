"""Pictures of samples and of what the network makes of them, as matplotlib figures.

The one rule: a figure is built as an object, without pyplot: no window, no global state, no figure
left open. Save one with `figure.savefig(path)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["plot4_batch", "plot_results", "plot_sample", "prediction_grid", "prediction_tiles"]

TITLES = {
    "bg": "background",
    "fg_bg": "composite",
    "fg_bg_mask": "mask",
    "pred_mask": "predicted mask",
    "depth_fg_bg": "depth",
    "pred_depth": "predicted depth",
}
SAMPLE_KEYS = ("bg", "fg_bg", "fg_bg_mask", "depth_fg_bg")
RESULT_KEYS = tuple(TITLES)
DEPTH_KEYS = ("depth_fg_bg", "pred_depth")
INCHES = 1.6
TITLE_INCHES = 0.3


def plot_sample(sample: Mapping[str, Tensor]) -> Figure:
    """The four pictures of one sample (tensors (C, H, W)) in a row."""
    return _grid({key: sample[key][None] for key in SAMPLE_KEYS}, SAMPLE_KEYS, 1)


def plot4_batch(batch: Mapping[str, Tensor]) -> Figure:
    """The first four samples of a batch (tensors (N, C, H, W)), four pictures each."""
    return _grid(batch, SAMPLE_KEYS, 4)


def plot_results(batch: Mapping[str, Tensor]) -> Figure:
    """The first eight samples of a batch with their predictions; keys as in `prediction_grid`."""
    return prediction_grid(batch, 8)


def prediction_grid(batch: Mapping[str, Tensor], samples: int = 8) -> Figure:
    """One row a sample: bg, composite, mask, predicted mask, depth, predicted depth.

    `batch` holds `bg`, `fg_bg` (N, 3, H, W) and `fg_bg_mask`, `depth_fg_bg`, `pred_mask`,
    `pred_depth` (N, 1, H, W); the predictions are probabilities, not logits; integers are taken on
    their full scale, floats in [0, 1]. Both depths of a row share one colour scale.
    """
    return _grid(batch, RESULT_KEYS, samples)


def prediction_tiles(batch: Mapping[str, Tensor], samples: int = 8) -> NDArray[np.uint8]:
    """The pictures of `prediction_grid` alone, pixel for pixel: (rows x H, 6 x W, 3) RGB."""
    rows = []
    for row in range(min(samples, len(batch["bg"]))):
        pictures = {key: _picture(batch[key][row]) for key in RESULT_KEYS}
        depths = np.concatenate([pictures[key].ravel() for key in DEPTH_KEYS])
        rows.append(np.hstack([_tile(key, pictures[key], depths) for key in RESULT_KEYS]))
    return np.vstack(rows)


def _grid(batch: Mapping[str, Tensor], keys: Sequence[str], rows: int) -> Figure:
    rows = min(rows, len(batch[keys[0]]))
    height = INCHES * rows + TITLE_INCHES
    figure = Figure(figsize=(INCHES * len(keys), height))
    axes = figure.subplots(rows, len(keys), squeeze=False)
    # Set by hand: matplotlib's own layout takes a second for such a grid.
    top = 1 - TITLE_INCHES / height
    figure.subplots_adjust(0.01, 0.01, 0.99, top, wspace=0.04, hspace=0.04)
    for row in range(rows):
        pictures = {key: _picture(batch[key][row]) for key in keys}
        depths = np.concatenate([pictures[key].ravel() for key in keys if key in DEPTH_KEYS])
        for axis, key in zip(axes[row], keys, strict=True):
            axis.imshow(pictures[key], **_style(key, depths))
            axis.set_axis_off()
            if row == 0:
                axis.set_title(TITLES[key], fontsize=8)
    return figure


def _tile(key: str, picture: NDArray[np.float32], depths: NDArray[np.float32]) -> NDArray[np.uint8]:
    if key in DEPTH_KEYS:
        low, high = float(depths.min()), float(depths.max())
        picture = colormaps["viridis"]((picture - low) / max(high - low, 1e-6))[:, :, :3]
    elif picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    return (picture * 255 + 0.5).astype(np.uint8)


def _style(key: str, depths: NDArray[np.float32]) -> dict[str, Any]:
    if key in DEPTH_KEYS:
        return {"cmap": "viridis", "vmin": float(depths.min()), "vmax": float(depths.max())}
    return {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}


def _picture(tensor: Tensor) -> NDArray[np.float32]:
    """(C, H, W) on any device to (H, W, 3) or (H, W), float32 in [0, 1]."""
    scale = 1.0 if tensor.is_floating_point() else float(torch.iinfo(tensor.dtype).max)
    array = (tensor.detach().to("cpu", torch.float32) / scale).numpy()
    return array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0).clip(0, 1)
