"""A picture of a prediction to look at: what was found, and how far everything is.

The one rule: it is for the eye only; the colours of its depth are stretched from the nearest to the
farthest point of the picture, which no stored label ever is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["draw_overlay"]

TINT = (255, 64, 0)
TINT_SHARE = 0.45
OUTLINE = (255, 255, 255)
LINE_EVERY_PX = 240  # a line a pixel thick for each of these of the shorter side


def draw_overlay(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], depth: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """(H, 2 W, 3) uint8: the picture with its mask tinted and outlined, and the depth in colours.

    Dark is near, bright is far. picture: (H, W, 3); mask and depth: (H, W).
    """
    shown = picture.astype(np.float32)
    shown[mask] += TINT_SHARE * (np.array(TINT, np.float32) - shown[mask])
    shown[_outline(mask, max(1, round(min(mask.shape) / LINE_EVERY_PX)))] = OUTLINE
    low, high = float(depth.min()), float(depth.max())
    colours = colormaps["viridis"]((depth - low) / max(high - low, 1e-6))[:, :, :3] * 255
    return (np.hstack([shown, colours]) + 0.5).astype(np.uint8)


def _outline(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The pixels outside the mask that are at most `thickness` steps from it."""
    grown = mask
    for _ in range(thickness):
        wide = np.pad(grown, 1)
        grown = grown | wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]
    return grown & ~mask
