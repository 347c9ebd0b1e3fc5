"""Every picture is read whole and upright, or refused by its name; never anything between."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from collections import Counter
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depthgen import images
from depthgen.images import ImageError, TooLargeError

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth picture, unlike itself in every orientation."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return (np.stack([x, y, 0.5 + 0.5 * x * y], axis=2) * 255).astype(np.uint8)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def close(ours: np.ndarray, theirs: np.ndarray, by: float = 3) -> bool:
    difference = np.abs(ours.astype(int) - theirs)
    return ours.shape == theirs.shape and difference.mean() < by


COLOURS = scene()
JPEG = images.encode_jpeg(COLOURS, 90)
PNG = images.encode_png(COLOURS)


MODES_OF = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "WEBP": ("L", "RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in MODES_OF.items() for mode in modes]
)
def test_any_kind_of_picture_becomes_any_mode(mode: str, kind: str) -> None:
    grey = Image.fromarray(COLOURS).convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    picture = wide if mode == "I;16" else Image.fromarray(COLOURS).convert(mode)
    data = saved(picture, kind)
    reference = np.asarray(grey if mode == "I;16" else picture.convert("RGB").convert("L"))
    assert close(images.decode(data, "L"), reference)
    rgb, rgba = images.decode(data, "RGB"), images.decode(data, "RGBA")
    assert close(np.asarray(Image.fromarray(rgb).convert("L")), reference)
    assert close(rgba[:, :, :3], rgb)
    assert (rgba[:, :, 3] == 255).all()
    assert images.size_of(data) == (64, 48)


def test_colours_of_a_cmyk_jpeg_are_pillows() -> None:
    data = saved(Image.fromarray(COLOURS).convert("CMYK"), "JPEG", quality=95)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(images.decode(data, "RGB"), theirs)


def test_sixteen_bits_keep_their_upper_half() -> None:
    wide = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    assert np.array_equal(images.decode(images.encode_png(wide), "L"), wide >> 8)


def test_sixteen_bit_colours_are_read() -> None:
    wide = COLOURS.astype(np.uint16) * 256
    done, data = cv2.imencode(".png", cv2.cvtColor(wide, cv2.COLOR_RGB2BGR))
    assert done
    assert close(images.decode(data.tobytes(), "RGB"), COLOURS, by=1)


def test_transparency_of_a_palette_becomes_alpha() -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for transparent in (1, bytes([255, 0, 128])):
        data = saved(picture, "PNG", transparency=transparent)
        alpha = images.decode(data, "RGBA")[:, :, 3]
        assert alpha.tolist() == [[255, 0], [128 if isinstance(transparent, bytes) else 255, 0]]


def test_alpha_of_grey_is_kept_and_dropping_it_shows_the_colours() -> None:
    grey_alpha = np.array([[[10, 0], [200, 77]]], np.uint8)
    data = saved(Image.fromarray(grey_alpha, "LA"), "PNG")
    assert images.decode(data, "RGBA").tolist() == [[[10, 10, 10, 0], [200, 200, 200, 77]]]
    assert images.decode(data, "RGB").tolist() == [[[10] * 3, [200] * 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(COLOURS), kind, exif=exif)
    upright = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, -1),
        7: np.rot90(COLOURS, 2).transpose(1, 0, 2),
        8: np.rot90(COLOURS),
    }[orientation]
    decoded = images.decode(data, "RGB")
    assert close(decoded, upright, by=6)
    assert images.size_of(data) == decoded.shape[1::-1]


def test_a_rotation_far_behind_other_segments_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(COLOURS), "JPEG", exif=exif)
    other = b"\xff\xe2" + (5002).to_bytes(2, "big") + bytes(5000)
    assert images.decode(data[:2] + other + data[2:], "RGB").shape == (64, 48, 3)


@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\xff\xff\0\0", b"II*\0\x08\0\0\0\x09\0"])
def test_a_picture_with_broken_exif_is_read_without_a_warning(exif: bytes) -> None:
    data = saved(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\0\0" + exif)
    assert images.decode(data, "RGB").shape == COLOURS.shape
    assert images.size_of(data) == (64, 48)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_what_is_no_picture_is_refused_by_its_name(mode: images.Mode) -> None:
    for data in (
        b"",
        b"text, named .png",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"%!PS-Adobe-3.0",
    ):
        with pytest.raises(ImageError, match=r"^bg_007\.jpg "):
            images.decode(data, mode, name="bg_007.jpg")
        for ask in (images.size_of, images.identify, images.decode_depth):
            with pytest.raises(ImageError, match=r"^bg_007\.jpg "):
                ask(data, name="bg_007.jpg")


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        saved(Image.fromarray(COLOURS), "JPEG", progressive=True),
        saved(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"),
        PNG,
        saved(Image.fromarray(COLOURS).convert("P"), "PNG"),
        images.encode_mask(COLOURS[:, :, 0] > 99),
    ],
    ids=["jpeg", "progressive", "cmyk", "png", "palette", "mask"],
)
def test_a_picture_cut_anywhere_is_refused_in_silence(
    data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    step = max(1, len(data) // 150)
    for cut in [*range(0, len(data), step), *range(len(data) - 20, len(data))]:
        modes: list[images.Mode] = ["RGB", "L"]
        for mode in modes:
            with pytest.raises(ImageError):
                images.decode(data[:cut], mode)
        with suppress(ImageError):
            images.size_of(data[:cut])
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_cut_in_its_pixels_is_refused_though_it_has_an_end() -> None:
    for cut in range(JPEG.index(b"\xff\xda") + 20, len(JPEG) - 2, 7):
        with pytest.raises(ImageError, match="truncated or damaged"):
            images.decode(JPEG[:cut] + b"\xff\xd9", "RGB")


def test_flipped_bytes_raise_nothing_but_an_image_error(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes: Counter[str] = Counter()
    chance = np.random.default_rng(0)
    sources = [JPEG, PNG, images.encode_mask(COLOURS[:, :, 0] > 99)]
    sources += [saved(Image.fromarray(COLOURS), kind) for kind in ("WEBP", "GIF", "TIFF")]
    for round_, data in enumerate(sources * 60):
        changed = bytearray(data)
        for at in chance.integers(0, min(len(data), 200 if round_ % 2 else len(data)), 3):
            changed[at] ^= int(chance.integers(1, 256))
        for ask in (lambda d: images.decode(d, "L"), images.size_of, images.decode_depth):
            try:
                ask(bytes(changed))
                outcomes["read"] += 1
            except ImageError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 200
    assert capfd.readouterr() == ("", "")


def header_bomb(kind: str) -> bytes:
    if kind == "PNG":
        body = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + PNG[24:29]
        return PNG[:12] + body + zlib.crc32(body).to_bytes(4, "big") + PNG[33:]
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + (30_000).to_bytes(2, "big") * 2 + JPEG[at + 4 :]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_header_of_too_many_pixels_is_refused_before_decoding(kind: str) -> None:
    tracemalloc.start()
    for ask in (images.decode_depth, images.size_of, lambda data: images.decode(data, "RGB")):
        with pytest.raises(TooLargeError, match="pixels"):
            ask(header_bomb(kind))
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_the_limit_on_pixels_is_the_callers() -> None:
    for data in (JPEG, PNG, images.encode_mask(COLOURS[:, :, 0] > 99)):
        assert images.decode(data, "L", max_pixels=48 * 64).shape == (48, 64)
        with pytest.raises(TooLargeError, match="64 × 48 pixels"):
            images.decode(data, "L", max_pixels=48 * 64 - 1)


def test_a_mask_that_unpacks_to_more_than_its_size_costs_no_memory() -> None:
    good = images.encode_mask(np.ones((8, 8), np.uint8))
    body = b"IDAT" + zlib.compress(bytes(1 << 27))
    bomb = good[:33] + (len(body) - 4).to_bytes(4, "big") + body
    bomb += zlib.crc32(body).to_bytes(4, "big") + good[-12:]
    tracemalloc.start()
    with suppress(ImageError):
        images.decode(bomb, "L")
    assert tracemalloc.get_traced_memory()[1] < 1 << 21
    tracemalloc.stop()


@given(shapes, st.integers(0, 2**32))
def test_masks_are_what_pillow_reads_and_we_do(shape: tuple[int, int], seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 3, shape, np.uint8)
    data = images.encode_mask(mask)
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "1"
    expected = np.where(mask, 255, 0)
    assert np.array_equal(np.array(picture.convert("L")), expected)
    assert np.array_equal(images.decode(data, "L"), expected)
    assert np.array_equal(images.decode(data, "RGB"), np.dstack([expected] * 3))
    assert images.encode_mask(mask > 0) == data


@given(shapes, st.sampled_from([None, 3, 4]), st.integers(0, 2**32))
def test_png_gives_back_every_pixel(
    shape: tuple[int, int], channels: int | None, seed: int
) -> None:
    full = shape if channels is None else (*shape, channels)
    array = np.random.default_rng(seed).integers(0, 256, full, np.uint8)
    data = images.encode_png(array)
    modes: dict[int | None, images.Mode] = {None: "L", 3: "RGB", 4: "RGBA"}
    assert np.array_equal(images.decode(data, modes[channels]), array)
    assert np.array_equal(np.array(Image.open(io.BytesIO(data))), array)


@pytest.mark.parametrize("shape", [(0, 3), (3, 3, 1), (3, 3, 2), (2, 3, 3, 3)])
def test_what_no_png_holds_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError):
        images.encode_png(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError):
        images.encode_mask(np.zeros(shape, np.uint8))


def test_jpeg_gives_back_nearly_every_pixel() -> None:
    assert close(images.decode(JPEG, "RGB"), COLOURS, by=2)
    grey = COLOURS[:, :, 2]
    assert close(images.decode(images.encode_jpeg(grey, 95), "L"), grey, by=1)
    assert close(images.decode(JPEG, "L"), np.array(Image.fromarray(COLOURS).convert("L")), by=2)
    assert len(images.encode_jpeg(COLOURS, 30)) < len(JPEG)
    flipped = images.encode_jpeg(COLOURS[:, ::-1], 90)
    assert close(images.decode(memoryview(flipped), "RGB"), COLOURS[:, ::-1], by=2)


@pytest.mark.parametrize("by", [2, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(96, 96), (37, 90)])
def test_a_jpeg_is_decoded_at_a_part_of_its_size_as_by_pillow(
    height: int, width: int, by: images.Reduction
) -> None:
    data = images.encode_jpeg(scene(height, width), 95)
    picture = Image.open(io.BytesIO(data))
    picture.draft("RGB", (width // by, height // by))
    ours = images.decode(data, "RGB", reduced=by)
    assert ours.shape == (-(-height // by), -(-width // by), 3)
    assert np.abs(ours.astype(int) - np.asarray(picture)).max() <= 2


def test_other_kinds_are_averaged_to_a_part_of_their_size() -> None:
    png = images.encode_png(scene(40, 60))
    wanted = images.resize(scene(40, 60), 30, 20, "area")
    assert np.array_equal(images.decode(png, "RGB", reduced=2), wanted)
    mask = np.arange(40) < np.arange(60)[:, None]
    small = images.decode(images.encode_mask(mask), "L", reduced=4)
    assert np.array_equal(small, images.resize(mask * np.uint8(255), 10, 15, "area"))


@pytest.mark.parametrize("size", [(30, 20), (90, 100)])
def test_bicubic_is_pillows_with_alpha_premultiplied(size: tuple[int, int]) -> None:
    alpha = (np.hypot(*np.mgrid[-24:24, -32:32]) < 15)[:, :, None] * np.uint8(255)
    cutout = np.dstack([np.where(alpha, COLOURS, 255 - COLOURS), alpha])
    ours = images.resize(cutout, *size, "bicubic")
    theirs = Image.fromarray(cutout).resize(size, Image.Resampling.BICUBIC)
    assert np.array_equal(ours, np.array(theirs))
    solid = images.resize(
        np.where(alpha, cutout, cutout * [0, 0, 0, 1]).astype(np.uint8), *size, "bicubic"
    )
    assert np.array_equal(ours, solid)  # what lies under no alpha does not bleed in


def test_area_averages_and_nearest_picks() -> None:
    block = np.arange(64, dtype=np.uint8).reshape(8, 8)
    averages = block.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(images.resize(block, 4, 4, "area") - averages).max() <= 0.5
    assert np.array_equal(images.resize(block, 16, 16, "nearest"), block.repeat(2, 0).repeat(2, 1))


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "u1", "<i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_depth_comes_back_as_float32(dtype: str, order: Any) -> None:
    depth = np.arange(12, dtype=dtype).reshape(3, 4, order=order)
    read = images.decode_depth(npy_bytes(depth))
    assert read.dtype == np.float32
    assert np.array_equal(read, depth.astype(np.float32))


@pytest.mark.parametrize(
    "data",
    [
        npy_bytes(np.ones((2, 2), complex)),
        npy_bytes(np.ones((2, 2), bool)),
        npy_bytes(np.ones((2, 2, 1))),
        npy_bytes(np.ones((2, 2)))[:-1],
        npy_bytes(np.ones((2, 2))).replace(b"(2, 2), }" + b" " * 14, b"(9999999, 9999999), }  "),
        npy_bytes(np.ones((2, 2))).replace(b"'<f8'", b"((((("),
        npy_bytes(np.array([[{}]], object)),
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x09\x00" + bytes(100),
    ],
)
def test_npy_that_is_no_depth_map_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^depth\.npy "):
        images.decode_depth(data, name="depth.npy")


def test_depth_that_16_bits_do_not_hold_is_refused() -> None:
    deep = saved(Image.fromarray(np.array([[70_000]], np.int32)), "TIFF")
    with pytest.raises(ImageError, match="beyond 16 bits"):
        images.decode_depth(deep)


def test_values_that_are_no_numbers_become_black_without_a_warning() -> None:
    data = saved(Image.fromarray(np.array([[np.nan, 1.0]], np.float32)), "TIFF")
    assert images.decode(data, "L").tolist() == [[0, 255]]


def test_colours_that_cannot_be_converted_are_refused() -> None:
    data = saved(Image.new("LAB", (4, 4)), "TIFF")
    with pytest.raises(ImageError, match="LAB"):
        images.decode(data, "L")
