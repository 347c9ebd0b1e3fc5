"""How much two depth labels of one picture are alike, by region, as sums that can be added up.

The one rule: a figure is of pixels, pooled over all pictures; only scale and shift are fitted, to
each picture as a whole, and its regions share the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from depthgen import images
from depthgen.errors import StageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthgen.archive import Archive
    from depthgen.depth.quantity import Quantity

BORDER_PX = 3
# Zones do not overlap; regions are made of them. 0: rest, 1: border outside, 2: border inside, 3:
# inside.
ZONES = 4
REGIONS = {"cut-out": (2, 3), "border": (1, 2), "rest": (0,), "all": (0, 1, 2, 3)}
MEASURES = ("absrel", "rmse", "log10", "delta1", "delta2", "delta3", "ssi_rmse")
BINS = 128

_DELTA = 1.25
_NEAREST_M = 0.5  # of the axis on which inverse depths are drawn
_FULL = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


@dataclass(frozen=True)
class Comparison:
    """In what two labels are compared. The second is the truth.

    metric: whether both are metres; otherwise only the fitted figure means anything. inverted:
    which of the two are turned from depth to 1 / depth. scales: metres of a label of 1, of either,
    or 1 where it has no unit. unit: of what is compared, `m`, `1/m` or `label`. top: where its axis
    is drawn to. note: why figures are missing, a sentence; empty where none is.
    """

    metric: bool
    inverted: tuple[bool, bool]
    scales: tuple[float, float]
    unit: str
    top: float
    note: str = ""


def compare(first: Quantity, second: Quantity) -> Comparison:
    """How to compare labels of two quantities.

    Metres with metres as they are. Otherwise what has a unit only up to scale and shift is fitted:
    inverse depth in inverse depth, relative depth in depth. Raises `StageError` for relative depth
    against inverse depth: with an unknown shift on either side, neither can be turned over.
    """
    kinds = {first.quantity, second.quantity}
    if kinds == {"depth_relative", "inverse_depth_relative"}:
        raise StageError(
            f"{first.model} gives {first.quantity} and {second.model} {second.quantity}: without a "
            "unit neither can be turned into the other; compare each with labels in metres"
        )
    metres = tuple(each.quantity == "depth_m" for each in (first, second))
    scales = (_scale(first), _scale(second))
    if all(metres):
        return Comparison(True, (False, False), scales, "m", scales[1])
    which = [each.model for each, known in zip((first, second), metres, strict=True) if not known]
    inverse = "inverse_depth_relative" in kinds
    note = (
        f"{' and '.join(which)}: known up to scale and shift only, so the fitted figure alone is "
        f"given, in {'inverse depth' if inverse else 'depth'}"
    )
    if inverse:
        inverted = (metres[0], metres[1])
        unit, top = ("1/m", 1 / _NEAREST_M) if metres[1] else ("label", 1.0)
        return Comparison(False, inverted, scales, unit, top, note)
    unit, top = ("m", scales[1]) if metres[1] else ("label", 1.0)
    return Comparison(False, (False, False), scales, unit, top, note)


def _scale(quantity: Quantity) -> float:
    return quantity.scale_m or 1.0 if quantity.quantity == "depth_m" else 1.0


def fit(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Scale s and shift t that make s · a + t closest to b, in least squares.

    The closed form of Ranftl et al. 2020, eq. 4 (MiDaS), about the means so that nothing cancels.
    An even `a` has scale 0.
    """
    mean_a, mean_b = float(a.mean()), float(b.mean())
    away = (a - mean_a).ravel()
    spread = float(away @ away)
    scale = float(away @ (b - mean_b).ravel()) / spread if spread > 0 else 0.0
    return scale, mean_b - scale * mean_a


