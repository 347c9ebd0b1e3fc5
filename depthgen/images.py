"""The one door to Pillow, OpenCV and the JPEG codec.

A picture is a `uint8` array: (H, W, 3) RGB, (H, W, 4) RGBA with straight alpha, or (H, W) grey.
The one rule: what cannot be read whole is an `ImageError` with its name, never a warning and never
a half-grey picture.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from depthgen import npy, png
from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Data = bytes | bytearray | memoryview
Mode = Literal["RGB", "RGBA", "L"]
Filter = Literal["area", "bicubic", "nearest"]
Reduction = Literal[1, 2, 4, 8]

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
# Pillow's modes for 16-bit grey; its own conversion from them to "L" clips instead of scaling.
_WIDE_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# The formats read, and the suffix of each. Pillow knows more, and some of those run other programs
# (EPS) or take any bytes (TGA). AVIF is last: a Pillow without it stumbles there.
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
    "AVIF": ".avif",
}
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


class ImageError(DepthgenError):
    """A picture that cannot be read or is refused; the message names it."""


class NotAPictureError(ImageError):
    """A file that is no picture, or of a format that is not read here."""


class TooLargeError(ImageError):
    """More bytes or pixels than the limit; nothing was decoded."""


def decode(
    data: Data,
    mode: Mode,
    *,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
    reduced: Reduction = 1,
) -> NDArray[np.uint8]:
    """Decode a picture of any kind Pillow reads: EXIF rotation applied, 16 bits scaled to 8.

    data: the file's bytes. mode: what to make of it; dropping alpha shows the colours as they are.
    name: what to call it in an error. max_pixels: more are refused before anything is decoded.
    reduced: 1, 2, 4 or 8, what to divide both sides by, rounding up; a JPEG is then decoded at that
    scale in a fraction of the time, any other kind is averaged.
    Returns uint8 (H, W, 3), (H, W, 4) or (H, W). Raises `ImageError`.
    """
    fast = _decode_own(data, mode, max_pixels, reduced)
    if fast is not None:
        return fast
    picture = _load(data, name, max_pixels)
    try:
        pixels = np.array(_to_eight_bits(picture).convert(mode))
    except ValueError as error:
        raise ImageError(f"{name} has colours that are not read: {picture.mode}") from error
    return pixels if reduced == 1 else _averaged(pixels, reduced)


def _averaged(pixels: NDArray[np.uint8], reduced: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    return resize(pixels, -(-width // reduced), -(-height // reduced), "area")


def _decode_own(data: Data, mode: Mode, max_pixels: int, reduced: int) -> NDArray[np.uint8] | None:
    """The fast path for the files that we write ourselves; None sends all others to Pillow."""
    head = bytes(memoryview(data)[:29])
    if head.startswith(b"\xff\xd8\xff") and mode != "RGBA":
        return _decode_plain_jpeg(data, mode, max_pixels, reduced)
    if head.startswith(png.SIGNATURE) and head[24:29] == png.BILEVEL and mode == "L":
        mask = png.decode_plain_mask(bytes(data), max_pixels)
        return mask if mask is None or reduced == 1 else _averaged(mask, reduced)
    return None


def _decode_plain_jpeg(
    data: Data, mode: Mode, max_pixels: int, reduced: int
) -> NDArray[np.uint8] | None:
    # Only where the JFIF header is followed by the tables is there surely no EXIF rotation.
    if bytes(memoryview(data)[2:4]) != b"\xff\xe0" or bytes(memoryview(data)[20:22]) != b"\xff\xdb":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray") or height * width > max_pixels:
            return None
        least = -(-height // reduced), -(-width // reduced)  # with the factor: exactly that scale
        kind = "RGB" if mode == "RGB" else "GRAY"
        pixels = simplejpeg.decode_jpeg(data, kind, False, False, *least, reduced, strict=True)
    except ValueError:
        return None
    return pixels if mode == "RGB" else pixels[:, :, 0]


def _open(data: Data, name: str, max_pixels: int) -> Image.Image:
    view = memoryview(data)
    if view.nbytes > MAX_BYTES:
        raise TooLargeError(f"{name} has {view.nbytes} bytes; at most {MAX_BYTES} are read")
    if not view.nbytes:
        raise NotAPictureError(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            # Its bomb warning is ours to judge, with our own limit; others tell of broken metadata.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(view), formats=tuple(_SUFFIXES))
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"{name} has too many pixels; at most {max_pixels} are read") from error
    except Exception as error:  # Pillow's plug-ins raise almost anything on a broken header
        message = f"{name} is not a picture, or its header is broken"
        raise NotAPictureError(message) from error
    width, height = picture.size
    if width * height > max_pixels:
        raise TooLargeError(
            f"{name} has {width} × {height} pixels; at most {max_pixels} in all are read"
        )
    return picture


def _load(data: Data, name: str, max_pixels: int) -> Image.Image:
    picture = _open(data, name, max_pixels)
    if picture.format == "PNG" and not png.pixels_are_whole(memoryview(data)):
        raise ImageError(f"{name} is damaged or cut off: its pixels lack a right checksum")
    if picture.format in ("JPEG", "MPO"):
        _refuse_damaged_jpeg(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # a decoder in C may raise almost anything on broken data
        raise ImageError(f"{name} is truncated or damaged: {error}") from error


def _refuse_damaged_jpeg(data: Data, name: str) -> None:
    """Pillow fills what is missing with grey and says nothing; the codec itself warns.

    Decoded at an eighth of the size, which takes a fraction of the time and warns of the same.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        # Stray bytes between two markers are common in whole pictures; what else it stumbles over
        # may be a kind of JPEG that only Pillow reads.
        what = str(error)
        if "extraneous" not in what and ("Corrupt" in what or "Premature" in what):
            raise ImageError(f"{name} is truncated or damaged: {what}") from error


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode in _WIDE_GREY:
        wide = np.asarray(picture).astype(np.int64)
        return Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
    if picture.mode == "F":
        unit = np.clip(np.nan_to_num(np.asarray(picture)), 0, 1)
        return Image.fromarray((unit * 255 + 0.5).astype(np.uint8))
    if picture.mode == "P" or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture


