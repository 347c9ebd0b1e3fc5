"""What a label's numbers are.

The one rule: a label is metres / 10, clipped to [0.01, 1], on one scale for all pictures; it is
never stretched to a picture's own minimum and maximum, so that samples can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

import numpy as np

from depthgen import images
from depthgen.workspace import Member, sample_member

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthgen.archive import Entry

FAR_M = 10.0
NEAREST_LABEL = 0.01
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Quantity:
    """What stands in the manifest and in the archive, so that either alone says what it is.

    value / (2^bits − 1) is the label, in [0, 1]; a float32 `.npy` member holds the label itself
    (bits 32). For `depth_m` metres = scale_m · label; other quantities have no unit, and scale_m is
    None. The label 1 stands for the network's value full_scale. weights: SHA-256 of the network's;
    precision: what it computed in; both empty where there is none.
    """

    quantity: Literal["depth_m", "depth_relative", "inverse_depth_relative"]
    scale_m: float | None
    bits: int
    model: str
    size: int
    full_scale: float = 1.0
    weights: str = ""
    precision: str = ""


def to_metres(stored: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Background depth as stored → metres: uint16 is millimetres, uint8 label · 255, float metres.

    Raises `ImageError` where a depth is not finite or not positive: a sensor's hole is no depth.
    """
    if stored.dtype == np.uint16:
        metres = stored / 1000.0
    elif stored.dtype == np.uint8:
        metres = stored / 255.0 * FAR_M
    else:
        metres = stored.astype(np.float64)
    holes = np.count_nonzero(~(np.isfinite(metres) & (metres > 0)))
    if holes:
        raise images.ImageError(f"{name} has {holes} pixels without a depth; fill them first")
    return metres


def quantise(metres: NDArray[np.float64] | float, bits: int) -> NDArray[Any]:
    """Metres → integers: floor((2^bits − 1) · clip(metres / 10, 0.01, 1)), uint8 or uint16.

    With 32 bits the label itself, float32.
    A value that rounding in float64 has put just below an integer counts as that integer, so that
    an 8-bit depth map comes out as it went in.
    """
    label = np.clip(np.asarray(metres) / FAR_M, NEAREST_LABEL, 1.0)
    if bits == 32:
        return label.astype(np.float32)
    return np.floor(label * (2**bits - 1) + _ROUNDING).astype(np.uint8 if bits == 8 else np.uint16)


def label_entry(member: Member, label: NDArray[Any]) -> Entry:
    """The label member of a sample: a PNG of integers, or a `.npy` of float32."""
    data = images.encode_depth(label)
    suffix = ".npy" if label.dtype == np.float32 else ".png"
    return sample_member("depth_fg_bg", member, suffix), data, crc32(data)
