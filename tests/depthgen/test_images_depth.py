"""Depth maps as they are stored: our own fast path must give what Pillow gives."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from depthgen.images import ImageError, decode, decode_depth, encode_png


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (33, 20), (192, 192)])
def test_grey_depth_is_what_pillow_reads(shape: tuple[int, int], dtype: Any) -> None:
    generator = np.random.default_rng(shape[0])
    depth = generator.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    for data in (encode_png(depth), pillow_png(depth)):
        found = decode_depth(data)
        assert found.dtype == dtype
        assert np.array_equal(found, depth)
        assert np.array_equal(found, by_pillow(data))
        assert np.array_equal(decode_depth(memoryview(data)), depth)


def pillow_png(depth: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(depth).save(stream, "PNG")
    return stream.getvalue()


def test_a_flipped_byte_or_a_cut_never_gives_other_depth() -> None:
    depth = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50
    data = encode_png(depth)
    for at in range(8, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        for wrong in (bytes(damaged), data[:at]):
            with contextlib.suppress(ImageError):
                assert np.array_equal(decode_depth(wrong), depth)


def test_a_flipped_byte_in_a_colour_png_is_an_error_where_pillow_sees_none() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8)
    data = bytearray(encode_png(picture))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageError, match="the cut-out is damaged"):
        decode(bytes(data), "RGBA", name="the cut-out")


def test_colour_is_no_depth() -> None:
    with pytest.raises(ImageError, match="grey"):
        decode_depth(encode_png(np.zeros((4, 4, 3), np.uint8)))
