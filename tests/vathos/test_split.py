"""No background on two sides, whatever the numbers, seeds and links."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vathos.data_loader.split import Split, split_by_background, thin
from vathos.errors import DataError

numbers = st.sets(st.integers(0, 500), min_size=2, max_size=60)


@given(
    numbers,
    st.floats(0.05, 0.95),
    st.integers(0, 2**32),
    st.lists(st.lists(st.integers(0, 500), min_size=2, max_size=4), max_size=3),
)
def test_sides_are_disjoint_complete_not_empty_and_keep_groups_whole(
    backgrounds: set[int], fraction: float, seed: int, groups: list[list[int]]
) -> None:
    try:
        split = split_by_background(backgrounds, fraction, seed, groups)
    except DataError:
        assert groups  # only links can leave nothing to divide
        return
    train, test = set(split.train), set(split.test)
    assert train
    assert test
    assert not train & test
    assert train | test == backgrounds
    for group in groups:
        present = set(group) & backgrounds
        assert present <= train or present <= test


@given(numbers, st.integers(0, 1000))
def test_no_row_of_a_test_background_is_trained_on(backgrounds: set[int], seed: int) -> None:
    of_row = np.array(sorted(backgrounds) * 3)
    split = split_by_background(backgrounds, seed=seed)
    train, test = split.rows(of_row)
    assert len(train) + len(test) == len(of_row)
    assert not set(of_row[train]) & set(of_row[test])


def seed_split(rows: int, seed: int) -> tuple[set[int], set[int]]:
    """The original's: both subsets are drawn from the training rows."""
    train = np.random.default_rng(seed).permutation(rows)[: int(0.7 * rows)]
    return set(train.tolist()), set(train[: int(0.3 * rows)].tolist())


def test_the_split_of_the_original_leaks_and_ours_does_not() -> None:
    train, test = seed_split(100, 0)
    assert test <= train
    ours = split_by_background(range(100))
    assert not set(ours.train) & set(ours.test)


def test_seventy_to_thirty_by_default() -> None:
    split = split_by_background(range(100))
    assert (len(split.train), len(split.test)) == (70, 30)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    assert split_by_background(range(50), seed=3) == split_by_background(range(50), seed=3)
    assert split_by_background(range(50), seed=3) != split_by_background(range(50), seed=4)


def test_a_split_survives_json() -> None:
    split = split_by_background(range(10), 0.2, 7)
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


def test_what_cannot_be_divided_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split_by_background([4])
    with pytest.raises(DataError, match="all duplicates"):
        split_by_background([1, 2, 3], groups=[[1, 2], [2, 3]])


def test_thinning_draws_sorted_rows_that_are_not_all_of_one_flip() -> None:
    rows = np.arange(1000)
    kept = thin(rows, 125, seed=1)
    assert len(kept) == 125
    assert list(kept) == sorted(set(kept.tolist()))
    assert 30 < (kept % 2).sum() < 95
    assert np.array_equal(thin(rows, 2000, seed=1), rows)
