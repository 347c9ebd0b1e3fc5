"""Reading and writing a `.npy` depth map; only `images` uses this.

`numpy.load` makes room for whatever the header claims. The one rule: the header is believed only as
far as the bytes go.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = b"\x93NUMPY"


def decode(data: bytes | bytearray | memoryview) -> NDArray[np.float32]:
    """The array (H, W) in a `.npy` file, as float32. Raises `ValueError`, saying what is wrong."""
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_column, dtype = read_header(stream)
    except Exception as error:  # the header is Python text, which can be wrong in many ways
        raise ValueError(f"is not a readable .npy array: {error}") from error
    if len(shape) != 2 or dtype.kind not in "uif":
        raise ValueError(f"must hold numbers in two dimensions, not {dtype} {shape}")
    values = stream.read()
    if shape[0] * shape[1] * dtype.itemsize != len(values) or not values:
        raise ValueError(f"is truncated or damaged: it has {len(values)} bytes for {shape}")
    with np.errstate(over="ignore"):  # beyond float32 is infinitely far
        array = np.frombuffer(values, dtype).astype(np.float32)
    return array.reshape(shape, order="F" if by_column else "C")


def encode(array: NDArray[np.float32]) -> bytes:
    """The bytes of a `.npy` file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
