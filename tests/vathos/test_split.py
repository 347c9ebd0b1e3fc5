"""No picture on two sides, whatever the numbers, seeds, fractions and links."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vathos.data_loader.split import By, Split, make_split, thin
from vathos.errors import ConfigError, DataError

Groups = list[list[int]]


@dataclass
class Pairs:
    """A data set of every cut-out on every background, twice, in no particular order."""

    numbers_bg: list[int]
    numbers_fg: list[int]
    groups_bg: Groups = field(default_factory=list)
    groups_fg: Groups = field(default_factory=list)

    def __post_init__(self) -> None:
        pairs = np.array(np.meshgrid(self.numbers_bg, self.numbers_fg)).reshape(2, -1)
        self.backgrounds, self.foregrounds = np.concatenate((pairs, pairs[:, ::-1]), axis=1)

    def background_groups(self) -> Groups:
        return self.groups_bg

    def cutout_groups(self) -> Groups:
        return self.groups_fg


def square(count: int) -> Pairs:
    return Pairs(list(range(count)), list(range(count)))


numbers = st.sets(st.integers(0, 60), min_size=2, max_size=25).map(sorted)
links = st.lists(st.lists(st.integers(0, 60), min_size=2, max_size=4), max_size=6)
sets = st.builds(Pairs, numbers, numbers, links, links)
bys = st.sampled_from(["background", "cutout", "both"])
fractions = st.floats(0.05, 0.95)
seeds = st.integers(0, 2**63 - 1)


def split_or_skip(dataset: Pairs, by: By, fraction: float, seed: int) -> Split:
    try:
        return make_split(dataset, by, fraction, seed)
    except DataError:
        assume(False)
        raise


def closure(groups: Groups) -> list[set[int]]:
    """Chains of links, by brute force: sets are merged until none overlap."""
    merged = [set(group) for group in groups]
    for _ in range(len(merged)):
        for first in merged:
            for second in merged:
                if first is not second and first & second:
                    first |= second
                    second.clear()
    return [group for group in merged if group]


@given(sets, bys, fractions, seeds)
def test_nothing_that_is_held_out_is_ever_in_a_training_sample(
    dataset: Pairs, by: By, fraction: float, seed: int
) -> None:
    split = split_or_skip(dataset, by, fraction, seed)
    train, test = split.rows(dataset)
    assert len(train)
    assert len(test)
    for column, held_out in (
        (dataset.backgrounds, split.test_backgrounds),
        (dataset.foregrounds, split.test_cutouts),
    ):
        trained = set(column[train].tolist())
        assert not trained & set(held_out)
    if by != "cutout":
        assert not set(dataset.backgrounds[train]) & set(dataset.backgrounds[test])
    if by != "background":
        assert not set(dataset.foregrounds[train]) & set(dataset.foregrounds[test])


@given(sets, bys, fractions, seeds)
def test_each_picture_and_all_that_it_is_linked_to_are_on_one_side(
    dataset: Pairs, by: By, fraction: float, seed: int
) -> None:
    split = split_or_skip(dataset, by, fraction, seed)
    for present, train, test, groups, divided in (
        (
            dataset.numbers_bg,
            split.train_backgrounds,
            split.test_backgrounds,
            dataset.groups_bg,
            by != "cutout",
        ),
        (
            dataset.numbers_fg,
            split.train_cutouts,
            split.test_cutouts,
            dataset.groups_fg,
            by != "background",
        ),
    ):
        assert sorted(train + test) == present
        assert bool(test) == divided
        for group in closure(groups):
            assert not (group & set(train) and group & set(test) and divided)


@given(sets, bys, fractions, seeds)
def test_as_much_is_held_out_as_was_asked_but_for_a_group_that_does_not_fit(
    dataset: Pairs, by: By, fraction: float, seed: int
) -> None:
    split = split_or_skip(dataset, by, fraction, seed)
    for present, test, groups in (
        (dataset.numbers_bg, split.test_backgrounds, dataset.groups_bg),
        (dataset.numbers_fg, split.test_cutouts, dataset.groups_fg),
    ):
        if test:
            together = [len(group & set(present)) for group in closure(groups)]
            assert abs(len(test) - fraction * len(present)) <= max([1, *together]) + 0.5


@given(sets, bys, fractions, seeds)
def test_a_split_is_the_same_each_time_and_survives_json(
    dataset: Pairs, by: By, fraction: float, seed: int
) -> None:
    split = split_or_skip(dataset, by, fraction, seed)
    assert make_split(dataset, by, fraction, seed) == split
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


@given(sets, bys, fractions, seeds)
def test_the_parts_are_told_apart_by_what_is_new_and_leave_out_no_row(
    dataset: Pairs, by: By, fraction: float, seed: int
) -> None:
    split = split_or_skip(dataset, by, fraction, seed)
    parts = split.parts(dataset)
    rows = np.concatenate(list(parts.values()))
    assert sorted(rows) == list(range(len(dataset.backgrounds)))
    news = {
        "train": (False, False),
        "new backgrounds": (True, False),
        "new cut-outs": (False, True),
        "new both": (True, True),
    }
    for part, of_part in parts.items():
        for row in of_part:
            new_bg = dataset.backgrounds[row] in split.test_backgrounds
            new_fg = dataset.foregrounds[row] in split.test_cutouts
            assert (new_bg, new_fg) == news[part]
    train, test = split.rows(dataset)
    tested = {"background": "new backgrounds", "cutout": "new cut-outs", "both": "new both"}
    assert np.array_equal(train, parts["train"])
    assert np.array_equal(test, parts[tested[by]])


@pytest.mark.parametrize(
    ("by", "sizes"),
    [("background", (7000, 3000)), ("cutout", (7000, 3000)), ("both", (4900, 900))],
)
def test_of_a_hundred_each_thirty_are_held_out(by: By, sizes: tuple[int, int]) -> None:
    dataset = square(100)
    train, test = make_split(dataset, by, 0.3, 0).rows(dataset)
    assert (len(train) / 2, len(test) / 2) == sizes


def test_backgrounds_and_cutouts_of_one_number_are_not_held_out_together() -> None:
    split = make_split(square(100), "both", 0.3, 0)
    both = set(split.test_backgrounds) & set(split.test_cutouts)
    assert len(both) < 20  # nine by chance


def test_a_copy_that_is_not_in_the_set_still_links_two_that_are() -> None:
    dataset = Pairs([0, 1, 2, 3], [0, 1], groups_bg=[[1, 9], [9, 2]])
    for seed in range(30):
        split = make_split(dataset, "background", 0.5, seed)
        assert ({1, 2} <= set(split.test_backgrounds)) != ({1, 2} <= set(split.train_backgrounds))


def test_another_seed_gives_another_split() -> None:
    dataset = square(50)
    first, second = (make_split(dataset, "both", 0.3, seed) for seed in (3, 4))
    assert first.test_backgrounds != second.test_backgrounds
    assert first.test_cutouts != second.test_cutouts


def test_a_split_of_today_is_the_split_of_tomorrow() -> None:
    # What runs have stored must be drawn again: the order of hashes is not to change.
    split = make_split(square(10), "both", 0.3, 7)
    assert (split.test_backgrounds, split.test_cutouts) == ((3, 4, 7), (0, 4, 9))


def test_what_cannot_be_divided_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^1 background cannot be split"):
        make_split(Pairs([4], [0, 1]), "both", 0.3, 0)
    with pytest.raises(DataError, match=r"^1 cut-out cannot be split"):
        make_split(Pairs([0, 1], [7]), "cutout", 0.3, 0)
    with pytest.raises(DataError, match=r"^3 backgrounds that are all duplicates"):
        make_split(Pairs([1, 2, 3], [0], groups_bg=[[1, 2], [2, 3]]), "background", 0.3, 0)


def test_a_set_in_which_no_sample_is_left_to_test_is_an_error() -> None:
    dataset = square(2)
    parts = make_split(dataset, "both", 0.5, 0).parts(dataset)
    # Only the samples with one new picture, which are neither trained on nor tested.
    rows = np.concatenate((parts["new backgrounds"], parts["new cut-outs"]))
    dataset.backgrounds, dataset.foregrounds = dataset.backgrounds[rows], dataset.foregrounds[rows]
    with pytest.raises(DataError, match="leaves no sample to train on or none to test"):
        make_split(dataset, "both", 0.5, 0)


@pytest.mark.parametrize(
    ("by", "fraction", "sentence"),
    [
        ("sample", 0.3, "not by 'sample'"),
        ("both", 0.0, "test_fraction is 0.0"),
        ("both", 1.0, "test_fraction is 1.0"),
    ],
)
def test_a_split_by_what_is_not_known_or_of_no_fraction_is_refused(
    by: Any, fraction: float, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_split(square(4), by, fraction, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"by": "sample"},
        {"train_backgrounds": None},
        {"test_cutouts": ["a"]},
        {"more": 1},
        {"train_backgrounds": [0, 1, 2, 3]},
    ],
)
def test_a_stored_split_that_is_damaged_is_an_error(change: dict[str, Any]) -> None:
    data = make_split(square(4), "both", 0.3, 0).to_json()
    with pytest.raises(DataError, match="this is not a split"):
        Split.from_json({**data, **change})
    with pytest.raises(DataError, match="this is not a split"):
        Split.from_json({})


def test_thinning_draws_sorted_rows_that_are_not_all_of_one_flip() -> None:
    rows = np.arange(1000)
    kept = thin(rows, 125, seed=1)
    assert len(kept) == 125
    assert list(kept) == sorted(set(kept.tolist()))
    assert 30 < (kept % 2).sum() < 95
    assert np.array_equal(thin(rows, 2000, seed=1), rows)
