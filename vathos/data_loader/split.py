"""The split: which backgrounds and which cut-outs train, and which are held out for testing.

The one rule: nothing of a picture that is held out is ever trained on. The split is of pictures,
not of samples, and pictures that are copies of each other, or look the same, stay on one side. (The
original drew its test samples from its training set.)
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from vathos.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["TEST_PART", "By", "Split", "Splittable", "make_split", "thin"]

By = Literal["background", "cutout", "both"]
SIDES = ("train_backgrounds", "test_backgrounds", "train_cutouts", "test_cutouts")
TEST_PART: dict[By, str] = {
    "background": "new backgrounds",
    "cutout": "new cut-outs",
    "both": "new both",
}


class Splittable(Protocol):
    """What a data set tells: of each row the numbers of its pictures, and which are alike."""

    backgrounds: NDArray[np.int64]
    foregrounds: NDArray[np.int64]

    def background_groups(self) -> Sequence[Sequence[int]]:
        """Numbers of backgrounds that belong on one side; groups may overlap."""

    def cutout_groups(self) -> Sequence[Sequence[int]]:
        """The same of cut-outs."""


@dataclass(frozen=True)
class Split:
    """Numbers of the pictures on either side, sorted, and what they were drawn with.

    `by` background holds out backgrounds and `test_cutouts` is empty; by cutout the other way
    round; by both holds out some of each, and tests samples whose background and cut-out are both
    new.
    """

    by: By
    seed: int
    test_fraction: float
    train_backgrounds: tuple[int, ...]
    test_backgrounds: tuple[int, ...]
    train_cutouts: tuple[int, ...]
    test_cutouts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As a dict of plain lists and numbers."""
        return {**asdict(self), **{side: list(getattr(self, side)) for side in SIDES}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Split:
        """The inverse of `to_json`. Raises `DataError` for a dict that is not a split."""
        try:
            sides = {side: tuple(int(number) for number in data[side]) for side in SIDES}
            split = cls(**{**data, **sides})
            if split.by not in get_args(By):
                raise ValueError(f"it is by {split.by!r}")
            for kind in ("backgrounds", "cutouts"):
                both = set(sides[f"train_{kind}"]) & set(sides[f"test_{kind}"])
                if both:
                    raise ValueError(f"{kind} {min(both)} is on both sides")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"this is not a split ({error}); start the run anew with --fresh"
            ) from error
        return split

    def parts(self, dataset: Splittable) -> dict[str, NDArray[np.int64]]:
        """Rows of the data set by what is new about them, in rising order; no part is empty.

        Keys: "train", "new backgrounds" (with a cut-out that was trained on), "new cut-outs" (on a
        background that was), "new both". A row with a picture on neither side is in none.
        """
        old_bg = np.isin(dataset.backgrounds, self.train_backgrounds)
        new_bg = np.isin(dataset.backgrounds, self.test_backgrounds)
        old_fg = np.isin(dataset.foregrounds, self.train_cutouts)
        new_fg = np.isin(dataset.foregrounds, self.test_cutouts)
        parts = {
            "train": old_bg & old_fg,
            "new backgrounds": new_bg & old_fg,
            "new cut-outs": old_bg & new_fg,
            "new both": new_bg & new_fg,
        }
        return {key: np.flatnonzero(rows) for key, rows in parts.items() if rows.any()}

    def rows(self, dataset: Splittable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(training rows, test rows). By both, a row with one new picture is in neither."""
        parts = self.parts(dataset)
        none = np.empty(0, np.int64)
        return parts.get("train", none), parts.get(TEST_PART[self.by], none)


def make_split(dataset: Splittable, by: By, test_fraction: float, seed: int) -> Split:
    """Hold out about `test_fraction` of the backgrounds, of the cut-outs, or of each of both.

    At least one picture is on each side. By both, some `test_fraction` squared of the samples are
    tested and (1 - `test_fraction`) squared trained on. Which picture comes first is decided by a
    hash of the seed and the smallest number of its group, so the draw is the same on every machine
    and for every version of every library. Raises `DataError` if there is nothing to divide, and
    `ConfigError` for an unknown `by` or a fraction that is not between 0 and 1.
    """
    if by not in get_args(By):
        raise ConfigError(f"a split is by background, by cutout or by both, not by {by!r}")
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction is {test_fraction}, but must be between 0 and 1")
    backgrounds, cutouts = _Side(dataset.backgrounds), _Side(dataset.foregrounds)
    if by != "cutout":
        backgrounds.hold_out(dataset.background_groups(), test_fraction, f"{seed}", "background")
    if by != "background":
        # Another key: background 3 and cut-out 3 are not to be held out together.
        cutouts.hold_out(dataset.cutout_groups(), test_fraction, f"{seed}:fg", "cut-out")
    sides = (backgrounds.train, backgrounds.test, cutouts.train, cutouts.test)
    split = Split(by, seed, test_fraction, *sides)
    if not all(len(rows) for rows in split.rows(dataset)):
        raise DataError(
            f"a split by {by} leaves no sample to train on or none to test; make a set in which "
            "every cut-out is on every background"
        )
    return split


def thin(rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """`count` of the rows, drawn without replacement and sorted; all if there are no more.

    Drawn, not every n-th: neighbours are flips and placements of one pair, and a stride would keep
    only one kind of them.
    """
    if count >= len(rows):
        return rows
    draw = np.random.Philox(key=seed).random_raw(len(rows))
    return np.sort(rows[np.argsort(draw, kind="stable")[:count]])


class _Side:
    """The numbers of one kind of picture; all train until some are held out."""

    def __init__(self, column: NDArray[np.int64]) -> None:
        self.train: tuple[int, ...] = tuple(np.unique(column).tolist())
        self.test: tuple[int, ...] = ()

    def hold_out(
        self, groups: Sequence[Sequence[int]], fraction: float, key: str, noun: str
    ) -> None:
        """Whole groups in the order of their hashes, about `fraction` of the numbers."""
        units = _join(self.train, groups)
        count = len(self.train)
        if len(units) < 2:
            alike = "s that are all duplicates" if count > 1 else ""
            raise DataError(
                f"{count} {noun}{alike} cannot be split into training and test; make a set with "
                "at least two"
            )
        units.sort(key=lambda unit: hashlib.sha256(f"{key}:{unit[0]}".encode()).digest())
        self.test = tuple(sorted(_fill(units, max(1, round(fraction * count)))))
        self.train = tuple(sorted(set(self.train) - set(self.test)))


def _join(numbers: Iterable[int], groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Disjoint sorted groups that cover all numbers; groups that share a number become one.

    They may share one that is not of `numbers`: a copy that was left out still links two others.
    """
    leader: dict[int, int] = {}

    def find(number: int) -> int:
        while leader.setdefault(number, number) != number:
            number = leader[number]
        return number

    for group in groups:
        for number in group[1:]:
            first, second = sorted((find(int(group[0])), find(int(number))))
            leader[second] = first
    units: dict[int, list[int]] = {}
    for number in sorted(numbers):
        units.setdefault(find(number), []).append(number)
    return list(units.values())


def _fill(units: list[list[int]], wanted: int) -> list[int]:
    """Whole units in order while they fit into `wanted`; the smallest one if none does.

    Never all of them: the last unit that is left stays on the other side.
    """
    taken: list[int] = []
    left = len(units)
    for unit in units:
        if left > 1 and len(taken) + len(unit) <= wanted:
            taken += unit
            left -= 1
    return taken or min(units, key=len)
