"""The filters as matrices against Pillow and scikit-image themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.transform import resize

from depthgen.depth.resample import PillowBicubic, SkimageResize

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = torch.device("cpu")
SIDES = st.integers(1, 90)
SIZES = st.tuples(SIDES, SIDES)


def pillow(pictures: NDArray[np.uint8], *targets: tuple[int, int]) -> NDArray[np.uint8]:
    """Resized to each (height, width) in turn."""
    found = []
    for each in pictures:
        image = Image.fromarray(each)
        for height, width in targets:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        found.append(np.asarray(image))
    return np.stack(found)


def matrices(pictures: NDArray[np.uint8], target: tuple[int, int]) -> NDArray[np.uint8]:
    _, height, width, _ = pictures.shape
    found = PillowBicubic((height, width), target, CPU).by_matrices(torch.from_numpy(pictures))
    return found.permute(0, 2, 3, 1).numpy()


@settings(max_examples=80)
@given(source=SIZES, target=SIZES, seed=st.integers(0, 2**32 - 1))
def test_bicubic_is_pillows_bit_by_bit_columns_before_rows(
    source: tuple[int, int], target: tuple[int, int], seed: int
) -> None:
    pictures = np.random.default_rng(seed).integers(0, 256, (2, *source, 3), dtype=np.uint8)
    # A newer Pillow may take the rows first; resizing one side at a time leaves them no choice.
    wanted = pillow(pictures, (source[0], target[1]), target)
    assert np.array_equal(matrices(pictures, target), wanted)
    given_pillow = PillowBicubic(source, target, CPU)(torch.from_numpy(pictures))
    assert np.array_equal(given_pillow.permute(0, 2, 3, 1).numpy(), wanted)


@pytest.mark.parametrize("size", [(200, 200), (192, 192), (96, 96), (480, 640), (300, 1500)])
def test_bicubic_to_the_networks_input_is_pillows_where_overshoot_is_clipped(
    size: tuple[int, int],
) -> None:
    # Black and white alone: bicubic runs over both ends at every edge.
    pictures = np.random.default_rng(1).integers(0, 2, (1, *size, 3), dtype=np.uint8) * 255
    assert np.array_equal(matrices(pictures, (480, 640)), pillow(pictures, (480, 640)))


@settings(max_examples=80)
@given(source=SIZES, target=SIZES, seed=st.integers(0, 2**32 - 1))
def test_resize_is_scikit_images(
    source: tuple[int, int], target: tuple[int, int], seed: int
) -> None:
    labels = np.random.default_rng(seed).random((2, *source), dtype=np.float32)
    found = SkimageResize(source, target, CPU)(torch.from_numpy(labels)).numpy()
    for label, each in zip(labels, found, strict=True):
        wanted = resize(label, target, order=1, mode="reflect", preserve_range=True)
        assert np.abs(each - wanted).max() <= 1e-6


@pytest.mark.parametrize("size", [200, 192, 96, 640])
def test_resize_of_the_networks_output_is_scikit_images(size: int) -> None:
    label = np.random.default_rng(2).random((1, 240, 320), dtype=np.float32)
    found = SkimageResize((240, 320), (size, size), CPU)(torch.from_numpy(label)).numpy()
    wanted = resize(label[0], (size, size), order=1, mode="reflect", preserve_range=True)
    assert np.abs(found[0] - wanted).max() <= 1e-6
