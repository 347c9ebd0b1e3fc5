"""Splicing, against encoding the whole picture and against independent decoders."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthgen import images
from depthgen.composite.rows import RowEncoder


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_spliced_picture_is_byte_identical_to_encoding_all_of_it(data: st.DataObject) -> None:
    side = data.draw(st.sampled_from([1, 8, 15, 16, 17, 64, 96, 150, 192, 200, 272]))
    top = data.draw(st.integers(0, side - 1))
    bottom = data.draw(st.integers(top + 1, side))
    quality = data.draw(st.sampled_from([1, 30, 75, 90, 100]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    smooth = np.linspace(0, 200, side)[:, None, None] + np.zeros((side, side, 3))
    background = (smooth + random.integers(0, 55, (side, side, 3))).astype(np.uint8)
    changed = background.copy()
    changed[top:bottom] = random.integers(0, 256, (bottom - top, side, 3), np.uint8)
    encoder = RowEncoder(background, quality)
    strip, first = encoder.strip(top, bottom)
    assert first <= top < bottom <= first + len(strip)
    strip[top - first : bottom - first] = changed[top:bottom]
    assert encoder.encode(strip, first) == images.encode_jpeg_rows(changed, quality)


def test_a_strip_is_a_copy() -> None:
    background = np.zeros((64, 64, 3), np.uint8)
    encoder = RowEncoder(background, 90)
    strip, _ = encoder.strip(10, 20)
    strip[...] = 255
    assert not background.any()


def test_pillow_decodes_a_spliced_picture_to_what_was_encoded() -> None:
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(192), np.arange(192))[:, :, None] // 2 + np.zeros(3)
    background = np.clip(ramp + random.normal(0, 3, ramp.shape), 0, 255).astype(np.uint8)
    encoder = RowEncoder(background, 90)
    strip, first = encoder.strip(50, 120)
    strip[10:40, 30:90] = (30, 60, 200)
    expected = background.copy()
    expected[first : first + len(strip)] = strip
    decoded = np.asarray(Image.open(io.BytesIO(encoder.encode(strip, first))))
    assert np.abs(decoded[:, :, ::-1].astype(int) - expected).mean() < 4
