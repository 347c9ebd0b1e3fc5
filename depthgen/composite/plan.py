"""Which size, and where: the plan of every sample, before a pixel is touched.

The one rule: a sample's draw depends on (seed, bg, fg, placement, flip) alone, never on how many
others there are. Each sample owns one block of the counter-based generator Philox4x64-10 (Salmon
et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011): key (seed, domain), counter
(1 + 2 · placement + flip, fg, bg, 0). The raw words become integers by our own arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = 16
_DOMAIN = 0x636F6D706F736974  # "composit": keeps these draws apart from any other use of a seed
_WORDS = 4


@dataclass(frozen=True)
class Plan:
    """The samples of one background and one cut-out, in the order placement, flip.

    All arrays are (n,): size is the index of the drawn size, x and y the top left corner in pixels.
    """

    flip: NDArray[np.int64]
    size: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]


def scales(low: float, high: float) -> NDArray[np.float64]:
    """(16,) evenly spaced sizes, as fractions of the background's side; both ends included."""
    return low + (high - low) * np.arange(SIZES) / (SIZES - 1)


def cutout_sizes(
    width: int, height: int, side: int, fractions: NDArray[np.float64]
) -> NDArray[np.int64]:
    """(16, 2) widths and heights in pixels of a cut-out whose longest side is a fraction of `side`.

    No side is less than one pixel or more than the background's.
    """
    longest = np.clip(np.floor(fractions * side + 0.5), 1, side)
    shape = np.array([width, height], np.float64) / max(width, height)
    return np.clip(np.floor(longest[:, None] * shape + 0.5), 1, side).astype(np.int64)


def plan_pair(
    seed: int, bg: int, fg: int, placements: int, flips: int, side: int, sizes: NDArray[np.int64]
) -> Plan:
    """Draw the samples of background `bg` with cut-out `fg`.

    sizes: (16, 2) from `cutout_sizes`. flips: 2, or 1 for unmirrored samples only, which are then
    the same as they would be among both.
    """
    # As arrays: a list with a number beyond 2^63 would pass through float64 and lose bits.
    key, counter = np.array([seed, _DOMAIN], np.uint64), np.array([0, fg, bg, 0], np.uint64)
    generator = np.random.Philox(key=key, counter=counter)
    raw = generator.random_raw(placements * 2 * _WORDS).reshape(placements, 2, _WORDS)
    words = raw[:, :flips].reshape(-1, _WORDS)
    size = below(words[:, 0], np.uint64(SIZES))
    room = side - sizes[size] + 1  # positions at which it fits, both ends included
    return Plan(
        flip=np.tile(np.arange(flips), placements),
        size=size,
        x=below(words[:, 1], room[:, 0].astype(np.uint64)),
        y=below(words[:, 2], room[:, 1].astype(np.uint64)),
    )


def below(words: NDArray[np.uint64], limit: NDArray[np.uint64] | np.uint64) -> NDArray[np.int64]:
    """Integers in [0, limit) from raw 64-bit words, limit < 2^32: the upper 32 bits times limit.

    Off uniform by less than limit / 2^32.
    """
    return (((words >> np.uint64(32)) * limit) >> np.uint64(32)).astype(np.int64)
