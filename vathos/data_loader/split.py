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

__all__ = ["TEST_PART", "By", "Split", "Splittable", "make_split", "split_by_background", "thin"]

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
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"this is not a split ({error}); start the run anew with --fresh"
            ) from error
        if split.by not in get_args(By):
            raise DataError(
                f"this is not a split (by {split.by!r}); start the run anew with --fresh"
            )
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

    @property
    def train(self) -> tuple[int, ...]:
        """Until the runner asks for `train_backgrounds`."""
        return self.train_backgrounds

    @property
    def test(self) -> tuple[int, ...]:
        """Until the runner asks for `test_backgrounds`."""
        return self.test_backgrounds

    def rows(self, dataset: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(training rows, test rows). By both, a row with one new picture is in neither."""
        if isinstance(dataset, np.ndarray):  # until the runner gives the data set
            train = np.flatnonzero(np.isin(dataset, self.train_backgrounds))
            return train, np.flatnonzero(np.isin(dataset, self.test_backgrounds))
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
    backgrounds = np.unique(dataset.backgrounds).tolist()
    cutouts = np.unique(dataset.foregrounds).tolist()
    test_backgrounds: tuple[int, ...] = ()
    test_cutouts: tuple[int, ...] = ()
    if by != "cutout":
        groups = dataset.background_groups()
        test_backgrounds = _draw(backgrounds, groups, test_fraction, f"{seed}", "background")
    if by != "background":
        groups = dataset.cutout_groups()
        # Another key: background 3 and cut-out 3 are not to be held out together.
        test_cutouts = _draw(cutouts, groups, test_fraction, f"{seed}:fg", "cut-out")
    split = Split(
        by,
        seed,
        test_fraction,
        tuple(sorted(set(backgrounds) - set(test_backgrounds))),
        test_backgrounds,
        tuple(sorted(set(cutouts) - set(test_cutouts))),
        test_cutouts,
    )
    if not all(len(rows) for rows in split.rows(dataset)):
        raise DataError(
            f"a split by {by} leaves no sample to train on or none to test; make a set in which "
            "every cut-out is on every background"
        )
    return split


def split_by_background(
    backgrounds: Iterable[int],
    test_fraction: float = 0.3,
    seed: int = 0,
    groups: Sequence[Sequence[int]] = (),
) -> Split:
    """Draw about `test_fraction` of the backgrounds for testing, at least one for each side."""
    numbers = sorted({int(number) for number in backgrounds})
    test = _draw(numbers, groups, test_fraction, f"{seed}", "background")
    train = tuple(sorted(set(numbers) - set(test)))
    return Split("background", seed, test_fraction, train, test, (), ())


def thin(rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """`count` of the rows, drawn without replacement and sorted; all if there are no more.

    Drawn, not every n-th: neighbours are flips and placements of one pair, and a stride would keep
    only one kind of them.
    """
    if count >= len(rows):
        return rows
    draw = np.random.Philox(key=seed).random_raw(len(rows))
    return np.sort(rows[np.argsort(draw, kind="stable")[:count]])


def _draw(
    numbers: list[int], groups: Sequence[Sequence[int]], fraction: float, key: str, noun: str
) -> tuple[int, ...]:
    """The numbers held out, sorted: whole groups in the order of their hashes."""
    units = _join(numbers, groups)
    if len(units) < 2:
        alike = "s that are all duplicates" if len(numbers) > 1 else ""
        raise DataError(
            f"{len(numbers)} {noun}{alike} cannot be split into training and test; make a set with "
            "at least two"
        )
    units.sort(key=lambda unit: hashlib.sha256(f"{key}:{unit[0]}".encode()).digest())
    return tuple(sorted(_fill(units, max(1, round(fraction * len(numbers))))))


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
