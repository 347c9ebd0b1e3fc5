"""The animals' proportions and coats, as a table.

The one rule: numbers only; how they become a body stands in `creatures`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthgen.sources.bodies import PATCHES, PLAIN_COAT, SPOTS, TABBY

if TYPE_CHECKING:
    from depthgen.sources.furniture import Vector


@dataclass(frozen=True)
class Beast:
    """Proportions of a four-legged animal, in metres, radians and display colours."""

    back: float
    length: float
    chest: float
    hip: float
    leg: float
    neck: float
    rise: float
    skull: float
    snout: float
    muzzle: float
    ear: tuple[float, float, float]
    tail: tuple[float, float, float]
    coats: tuple[tuple[Vector, int, Vector, float], ...]
    horn: str = ""
    hoof: bool = False


_WHITE, _CREAM, _BLACK = (0.92, 0.90, 0.86), (0.87, 0.77, 0.60), (0.14, 0.13, 0.13)
_BROWN, _GOLD, _GREY = (0.42, 0.29, 0.19), (0.76, 0.56, 0.32), (0.52, 0.50, 0.48)

BEASTS: dict[str, Beast] = {
    # ear: length, width, upward share; tail: length, upward angle, width
    "dog": Beast(
        0.50,
        0.50,
        0.150,
        0.110,
        0.042,
        0.22,
        0.85,
        0.100,
        0.15,
        0.050,
        (0.11, 0.034, -0.5),
        (0.32, 0.7, 0.028),
        (
            (_GOLD, PLAIN_COAT, _CREAM, 0.8),
            (_BROWN, PLAIN_COAT, _GOLD, 0.7),
            (_BLACK, PATCHES, _WHITE, 0.6),
            (_WHITE, PATCHES, _BROWN, 0.0),
            (_WHITE, SPOTS, _BLACK, 0.0),
            (_CREAM, PLAIN_COAT, _WHITE, 0.6),
        ),
    ),
    "cat": Beast(
        0.24,
        0.26,
        0.072,
        0.068,
        0.022,
        0.07,
        0.9,
        0.062,
        0.040,
        0.026,
        (0.055, 0.020, 1.0),
        (0.28, 0.9, 0.016),
        (
            (_GREY, TABBY, (0.2, 0.19, 0.18), 0.0),
            (_GOLD, TABBY, (0.6, 0.35, 0.15), 0.0),
            (_BLACK, PLAIN_COAT, _BLACK, 0.0),
            (_WHITE, PATCHES, _GREY, 0.0),
            ((0.66, 0.55, 0.42), TABBY, _BROWN, 0.0),
        ),
    ),
    "deer": Beast(
        0.92,
        0.80,
        0.185,
        0.165,
        0.044,
        0.44,
        1.05,
        0.095,
        0.17,
        0.046,
        (0.15, 0.032, 0.4),
        (0.14, -0.6, 0.034),
        (((0.60, 0.42, 0.27), PLAIN_COAT, _CREAM, 0.9), ((0.66, 0.46, 0.29), SPOTS, _WHITE, 0.9)),
        "antlers",
        True,
    ),
    "goat": Beast(
        0.62,
        0.58,
        0.170,
        0.155,
        0.038,
        0.24,
        0.85,
        0.085,
        0.12,
        0.045,
        (0.11, 0.028, -0.2),
        (0.12, 0.8, 0.022),
        (
            (_WHITE, PLAIN_COAT, _CREAM, 0.5),
            (_BROWN, PATCHES, _WHITE, 0.0),
            (_GREY, PLAIN_COAT, _BLACK, 0.5),
            (_CREAM, PLAIN_COAT, _WHITE, 0.4),
        ),
        "curved",
        True,
    ),
    "bear": Beast(
        0.95,
        0.92,
        0.290,
        0.290,
        0.105,
        0.20,
        0.30,
        0.190,
        0.20,
        0.080,
        (0.06, 0.050, 0.9),
        (0.06, -0.5, 0.05),
        (
            ((0.34, 0.23, 0.15), PLAIN_COAT, _BROWN, 0.2),
            (_BLACK, PLAIN_COAT, _BROWN, 0.1),
            (_WHITE, PLAIN_COAT, _CREAM, 0.4),
            ((0.48, 0.34, 0.21), PLAIN_COAT, _GOLD, 0.2),
        ),
    ),
    "cow": Beast(
        1.25,
        1.35,
        0.360,
        0.330,
        0.072,
        0.40,
        0.35,
        0.165,
        0.27,
        0.095,
        (0.18, 0.045, 0.0),
        (0.75, -1.35, 0.028),
        (
            (_WHITE, PATCHES, _BLACK, 0.0),
            (_BROWN, PATCHES, _WHITE, 0.0),
            ((0.62, 0.40, 0.24), PLAIN_COAT, _CREAM, 0.4),
            (_BLACK, PATCHES, _WHITE, 0.0),
        ),
        "short",
        True,
    ),
}
