"""Blending, against Pillow's paste and against every triple of byte values there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthgen.composite.blend import Cutout, paste

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pillow_paste(
    background: NDArray[np.uint8], rgba: NDArray[np.uint8], x: int, y: int
) -> NDArray[np.uint8]:
    picture = Image.fromarray(background)
    foreground = Image.fromarray(rgba)
    picture.paste(foreground, (x, y), foreground)
    return np.asarray(picture)


@settings(max_examples=200)
@given(data=st.data())
def test_paste_equals_pillow_for_every_pixel(data: st.DataObject) -> None:
    side = data.draw(st.integers(1, 48))
    width = data.draw(st.integers(1, side) | st.just(side))
    height = data.draw(st.integers(1, side) | st.just(side))
    x = data.draw(st.integers(0, side - width))
    y = data.draw(st.integers(0, side - height))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    background = random.integers(0, 256, (side, side, 3), np.uint8)
    rgba = random.integers(0, 256, (height, width, 4), np.uint8)
    extremes = random.random((height, width)) < 0.5
    rgba[extremes, 3] = random.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8))
    ours = background.copy()
    paste(ours, Cutout.prepare(rgba), x, y)
    assert np.array_equal(ours, pillow_paste(background, rgba, x, y))


def test_all_triples_of_background_foreground_and_alpha_equal_pillow() -> None:
    alpha, background = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    below = np.repeat(background[:, :, None], 3, axis=2)
    for colours in range(0, 258, 3):  # three foreground values at a time, one a channel
        rgba = np.empty((256, 256, 4), np.uint8)
        rgba[:, :, :3] = np.minimum([colours, colours + 1, colours + 2], 255)
        rgba[:, :, 3] = alpha
        ours = below.copy()
        paste(ours, Cutout.prepare(rgba), 0, 0)
        assert np.array_equal(ours, pillow_paste(below, rgba, 0, 0))


def test_a_mirrored_view_is_prepared_like_a_mirrored_picture() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (23, 31, 4), np.uint8)
    background = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    ours = background.copy()
    paste(ours, Cutout.prepare(rgba[:, ::-1]), 5, 7)
    mirrored = Image.fromarray(rgba).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert np.array_equal(ours, pillow_paste(background, np.asarray(mirrored), 5, 7))
