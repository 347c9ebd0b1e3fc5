"""The split: which backgrounds train and which test.

The one rule: nothing of a test background is ever trained on. The split is of backgrounds, not of
samples, and backgrounds linked as duplicates stay on one side. (The original drew its test samples
from its training set.)
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vathos.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Split", "split_by_background", "thin"]


@dataclass(frozen=True)
class Split:
    """Background numbers of either side, sorted, and what they were drawn with."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    seed: int
    test_fraction: float
    by: str = "background"

    def to_json(self) -> dict[str, Any]:
        """As a dict of plain lists and numbers."""
        return {**asdict(self), "train": list(self.train), "test": list(self.test)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Split:
        """The inverse of `to_json`. Raises `DataError` for a dict that is not a split."""
        try:
            return cls(**{**data, "train": tuple(data["train"]), "test": tuple(data["test"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"this is not a split: {error}") from error

    def rows(
        self, backgrounds: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(training rows, test rows) for the background number of each row."""
        train = np.flatnonzero(np.isin(backgrounds, self.train))
        test = np.flatnonzero(np.isin(backgrounds, self.test))
        return train, test


def split_by_background(
    backgrounds: Iterable[int],
    test_fraction: float = 0.3,
    seed: int = 0,
    groups: Sequence[Sequence[int]] = (),
) -> Split:
    """Draw about `test_fraction` of the backgrounds for testing, at least one for each side.

    `groups` lists numbers that belong together. Which side comes first is decided by a hash of the
    seed and a group's smallest number, so the draw is the same on every machine and for every
    version of every library. Raises `DataError` if there is nothing to divide.
    """
    numbers = sorted({int(number) for number in backgrounds})
    units = _join(numbers, groups)
    if len(units) < 2:
        raise DataError(
            f"{len(numbers)} background{'s that are all duplicates' if len(numbers) > 1 else ''} "
            f"cannot be split into training and test; make a set with at least two"
        )
    units.sort(key=lambda unit: hashlib.sha256(f"{seed}:{unit[0]}".encode()).digest())
    wanted = max(1, round(test_fraction * len(numbers)))
    test = list(_fill(units, wanted))
    train = sorted(set(numbers) - set(test))
    return Split(tuple(train), tuple(sorted(test)), seed, test_fraction)


def thin(rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """`count` of the rows, drawn without replacement and sorted; all if there are no more.

    Drawn, not every n-th: neighbours are flips and placements of one pair, and a stride would keep
    only one kind of them.
    """
    if count >= len(rows):
        return rows
    draw = np.random.Philox(key=seed).random_raw(len(rows))
    return np.sort(rows[np.argsort(draw, kind="stable")[:count]])


def _join(numbers: list[int], groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Disjoint groups that cover all numbers; groups that share a number become one."""
    leader = {number: number for number in numbers}

    def find(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    for group in groups:
        known = [int(number) for number in group if int(number) in leader]
        for number in known[1:]:
            first, second = sorted((find(known[0]), find(number)))
            leader[second] = first
    units: dict[int, list[int]] = {}
    for number in numbers:
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
    return taken or sorted(units, key=len)[0]
