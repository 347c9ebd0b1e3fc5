"""PNG files looked at by hand, where Pillow is slow or too kind; only `images` uses this.

Pillow checks no checksum of the pixels: a file with a flipped bit reads as another picture. The one
rule: what is returned from here has had every checksum on its way looked at.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BILEVEL = bytes((1, 0, 0, 0, 0))  # IHDR: 1 bit, grey, deflate, standard filters, no interlace
_SUB = 1  # the filter that stores each byte as its difference from the pixel before


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk: length, kind, body, checksum."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)))


IEND = chunk(b"IEND", b"")
_IDAT_AT = 8 + 25  # after the signature and the IHDR chunk


def chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview, bool]]:
    """(kind, body, whether its checksum is right) of each chunk, as far as the file goes."""
    view = memoryview(data)
    at = len(SIGNATURE)
    while at + 12 <= len(view):
        (length,) = struct.unpack_from(">I", view, at)
        end = at + 12 + length
        if end > len(view):
            return
        body = view[at + 4 : end - 4]
        kind = bytes(body[:4])
        yield kind, body[4:], zlib.crc32(body) == struct.unpack_from(">I", view, end - 4)[0]
        if kind == b"IEND":
            return
        at = end


def pixels_are_whole(data: bytes | memoryview) -> bool:
    """Whether the file reaches its end, and no chunk that the pixels need has a wrong checksum."""
    kind = b""
    for kind, _, right in chunks(data):
        if not right and not kind[0] & 0x20:  # a small first letter: not needed to show the picture
            return False
    return kind == b"IEND"


def decode_plain_grey(data: bytes | memoryview, max_pixels: int) -> NDArray[Any] | None:
    """Grey of 8 or 16 bits as OpenCV writes it, (H, W), in three quarters of Pillow's time.

    None for any other file, or one with an error in it: the caller has Pillow read those.
    """
    found = list(chunks(data))
    kinds = [kind for kind, _, _ in found]
    if kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"] or len(found[0][1]) != 13:
        return None
    width, height, bits = struct.unpack_from(">IIB", found[0][1])
    known = bits in (8, 16) and found[0][1][9:] == bytes(4) and all(right for *_, right in found)
    if not known or not 0 < width * height <= max_pixels:
        return None
    size = bits // 8
    stride = 1 + width * size
    inflater = zlib.decompressobj()
    try:
        packed = b"".join(body for _, body, _ in found[1:-1])
        rows = np.frombuffer(inflater.decompress(packed, height * stride + 1), np.uint8)
    except zlib.error:
        return None
    if rows.size != height * stride or not inflater.eof or (rows[::stride] != _SUB).any():
        return None
    steps = rows.reshape(height, stride)[:, 1:].reshape(height, width, size)
    pixels = np.add.accumulate(steps, axis=1, dtype=np.uint8)
    return pixels[:, :, 0] if size == 1 else pixels.view(">u2")[:, :, 0].astype(np.uint16)


def decode_plain_mask(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """A mask as `images.encode_mask` writes it, (H, W) of 0 and 255; None for any other file.

    One whole IDAT, no row filtered, every checksum right.
    """
    width, height = struct.unpack_from(">II", data, 16)
    stride = 1 + (width + 7) // 8
    body = data[_IDAT_AT : -len(IEND)]
    if not 0 < width * height <= max_pixels or not data.endswith(IEND):
        return None
    if chunk(b"IHDR", data[16:29]) != data[8:_IDAT_AT] or len(body) < 12:
        return None
    if chunk(b"IDAT", body[8:-4]) != body:
        return None
    inflater = zlib.decompressobj()
    try:
        packed = np.frombuffer(inflater.decompress(body[8:-4], height * stride + 1), np.uint8)
    except zlib.error:
        return None
    if packed.size != height * stride or not inflater.eof or packed[::stride].any():
        return None
    bits = np.unpackbits(packed.reshape(height, stride)[:, 1:], axis=1, count=width)
    return bits * np.uint8(255)