def zones(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The zone of each pixel of a mask (H, W); an edge is between two pixels of the picture.

    The border is every pixel at most 3 px (Euclidean) from one on the other side of the edge.
    """
    white = (mask >= 128).astype(np.uint8)
    steps = np.arange(-BORDER_PX, BORDER_PX + 1)
    disc = (steps[:, None] ** 2 + steps**2 <= BORDER_PX**2).astype(np.uint8)
    wide, core = cv2.dilate(white, disc), cv2.erode(white, disc)
    found: NDArray[np.uint8] = np.add(wide, white, dtype=np.uint8) + core.astype(np.uint8)
    return found


@dataclass(frozen=True)
class Pair:
    """Two labels of one sample as float64 (H, W), in the unit of the comparison.

    fitted: the first, brought to the second by scale and shift. ratio: first / second where both
    are metres, exact where the stored integers' is.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    fitted: NDArray[np.float64]
    ratio: NDArray[np.float64] | None
    inverse_ratio: NDArray[np.float64] | None


def read_pair(
    archives: tuple[Archive, Archive], indices: tuple[int, int], comparison: Comparison
) -> Pair:
    """The labels of a sample. Raises `StageError` if they differ in size or hold no depth."""
    names = [each.name(index) for each, index in zip(archives, indices, strict=True)]
    stored = [
        images.decode_depth(each[index], name=name)
        for each, index, name in zip(archives, indices, names, strict=True)
    ]
    if stored[0].shape != stored[1].shape:
        raise StageError(
            f"{names[0]} is {_size(stored[0])} in {archives[0].paths[0]} and {_size(stored[1])} in "
            f"{archives[1].paths[0]}; label the same composites, or `depthgen resize` them alike"
        )
    values = [
        _values(each, place, name, comparison)
        for place, (each, name) in enumerate(zip(stored, names, strict=True))
    ]
    scale, shift = fit(values[0], values[1])
    fitted = scale * values[0] + shift
    if not comparison.metric:
        return Pair(values[0], values[1], fitted, None, None)
    x, y = stored[0].astype(np.float64), stored[1].astype(np.float64)
    unit = _unit(stored[0], comparison.scales[0]) / _unit(stored[1], comparison.scales[1])
    return Pair(values[0], values[1], fitted, x / y * unit, y / x / unit)


def _unit(stored: NDArray[Any], scale: float) -> float:
    return scale / _FULL[stored.dtype.name]


def _values(
    stored: NDArray[Any], place: int, name: str, comparison: Comparison
) -> NDArray[np.float64]:
    positive = comparison.metric or comparison.inverted[place]
    if not np.isfinite(stored).all() or (positive and stored.min() <= 0):
        raise StageError(f"{name} has pixels without a depth; label it anew with --overwrite")
    values = stored.astype(np.float64) * _unit(stored, comparison.scales[place])
    return 1 / values if comparison.inverted[place] else values


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]} × {array.shape[0]}"


@dataclass(frozen=True)
class Sums:
    """Of a few samples: pixels (zones,), sums (measures, zones) in float64, and pictures' scores.

    scores: of each sample, its AbsRel over all pixels where both are metres, else its fitted RMSE.
    histogram: pixels (BINS, BINS) by first (fitted where there is no unit) and second.
    """

    pixels: NDArray[np.int64]
    sums: NDArray[np.float64]
    scores: NDArray[np.float64]
    histogram: NDArray[np.int64]


@dataclass(frozen=True)
class Measure:
    """The work on (indices (n, 3) of first, second and mask, number of the first sample)."""

    archives: tuple[Archive, Archive]
    masks: Archive | None
    comparison: Comparison
    histogram_every: int

    def __call__(self, item: tuple[NDArray[np.int64], int]) -> Sums:
        images.use_one_thread()
        rows, start = item
        pixels, sums = np.zeros(ZONES, np.int64), np.zeros((len(MEASURES), ZONES))
        scores, histogram = np.zeros(len(rows)), np.zeros((BINS, BINS), np.int64)
        for number, (first, second, mask) in enumerate(rows.tolist()):
            pair = read_pair(self.archives, (first, second), self.comparison)
            zone = self._zones(mask, pair.second.shape).ravel()
            counts = np.bincount(zone, minlength=ZONES)
            found = _sums_of(pair, zone)
            pixels += counts
            sums += found
            score = found[0 if self.comparison.metric else -1].sum() / zone.size
            scores[number] = score if self.comparison.metric else np.sqrt(score)
            if (start + number) % self.histogram_every == 0:
                histogram += _histogram(pair, self.comparison)
        return Sums(pixels, sums, scores, histogram)

    def _zones(self, index: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        if self.masks is None:
            return np.zeros(shape, np.uint8)
        name = self.masks.name(index)
        mask = images.decode(self.masks[index], "L", name=name)
        if mask.shape != shape:
            raise StageError(
                f"{name} is {_size(mask)} and its label {shape[1]} × {shape[0]}; give the masks of "
                "the composites that were labelled"
            )
        return zones(mask)


def _sums_of(pair: Pair, zone: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(measures, zones): what each measure adds up, before roots and division."""
    sums = np.zeros((len(MEASURES), ZONES))
    if pair.ratio is not None and pair.inverse_ratio is not None:
        ratio = pair.ratio.ravel()
        worse = np.maximum(ratio, pair.inverse_ratio.ravel())
        step = (pair.first - pair.second).ravel()
        for row, error in enumerate((np.abs(ratio - 1), step * step, np.log10(worse))):
            sums[row] = np.bincount(zone, error, ZONES)
        for power in (1, 2, 3):
            sums[2 + power] = np.bincount(zone[worse < _DELTA**power], minlength=ZONES)
    rest = (pair.fitted - pair.second).ravel()
    sums[-1] = np.bincount(zone, rest * rest, ZONES)
    return sums


def _histogram(pair: Pair, comparison: Comparison) -> NDArray[np.int64]:
    first = pair.first if comparison.metric else pair.fitted
    steps = [
        np.clip(each.ravel() * (BINS / comparison.top), 0, BINS - 1).astype(np.int64)
        for each in (first, pair.second)
    ]
    return np.bincount(steps[0] * BINS + steps[1], minlength=BINS**2).reshape(BINS, BINS)