def identify(
    data: Data, *, name: str = "picture", max_pixels: int = MAX_PIXELS
) -> tuple[int, int, str]:
    """(width, height, suffix) from the header: the size as the picture will be shown, and the file
    suffix of the format that the bytes really have, `.jpg`. Raises `ImageError`.
    """
    picture = _open(data, name, max_pixels)
    width, height = picture.size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = picture.getexif().get(0x0112, 1)
    except Exception as error:  # in a PNG it may stand behind the pixels
        raise ImageError(f"{name} is truncated or damaged: {error}") from error
    # Orientations 5 to 8 lie on their side; of a TIFF, Pillow gives the size upright.
    if orientation in (5, 6, 7, 8) and picture.format != "TIFF":
        width, height = height, width
    # A JPEG of several pictures calls itself MPO; it is read as the first of them.
    return width, height, _SUFFIXES.get(picture.format or "", ".jpg")


def size_of(data: Data, *, name: str = "picture", max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) from the header, as the picture will be shown. Raises `ImageError`."""
    width, height, _ = identify(data, name=name, max_pixels=max_pixels)
    return width, height


def encode_depth(depth: NDArray[Any]) -> bytes:
    """The inverse of `decode_depth`: a grey PNG of uint8 or uint16, `.npy` of float32."""
    return npy.encode(depth) if depth.dtype == np.float32 else encode_png(depth)


def decode_depth(data: Data, *, name: str = "depth map") -> NDArray[Any]:
    """A depth map as it is stored: uint8 or uint16 from a grey PNG, float32 from `.npy`; (H, W).

    Raises `ImageError` for anything else: depth has one channel and is never rescaled here.
    """
    if bytes(memoryview(data)[:6]) == npy.SIGNATURE:
        try:
            return npy.decode(data)
        except ValueError as error:
            raise ImageError(f"{name} {error}") from error
    if bytes(memoryview(data)[:8]) == png.SIGNATURE:
        plain = png.decode_plain_grey(bytes(data), MAX_PIXELS)
        if plain is not None:
            return plain
    picture = _load(data, name, MAX_PIXELS)
    if picture.mode in _WIDE_GREY:
        wide = np.array(picture)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageError(f"{name} has values beyond 16 bits; scale it to 0 to 65535")
        return wide.astype(np.uint16)
    if picture.mode != "L":
        raise ImageError(f"{name} has mode {picture.mode}; a depth map is 8- or 16-bit grey")
    return np.array(picture)


def encode_jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Encode (H, W, 3) RGB or (H, W) grey at `quality` 1 to 100, colours at 4:2:0."""
    if rgb.ndim == 2:
        return simplejpeg.encode_jpeg(
            np.ascontiguousarray(rgb[:, :, None]), quality, "GRAY", "Gray"
        )
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", "420")


def encode_jpeg_cells(bgr: NDArray[np.uint8], quality: int, blocks: int) -> bytes:
    """Encode (H, W, 3) in BGR order at 4:2:0, a restart marker after every `blocks` blocks (MCUs).

    OpenCV is the one encoder at hand that can set the markers; it wants BGR.
    """
    options = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, blocks)
    done, encoded = cv2.imencode(".jpg", bgr, options)
    if not done:
        raise ImageError(f"OpenCV could not encode an array of shape {bgr.shape}")
    return encoded.tobytes()


