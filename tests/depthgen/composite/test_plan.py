"""The plan, against Philox written from its paper and against brute-force counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthgen.composite.plan import _DOMAIN, SIZES, below, cutout_sizes, plan_pair, scales

WORD = 2**64
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def philox4x64_10(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds as in Salmon et al. (2011), figure 4, on Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = c[0] * MULTIPLIERS[0], c[2] * MULTIPLIERS[1]
        c = [(high // WORD) ^ c[1] ^ k[0], high % WORD, (low // WORD) ^ c[3] ^ k[1], low % WORD]
        k = [(k[0] + WEYL[0]) % WORD, (k[1] + WEYL[1]) % WORD]
    return c


@pytest.mark.parametrize("seed", [7, 2**63 + 1, 2**64 - 1])
def test_each_sample_owns_one_block_of_philox_keyed_by_its_own_numbers(seed: int) -> None:
    sizes = cutout_sizes(150, 100, 192, scales(0.25, 0.55))
    plan = plan_pair(seed, bg=3, fg=5, placements=4, flips=2, side=192, sizes=sizes)
    for row in range(8):
        words = philox4x64_10([1 + row, 5, 3, 0], [seed, _DOMAIN])
        size = (words[0] >> 32) * SIZES >> 32
        width, height = sizes[size].tolist()
        assert plan.size[row] == size
        assert plan.x[row] == (words[1] >> 32) * (192 - width + 1) >> 32
        assert plan.y[row] == (words[2] >> 32) * (192 - height + 1) >> 32
        assert plan.flip[row] == row % 2


@given(
    seed=st.integers(0, 2**64 - 1),
    bg=st.integers(0, 10**6),
    fg=st.integers(0, 10**6),
    few=st.integers(1, 10),
    more=st.integers(1, 10),
)
def test_a_sample_does_not_depend_on_how_many_others_there_are(
    seed: int, bg: int, fg: int, few: int, more: int
) -> None:
    sizes = cutout_sizes(30, 50, 96, scales(0.25, 0.55))
    long = plan_pair(seed, bg, fg, few + more, 2, 96, sizes)
    short = plan_pair(seed, bg, fg, few, 2, 96, sizes)
    unmirrored = plan_pair(seed, bg, fg, few + more, 1, 96, sizes)
    for name in ("size", "x", "y", "flip"):
        assert np.array_equal(getattr(long, name)[: 2 * few], getattr(short, name))
        assert np.array_equal(getattr(long, name)[::2], getattr(unmirrored, name))


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    side=st.integers(1, 300),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
)
def test_a_cutout_always_fits_and_its_longest_side_is_the_fraction(
    width: int, height: int, side: int, low: float, high: float
) -> None:
    low, high = sorted((low, high))
    sizes = cutout_sizes(width, height, side, scales(low, high))
    assert sizes.shape == (SIZES, 2)
    assert sizes.min() >= 1
    assert sizes.max() <= side
    wanted = np.clip(scales(low, high) * side, 1, side)
    assert np.all(np.abs(sizes.max(axis=1) - wanted) <= 0.5 + 1e-9)
    plan = plan_pair(0, 0, 0, 5, 2, side, sizes)
    assert np.all(plan.x + sizes[plan.size, 0] <= side)
    assert np.all(plan.y + sizes[plan.size, 1] <= side)
    assert plan.x.min() >= 0
    assert plan.y.min() >= 0


def test_every_position_is_drawn_alike_and_both_ends_are_reached() -> None:
    sizes = np.full((SIZES, 2), 188)  # five positions in each direction
    counts = np.zeros((5, 5))
    for bg in range(400):
        plan = plan_pair(0, bg, 0, 20, 2, 192, sizes)
        np.add.at(counts, (plan.y, plan.x), 1)
    expected = counts.sum() / 25
    # 24 degrees of freedom: 60 is passed by chance once in 15,000 seeds.
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_a_cutout_as_large_as_the_background_has_one_place() -> None:
    plan = plan_pair(0, 0, 0, 20, 2, 64, np.full((SIZES, 2), 64))
    assert not plan.x.any()
    assert not plan.y.any()


@pytest.mark.parametrize("word", [0, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_integers_from_words_are_the_exact_product(word: int) -> None:
    for limit in (1, 2, 16, 193, 2**31):
        drawn = below(np.array([word], np.uint64), np.uint64(limit))
        assert drawn[0] == ((word >> 32) * limit) >> 32
