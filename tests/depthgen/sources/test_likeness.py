"""Likeness: copies are found whatever was done to them, other pictures are left alone."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import TYPE_CHECKING

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depthgen import images
from depthgen.sources.likeness import THRESHOLD, FingerprintError, Likenesses, fingerprint
from depthgen.sources.render import render_background, render_cutout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.fixture(scope="module")
def room() -> NDArray[np.uint8]:
    return render_background(0, 0, 192)[0]


@pytest.fixture(scope="module")
def cutout() -> NDArray[np.uint8]:
    return render_cutout(0, 0, 192)


def distance(one: str, other: str) -> int:
    """Python's own count of the bits that differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def rescale(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    height, width = (round(side * factor) for side in pixels.shape[:2])
    return images.resize(pixels, width, height, "bicubic")


def as_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    return images.decode(images.encode_jpeg(pixels, quality), "RGB")


def in_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(pixels).convert("L").convert("RGB"))


def darkened(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (pixels * 0.85).astype(np.uint8)


CHANGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "a quarter": lambda pixels: rescale(pixels, 0.25),
    "twice": lambda pixels: rescale(pixels, 2),
    "JPEG 40": lambda pixels: as_jpeg(pixels, 40),
    "half, JPEG 70": lambda pixels: as_jpeg(rescale(pixels, 0.5), 70),
    "1 % cropped": lambda pixels: pixels[2:-2, 2:-2],
    "grey": in_grey,
    "darker": darkened,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_copy_is_alike(
    room: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    assert distance(fingerprint(room), fingerprint(change(room))) <= THRESHOLD


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_rescaled_cutout_is_alike(cutout: NDArray[np.uint8], factor: float) -> None:
    assert distance(fingerprint(cutout), fingerprint(rescale(cutout, factor))) <= THRESHOLD


def test_a_mirrored_picture_is_another(room: NDArray[np.uint8], cutout: NDArray[np.uint8]) -> None:
    for pixels in (room, cutout):
        assert distance(fingerprint(pixels), fingerprint(pixels[:, ::-1])) > THRESHOLD


def test_rendered_pictures_are_not_alike() -> None:
    rooms = [fingerprint(render_background(0, index, 64)[0]) for index in range(8)]
    cutouts = [fingerprint(render_cutout(0, index, 96)) for index in range(24)]
    for fingerprints in (rooms, cutouts):
        assert min(distance(*pair) for pair in combinations(fingerprints, 2)) > THRESHOLD


def test_the_fingerprint_is_the_hash_of_the_library(room: NDArray[np.uint8]) -> None:
    grey = in_grey(room)
    expected = str(imagehash.phash(Image.fromarray(grey), hash_size=16))
    # At the side that the hash looks at, it is the same; above, the way of shrinking differs.
    small = images.resize(grey, 64, 64, "area")
    looked_at = str(imagehash.phash(Image.fromarray(small), hash_size=16))
    assert fingerprint(small) == looked_at
    assert distance(fingerprint(room), expected) <= 8
    large = images.resize(room, 900, 700, "bicubic")
    assert distance(fingerprint(large), expected) <= 8


def test_padding_and_colours_under_transparent_pixels_do_not_count(
    cutout: NDArray[np.uint8],
) -> None:
    padded = np.pad(cutout, ((40, 7), (3, 90), (0, 0)))
    padded[padded[:, :, 3] == 0, :3] = (250, 3, 90)
    assert fingerprint(padded) == fingerprint(cutout)


def test_a_faint_rim_does_not_count(cutout: NDArray[np.uint8]) -> None:
    rim = np.pad(cutout, ((20, 20), (20, 20), (0, 0)))
    rim[0, :, 3] = rim[:, 0, 3] = 5
    assert fingerprint(rim) == fingerprint(cutout)


def test_a_cutout_is_seen_over_mid_grey(cutout: NDArray[np.uint8]) -> None:
    solid = cutout[:, :, 3] >= 128
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    box = cutout[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    below = Image.new("RGBA", (box.shape[1], box.shape[0]), (128, 128, 128, 255))
    seen = Image.alpha_composite(below, Image.fromarray(box)).convert("RGB")
    expected = str(imagehash.phash(seen, hash_size=16))
    assert distance(fingerprint(cutout), expected) <= 16


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_colour_is_like_nothing_not_even_itself(level: int) -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (64, 64, 3))
    plain = np.clip(level + noise, 0, 255).astype(np.uint8)
    assert fingerprint(plain) == ""
    seen = Likenesses()
    seen.add("", "plain")
    assert seen.nearest("") is None
    assert seen.nearest("0" * 64) is None


def test_a_cutout_without_an_opaque_pixel_is_like_nothing() -> None:
    assert fingerprint(np.zeros((40, 40, 4), np.uint8)) == ""


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (900, 1, 4), (2, 3, 4)])
def test_any_shape_has_a_fingerprint(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    pixels[..., 3:] = 255
    assert len(fingerprint(pixels)) in (0, 64)


def test_threads_agree_with_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (60, 50, 3 + n % 2)).astype(np.uint8) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fingerprint, pictures)) == [fingerprint(each) for each in pictures]


