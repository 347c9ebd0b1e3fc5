"""Splicing, against encoding the whole picture and against an independent decoder."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthgen import images
from depthgen.composite.cells import CellEncoder, blocks_in_a_cell


@settings(max_examples=200)
@given(data=st.data())
def test_spliced_pictures_are_byte_identical_to_encoding_all_of_them(data: st.DataObject) -> None:
    side = data.draw(st.sampled_from([1, 8, 15, 16, 17, 48, 64, 96, 150, 192, 200, 272]))
    quality = data.draw(st.sampled_from([1, 30, 75, 90, 100]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    smooth = np.linspace(0, 200, side)[:, None, None] + np.zeros((side, side, 3))
    background = (smooth + random.integers(0, 55, (side, side, 3))).astype(np.uint8)
    encoder = CellEncoder(background, quality)
    patches, expected = [], []
    for _ in range(data.draw(st.integers(1, 6))):
        x, y = data.draw(st.integers(0, side - 1)), data.draw(st.integers(0, side - 1))
        width, height = data.draw(st.integers(1, side - x)), data.draw(st.integers(1, side - y))
        changed = background.copy()
        region = np.s_[y : y + height, x : x + width]
        changed[region] = random.integers(0, 256, (height, width, 3), np.uint8)
        patch = encoder.cut(x, y, width, height)
        bottom = patch.top + patch.pixels.shape[0]
        right = patch.left + patch.pixels.shape[1]
        assert patch.left <= x < x + width <= right
        assert patch.top <= y < y + height <= bottom
        assert np.array_equal(patch.pixels, background[patch.top : bottom, patch.left : right])
        patch.pixels[...] = changed[patch.top : bottom, patch.left : right]
        patches.append(patch)
        expected.append(images.encode_jpeg_cells(changed, quality, blocks_in_a_cell(side)))
    assert encoder.encode(patches) == expected


@pytest.mark.parametrize(("side", "count"), [(192, 400), (512, 150), (200, 330)])
def test_more_patches_than_a_jpeg_is_high_are_encoded_too(side: int, count: int) -> None:
    background = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    encoder = CellEncoder(background, 90)
    patches = [encoder.cut(0, 0, side, side) for _ in range(count)]
    assert side * count > 65_535
    whole = images.encode_jpeg_cells(background, 90, blocks_in_a_cell(side))
    assert set(encoder.encode(patches)) == {whole}


@pytest.mark.parametrize(
    ("width", "blocks"), [(1, 1), (16, 1), (32, 2), (48, 3), (64, 2), (144, 3), (192, 2), (200, 13)]
)
def test_cells_divide_a_row_of_blocks(width: int, blocks: int) -> None:
    assert blocks_in_a_cell(width) == blocks


def test_a_patch_is_a_copy() -> None:
    background = np.zeros((64, 64, 3), np.uint8)
    CellEncoder(background, 90).cut(10, 20, 5, 5).pixels[...] = 255
    assert not background.any()


def test_pillow_decodes_a_spliced_picture_to_what_was_encoded() -> None:
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(192), np.arange(192))[:, :, None] // 2 + np.zeros(3)
    background = np.clip(ramp + random.normal(0, 3, ramp.shape), 0, 255).astype(np.uint8)
    encoder = CellEncoder(background, 90)
    patch = encoder.cut(30, 60, 60, 30)
    left, top = patch.left, patch.top
    patch.pixels[60 - top : 90 - top, 30 - left : 90 - left] = (30, 60, 200)
    expected = background.copy()
    expected[60:90, 30:90] = (30, 60, 200)
    decoded = np.asarray(Image.open(io.BytesIO(encoder.encode([patch])[0])))
    assert np.abs(decoded[:, :, ::-1].astype(int) - expected).mean() < 4
