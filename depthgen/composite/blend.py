"""Pasting a cut-out with 8-bit alpha: source-over, bit-exact with Pillow's `paste(fg, xy, fg)`.

The one rule: `t = bg · (255 − a) + fg · a + 128; (t + (t >> 8)) >> 8`, in integers. Everything that
does not depend on the background is computed once for a cut-out's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cutout:
    """A cut-out at one size, made ready for pasting.

    weighted: uint16 (h, w, 3), fg · a + 128. clear: uint16 (h, w, 3), 255 − a. Three equal channels
    of alpha let NumPy run over the whole picture in one loop, four times as fast as a broadcast.
    mask: bool (h, w), a > 0.
    """

    weighted: NDArray[np.uint16]
    clear: NDArray[np.uint16]
    mask: NDArray[np.bool_]

    @classmethod
    def prepare(cls, pixels: NDArray[np.uint8]) -> Cutout:
        """From (h, w, 4) with straight alpha; the colours in the order of the background's."""
        alpha = np.repeat(pixels[:, :, 3:].astype(np.uint16), 3, axis=2)
        weighted = pixels[:, :, :3] * alpha + np.uint16(128)
        return cls(weighted, 255 - alpha, np.ascontiguousarray(pixels[:, :, 3] > 0))

    @property
    def nbytes(self) -> int:
        return self.weighted.nbytes + self.clear.nbytes + self.mask.nbytes


def paste(background: NDArray[np.uint8], cutout: Cutout, x: int, y: int) -> None:
    """Blend `cutout` into `background` (H, W, 3) in place, its top left corner at (x, y)."""
    height, width = cutout.mask.shape
    region = background[y : y + height, x : x + width]
    total = region * cutout.clear  # at most 255 · 255 + 128, and + 254 below: uint16 holds it
    total += cutout.weighted
    total += total >> 8
    total >>= 8
    region[...] = total
