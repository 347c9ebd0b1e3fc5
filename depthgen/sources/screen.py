"""Looking at a picture before it is let in, whichever source it is from.

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
from depthgen.sources.checkerboard import has_painted_checkerboard
from depthgen.sources.likeness import fingerprint

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from depthgen.workspace import Kind

# What is wrong with the way to it. The passing ones are tried again by the next run.
UNREADABLE = "cannot be opened"
NO_ADDRESS = "not a web address"
PRIVATE = "a private address"
REDIRECTS = "too many redirects"
HTTP_REFUSED = "refused by its server"
OPTED_OUT = "opted out"
NO_CONNECTION = "no connection"
TIMED_OUT = "timed out"
SERVER_ERROR = "server error"
BROKEN_OFF = "broken off"
# What is wrong with the picture.
NOT_A_PICTURE = "not a picture"
DAMAGED = "damaged"
TOO_LARGE = "too large"
TOO_MANY_PIXELS = "too many pixels"
TOO_SMALL = "too small"
NO_TRANSPARENCY = "no transparency"
CHECKERBOARD = "a painted checkerboard"
ALL_TRANSPARENT = "fully transparent"
FAINT = "hardly opaque"
RECTANGLE = "a rectangle in a frame"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near-duplicate"

PASSING = (NO_CONNECTION, TIMED_OUT, SERVER_ERROR, BROKEN_OFF)
REASONS = (
    *(UNREADABLE, NO_ADDRESS, PRIVATE, REDIRECTS, HTTP_REFUSED, OPTED_OUT, *PASSING),
    *(NOT_A_PICTURE, DAMAGED, TOO_LARGE, TOO_MANY_PIXELS, TOO_SMALL),
    *(NO_TRANSPARENCY, CHECKERBOARD, ALL_TRANSPARENT, FAINT, RECTANGLE),
    *(DUPLICATE, NEAR_DUPLICATE),
)

_OPAQUE = 128
# Of all pixels; a few stray ones are no transparency.
_LEAST_CLEAR = 0.01
# Of a cut-out's own box. Rounded corners alone leave less of it clear; a hundred real cut-outs left
# 5 % clear at least, and had 21 % opaque.
_LEAST_CLEAR_IN_BOX = 0.02
_LEAST_OPAQUE_IN_BOX = 0.05
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
    phash: what `likeness.fingerprint` gave, for a picture that is let in.
    """

    reason: str = ""
    width: int = 0
    height: int = 0
    suffix: str = ""
    sha256: str = ""
    phash: str = ""


def screen(data: bytes, kind: Kind, limits: Limits) -> Verdict:
    """Judge the bytes of a picture; nothing is raised for a bad one."""
    if len(data) > limits.max_bytes:
        return Verdict(TOO_LARGE)
    sha256 = hashlib.sha256(data).hexdigest()
    width = height = 0
    reason = suffix = phash = ""
    try:
        width, height, suffix = images.identify(data, max_pixels=limits.max_pixels)
        if min(width, height) < limits.min_size:
            reason = TOO_SMALL
        else:
            reason, phash = _look(data, kind, limits.max_pixels)
    except NotAPictureError:
        reason = NOT_A_PICTURE
    except TooLargeError:
        reason = TOO_MANY_PIXELS
    except ImageError:
        reason = DAMAGED
    return Verdict(reason, width, height, suffix, sha256, phash)


def _look(data: bytes, kind: Kind, max_pixels: int) -> tuple[str, str]:
    """Why the decoded picture is refused, or nothing and its fingerprint."""
    if kind == "bg":
        return "", fingerprint(images.decode(data, "RGB", max_pixels=max_pixels))
    pixels = images.decode(data, "RGBA", max_pixels=max_pixels)
    reason = judge_alpha(pixels[:, :, 3])
    if reason == NO_TRANSPARENCY and has_painted_checkerboard(pixels[:, :, :3]):
        reason = CHECKERBOARD
    return (reason, "") if reason else ("", fingerprint(pixels))


def judge_alpha(alpha: NDArray[np.uint8]) -> str:
    """Why (H, W) alpha is not that of a cut-out, or an empty string.

    A cut-out has clear pixels (alpha 0), opaque ones (alpha at least 128), and an outline that is
    more than a rectangle with a clear frame around it.
    """
    clear = alpha == 0
    if clear.mean() < _LEAST_CLEAR:
        return NO_TRANSPARENCY
    box = alpha_box(alpha)
    if box is None:
        return ALL_TRANSPARENT
    left, top, right, bottom = box
    if (alpha[top:bottom, left:right] >= _OPAQUE).mean() < _LEAST_OPAQUE_IN_BOX:
        return FAINT
    return RECTANGLE if clear[top:bottom, left:right].mean() < _LEAST_CLEAR_IN_BOX else ""


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