def encode_png(array: NDArray[Any]) -> bytes:
    """Encode uint8 grey, RGB or RGBA, or uint16 grey, as PNG."""
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (colour or grey) or not array.size:
        raise ImageError(f"a PNG takes uint8 or grey uint16, not {array.dtype} {array.shape}")
    pixels = array
    if array.ndim == 3:
        code = cv2.COLOR_RGBA2BGRA if array.shape[2] == 4 else cv2.COLOR_RGB2BGR
        pixels = cv2.cvtColor(array, code)
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise ImageError(f"OpenCV could not encode an array of shape {array.shape}")
    return encoded.tobytes()


def encode_mask(
    mask: NDArray[Any], frame: tuple[int, int] | None = None, x: int = 0, y: int = 0
) -> bytes:
    """Encode (H, W) as a 1-bit grey PNG, white where `mask` is not zero.

    frame: (height, width) of the picture, black but for `mask` with its corner at (x, y).
    Written by hand (PNG specification, 3rd edition): a packed picture is 1/8 of the work for zlib,
    and both libraries at hand take twice as long or more for it.
    """
    if mask.ndim != 2 or not mask.size:
        raise ImageError(f"a mask has two dimensions and at least one pixel, not {mask.shape}")
    height, width = frame or mask.shape
    rows = np.zeros((height, 1 + (width + 7) // 8), np.uint8)  # each row starts with filter 0
    shift = x % 8
    bits = np.zeros((mask.shape[0], shift + mask.shape[1]), bool)
    bits[:, shift:] = mask
    packed = np.packbits(bits, axis=1)
    rows[y : y + mask.shape[0], 1 + x // 8 : 1 + x // 8 + packed.shape[1]] = packed
    data = png.chunk(b"IDAT", _deflate_mask(rows.tobytes()))
    return b"".join((png.SIGNATURE, _mask_header(width, height), data, png.IEND))


@functools.lru_cache(maxsize=8)
def _mask_header(width: int, height: int) -> bytes:
    return png.chunk(b"IHDR", struct.pack(">II", width, height) + png.BILEVEL)


def _deflate_mask(rows: bytes) -> bytes:
    """Run lengths only, in a 4 KiB window: a mask is made of runs.

    A quarter less time than deflate's level 3 for a sixth more bytes, and no 256 KiB of set-up.
    """
    packer = zlib.compressobj(1, zlib.DEFLATED, 12, 5, zlib.Z_RLE)
    return packer.compress(rows) + packer.flush()


def resize(array: NDArray[Any], width: int, height: int, how: Filter) -> NDArray[Any]:
    """Resize to `width` × `height`; dtype and channels stay.

    `area` averages (for shrinking), `bicubic` is Pillow's: antialiased, and alpha premultiplied
    while it works, so that colours under transparent pixels do not bleed in.
    """
    if how == "area":
        return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)
    picture = Image.fromarray(array)
    return np.array(picture.resize((width, height), _RESAMPLING[how]))


class Moments:
    """Sums and sums of squares of pictures, one after the other.

    It keeps the planes that it splits a picture into: fresh memory for each would cost a third of
    the time. Channel by channel takes half the time of `cv2.meanStdDev` on all at once; `cv2.norm`
    would be faster still, but rounds to float32.
    """

    def __init__(self) -> None:
        self._planes: list[NDArray[Any]] = []

    def __call__(self, array: NDArray[Any]) -> tuple[list[float], list[float]]:
        """(sums, sums of squares) of (H, W) or (H, W, C), one a channel.

        Whole numbers for integers, exact for 8 bits up to 10^10 pixels and for 16 bits up to 10^5;
        for more the squares are right to 15 digits.
        """
        count = array.shape[0] * array.shape[1]
        sums, squares = [], []
        for plane in self._split(array):
            mean, deviation = cv2.meanStdDev(plane)
            average, spread = mean.item(), deviation.item()
            sums.append(average * count)
            squares.append((spread * spread + average * average) * count)
        if array.dtype.kind in "iu":
            return [float(round(each)) for each in sums], [float(round(each)) for each in squares]
        return sums, squares

    def _split(self, array: NDArray[Any]) -> Sequence[NDArray[Any]]:
        if array.ndim == 2:
            return (array,)
        shape = array.shape[:2]
        if [(each.shape, each.dtype) for each in self._planes] != [(shape, array.dtype)] * 3:
            self._planes = [np.empty(shape, array.dtype) for _ in range(array.shape[2])]
        return cv2.split(array, self._planes)


def histogram(array: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each value from 0 to 255 occurs in (H, W) or (H, W, C); shape (channels, 256)."""
    channels = cv2.split(array) if array.ndim == 3 else (array,)
    counts = [cv2.calcHist([channel], [0], None, [256], [0, 256]) for channel in channels]
    return np.array(counts, np.int64).reshape(len(channels), 256)


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread: for workers, which are one core each."""
    cv2.setNumThreads(1)
