"""Painted transparency is seen in all its usual forms, and seen nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthgen import images
from depthgen.sources.checkerboard import has_painted_checkerboard
from depthgen.sources.render import render_background, render_cutout

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Editors' own: white and silver, white and near-white, two dark themes, two greys, black and grey.
TONES = [(204, 255), (239, 255), (51, 68), (102, 153), (191, 255), (0, 51)]
Offset = tuple[int, int]


def board(
    height: int, width: int, cell: int, tones: tuple[int, int] = TONES[0], at: Offset = (0, 0)
) -> NDArray[np.uint8]:
    rows = (np.arange(height)[:, None] + at[0]) // cell
    columns = (np.arange(width) + at[1]) // cell
    return in_grey(np.where((rows + columns) % 2, *tones))


def in_grey(levels: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2)


def with_subject(pixels: NDArray[np.uint8], share: float, corner: Offset) -> NDArray[np.uint8]:
    """A patterned rectangle over `share` of the picture; corner: 0 start, 1 middle, 2 end."""
    out = pixels.copy()
    sizes = [round(side * share**0.5) for side in pixels.shape[:2]]
    top, left = (
        (side - size) * where // 2
        for side, size, where in zip(pixels.shape[:2], sizes, corner, strict=True)
    )
    noise = np.random.default_rng(0).integers(0, 256, (*sizes, 3))
    subject = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 5) * (0.5, 1, 0.8)
    out[top : top + sizes[0], left : left + sizes[1]] = subject
    return out


def rescale(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    height, width = (round(side * factor) for side in pixels.shape[:2])
    return images.resize(pixels, width, height, "bicubic")


def as_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    return images.decode(images.encode_jpeg(pixels, quality), "RGB")


@pytest.mark.parametrize("tones", TONES)
@pytest.mark.parametrize("cell", [5, 8, 16, 33, 64])
def test_a_board_in_an_editors_tones_is_seen(cell: int, tones: tuple[int, int]) -> None:
    picture = with_subject(board(420, 500, cell, tones, (3, 7)), 0.5, (1, 1))
    assert has_painted_checkerboard(picture)
    assert has_painted_checkerboard(as_jpeg(picture, 70))


@settings(max_examples=40)
@given(
    cell=st.integers(8, 40),
    at=st.tuples(st.integers(0, 80), st.integers(0, 80)),
    factor=st.floats(0.5, 1.5),
    size=st.tuples(st.integers(400, 600), st.integers(400, 600)),
    quality=st.integers(70, 95),
)
def test_a_board_is_seen_at_any_offset_and_scale(
    cell: int, at: Offset, factor: float, size: Offset, quality: int
) -> None:
    picture = with_subject(board(*size, cell, at=at), 0.4, (1, 1))
    assert has_painted_checkerboard(as_jpeg(rescale(picture, factor), quality))


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (2, 1), (1, 2), (2, 2), (1, 1)])
def test_a_subject_may_cover_two_sides(corner: Offset) -> None:
    assert has_painted_checkerboard(with_subject(board(400, 500, 12), 0.6, corner))


def test_light_noise_does_not_hide_a_board() -> None:
    noise = np.random.default_rng(0).normal(0, 4, (400, 400, 3))
    noisy = np.clip(board(400, 400, 10) + noise, 0, 255).astype(np.uint8)
    assert has_painted_checkerboard(noisy)


ROWS, COLUMNS = np.mgrid[:300, :360]
NOISE = np.random.default_rng(0).integers(0, 256, (300, 360))
INNOCENT = {
    "white": np.full((300, 360), 255),
    "gradient": COLUMNS * 0.4 + ROWS * 0.2,
    "vertical bars": np.where(COLUMNS // 16 % 2, 204, 255),
    "horizontal bars": np.where(ROWS // 16 % 2, 204, 255),
    "diagonal bars": np.where((ROWS + COLUMNS) // 16 % 2, 204, 255),
    "tiles": np.where((COLUMNS % 24 < 2) | (ROWS % 24 < 2), 204, 255),
    "bricks": np.where((ROWS % 16 < 2) | ((COLUMNS + ROWS // 16 % 2 * 16) % 32 < 2), 180, 140),
    "noise": NOISE,
    "two tones by chance": np.where(np.kron(NOISE[:30, :36], np.ones((10, 10))) > 127, 204, 255),
    "a dither": np.where((ROWS + COLUMNS) % 2, 204, 255),
    "a chess board": np.where((ROWS // 37 + COLUMNS // 45) % 2, 20, 235),
}


@pytest.mark.parametrize("levels", INNOCENT.values(), ids=INNOCENT.keys())
def test_other_patterns_are_no_board(levels: NDArray[np.generic]) -> None:
    assert not has_painted_checkerboard(in_grey(levels))


def test_a_chess_board_of_wood_is_no_painted_transparency() -> None:
    light = board(320, 320, 40)[:, :, :1] == 255
    assert not has_painted_checkerboard(
        np.where(light, (240, 217, 181), (181, 136, 99)).astype(np.uint8)
    )


def test_a_tiled_floor_in_perspective_is_no_board() -> None:
    here = np.array(((0, 0), (800, 0), (800, 800), (0, 800)), np.float32)
    there = np.array(((120, 90), (280, 90), (600, 300), (-200, 300)), np.float32)
    turn = cv2.getPerspectiveTransform(here, there)
    floor = cv2.warpPerspective(board(800, 800, 40), turn, (400, 300), borderValue=(220,) * 3)
    assert not has_painted_checkerboard(np.asarray(floor, np.uint8))


def test_a_board_that_lies_askew_is_no_painted_transparency() -> None:
    turn = cv2.getRotationMatrix2D((400, 400), 20, 1)
    askew = cv2.warpAffine(board(800, 800, 16), turn, (800, 800))[200:600, 200:600]
    assert not has_painted_checkerboard(np.asarray(askew, np.uint8))


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 900, 3), (11, 11, 3), (13, 700, 3)])
def test_a_picture_without_room_for_a_board_has_none(shape: tuple[int, int, int]) -> None:
    assert not has_painted_checkerboard(np.full(shape, 255, np.uint8))


def test_rendered_pictures_have_no_board() -> None:
    for index in range(8):
        assert not has_painted_checkerboard(render_background(0, index, 96)[0])
        assert not has_painted_checkerboard(render_cutout(0, index, 128)[:, :, :3])


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["bg", "photos"])
def test_real_pictures_have_no_board(realdata: Path, folder: str) -> None:
    for path in sorted((realdata / folder).iterdir()):
        assert not has_painted_checkerboard(images.decode(path.read_bytes(), "RGB")), path.name


@pytest.mark.realdata
@pytest.mark.parametrize("level", [255, 204])
def test_real_cutouts_over_a_plain_colour_have_no_board(realdata: Path, level: int) -> None:
    for path in sorted((realdata / "fg").iterdir()):
        pixels = images.decode(path.read_bytes(), "RGBA")
        alpha = pixels[:, :, 3:] / 255.0
        plain = pixels[:, :, :3] * alpha + level * (1 - alpha)
        assert not has_painted_checkerboard(plain.astype(np.uint8)), path.name


@pytest.mark.parametrize("side", range(1, 20))
def test_a_tiny_picture_of_two_tones_is_looked_at_without_an_error(side: int) -> None:
    tones = (np.indices((side, side)).sum(axis=0) // 3 % 2 * 51 + 204).astype(np.uint8)
    has_painted_checkerboard(np.repeat(tones[:, :, None], 3, axis=2))