def test_scipy_is_not_loaded_with_the_module() -> None:
    code = "import sys, depthgen.sources.likeness; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.lists(HEX, max_size=12), st.data())
def test_nearest_is_what_a_search_one_by_one_finds(
    fingerprints: list[str], data: st.DataObject
) -> None:
    seen = Likenesses()
    for number, each in enumerate(fingerprints):
        seen.add(each, str(number))
    asked = data.draw(st.sampled_from(fingerprints) if fingerprints else HEX)
    flips = data.draw(st.integers(0, 2**70 - 1))
    asked = f"{int(asked, 16) ^ flips:064x}"
    found = [(distance(each, asked), number) for number, each in enumerate(fingerprints)]
    best = min(found, default=(THRESHOLD + 1, 0))
    assert seen.nearest(asked) == (str(best[1]) if best[0] <= THRESHOLD else None)


@pytest.mark.parametrize(("bits", "alike"), [(THRESHOLD, True), (THRESHOLD + 1, False)])
def test_the_threshold_itself_is_alike(bits: int, alike: bool) -> None:
    seen = Likenesses()
    seen.add("0" * 64, "zero")
    assert (seen.nearest(f"{(1 << bits) - 1:064x}") == "zero") is alike


def test_the_earliest_of_equals_is_named_and_many_are_kept() -> None:
    seen = Likenesses()
    rng = np.random.default_rng(0)
    fingerprints = [rng.bytes(32).hex() for _ in range(300)]
    for number, each in enumerate(fingerprints + fingerprints):
        seen.add(each, str(number))
    assert [seen.nearest(each) for each in fingerprints] == [str(n) for n in range(300)]


@pytest.mark.parametrize("wrong", ["abc", "0" * 16, "x" * 64, "0" * 128])
def test_what_is_no_fingerprint_is_refused(wrong: str) -> None:
    seen = Likenesses()
    with pytest.raises(FingerprintError, match="64 hexadecimal digits"):
        seen.add(wrong, "a")
    seen.add("0" * 64, "b")
    with pytest.raises(FingerprintError):
        seen.nearest(wrong)


@pytest.mark.realdata
def test_real_pictures_are_alike_only_where_they_are_copies(realdata: Path) -> None:
    # One picture is there twice, another once more in another encoding.
    modes: dict[str, images.Mode] = {"bg": "RGB", "fg": "RGBA"}
    for (kind, mode), copies in zip(modes.items(), (2, 0), strict=True):
        paths = sorted((realdata / kind).iterdir())
        prints = [fingerprint(images.decode(path.read_bytes(), mode)) for path in paths]
        near = [pair for pair in combinations(prints, 2) if distance(*pair) <= THRESHOLD]
        assert len(near) == copies
        assert min(distance(*pair) for pair in combinations(prints, 2) if pair not in near) >= 80


@pytest.mark.realdata
def test_real_pictures_are_like_their_small_copies(realdata: Path) -> None:
    for path in sorted((realdata / "bg").iterdir()):
        pixels = images.decode(path.read_bytes(), "RGB")
        copy = as_jpeg(rescale(pixels, 0.5), 70)
        assert distance(fingerprint(pixels), fingerprint(copy)) <= 20, path.name
