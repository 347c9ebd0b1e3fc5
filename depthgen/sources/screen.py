"""Looking at a picture before it is let in.

The one rule: a picture is judged by decoding it whole, never by its name or its header, and each
refusal has one of a few fixed reasons, so that they can be counted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthgen import images
from depthgen.depth.quantity import to_metres
from depthgen.images import ImageError, NotAPictureError, TooLargeError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from depthgen.workspace import Kind

UNREADABLE = "cannot be opened"
NOT_A_PICTURE = "not a picture"
DAMAGED = "damaged"
TOO_LARGE = "too large"
TOO_SMALL = "too small"
NO_TRANSPARENCY = "no transparency"
ALL_TRANSPARENT = "fully transparent"
FAINT = "nothing opaque"
RECTANGLE = "a rectangle in a frame"
DUPLICATE = "duplicate"

REASONS = (
    UNREADABLE,
    NOT_A_PICTURE,
    DAMAGED,
    TOO_LARGE,
    TOO_SMALL,
    NO_TRANSPARENCY,
    ALL_TRANSPARENT,
    FAINT,
    RECTANGLE,
    DUPLICATE,
)

_OPAQUE = 128
# A cut-out leaves at least this part of its own box clear; rounded corners alone do not.
_LEAST_CLEAR = 0.002
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Limits:
    """What is let in: `min_size` is of the smallest side, in pixels."""

    min_size: int = 32
    max_pixels: int = images.MAX_PIXELS
    max_bytes: int = images.MAX_BYTES


@dataclass(frozen=True)
class Verdict:
    """What screening found out. `reason` is empty for a picture that is let in.

    width, height: as shown, after EXIF rotation; 0 where unknown. suffix: of the real format.
    """

    reason: str = ""
    width: int = 0
    height: int = 0
    suffix: str = ""
    sha256: str = ""


def screen(data: bytes, kind: Kind, limits: Limits) -> Verdict:
    """Judge the bytes of a picture; nothing is raised for a bad one."""
    if len(data) > limits.max_bytes:
        return Verdict(TOO_LARGE)
    sha256 = hashlib.sha256(data).hexdigest()
    width = height = 0
    try:
        width, height = images.size_of(data, max_pixels=limits.max_pixels)
        reason, suffix = _look(data, kind, limits, min(width, height))
    except NotAPictureError:
        reason, suffix = NOT_A_PICTURE, ""
    except TooLargeError:
        reason, suffix = TOO_LARGE, ""
    except ImageError:
        reason, suffix = DAMAGED, ""
    return Verdict(reason, width, height, suffix, sha256)


def _look(data: bytes, kind: Kind, limits: Limits, side: int) -> tuple[str, str]:
    suffix = images.suffix_of(data, max_pixels=limits.max_pixels)
    if side < limits.min_size:
        return TOO_SMALL, suffix
    if kind == "bg":
        images.decode(data, "RGB", max_pixels=limits.max_pixels)
        return "", suffix
    pixels = images.decode(data, "RGBA", max_pixels=limits.max_pixels)
    return judge_alpha(pixels[:, :, 3]), suffix


def judge_alpha(alpha: NDArray[np.uint8]) -> str:
    """Why (H, W) alpha is not that of a cut-out, or an empty string."""
    visible = alpha > 0
    if visible.all():
        return NO_TRANSPARENCY
    box = alpha_box(alpha)
    if box is None:
        return ALL_TRANSPARENT
    if alpha.max() < _OPAQUE:
        return FAINT
    left, top, right, bottom = box
    clear = 1.0 - float(visible[top:bottom, left:right].mean())
    return RECTANGLE if clear < _LEAST_CLEAR else ""


def alpha_box(alpha: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of what is not fully transparent, right and bottom excluded."""
    rows = np.flatnonzero(alpha.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(alpha.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def depth_problem(data: bytes, width: int, height: int, name: str) -> str:
    """Why these bytes are no depth map for a picture of this size, or an empty string.

    Its size may differ, its shape may not: both are cropped to their own centred square. Every
    pixel needs a depth, as `to_metres` demands when it comes to labels.
    """
    try:
        depth: NDArray[Any] = images.decode_depth(data, name=name)
        to_metres(depth, name)
    except ImageError as error:
        return str(error)
    rows, columns = depth.shape
    if abs(columns * height - rows * width) > _ASPECT_TOLERANCE * rows * width:
        return f"{name} is {columns} × {rows}, another shape than its picture, {width} × {height}"
    return ""
