"""What a hostile web shows: pictures, good and bad, and ways to serve them badly.

The one rule: everything is made here from a seed, and behaviours are built from each other, so that
a test says in one line what a URL does: `at_first(2, status(500), picture(cutout(1)))`.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tests.depthgen.sources.web.hostile import Behaviour, Visit

HTML_PAGE = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body>No picture</body></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200"><circle r="90"/></svg>'
CAPTCHA = (
    b"<!DOCTYPE html><html><head><title>One last step</title></head><body>"
    b'<form class="captcha" action="/challenge"><p>Please solve the challenge</p></form>'
    b"</body></html>"
)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BLOCK = 1 << 16
_CELL = 16
_COARSE = 64

# Pictures ---------------------------------------------------------------------------------------


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _texture(random: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """(size, size, 3), as strong in fine detail as in coarse: a perceptual hash looks at both."""
    total = np.zeros((_COARSE, _COARSE, 3))
    for cells, strength in ((3, 90.0), (6, 90.0), (12, 90.0), (20, 60.0)):
        noise = random.uniform(0, 255, (cells, cells, 3)) + random.uniform(
            0, 255, (cells, cells, 1)
        )
        grid = Image.fromarray((noise / 2).astype(np.uint8))
        smooth = np.asarray(grid.resize((_COARSE, _COARSE), Image.Resampling.BICUBIC))
        total += strength * (smooth / 64.0 - 2)
    coarse = np.clip(total + random.uniform(60, 190, 3), 0, 255).astype(np.uint8)
    large = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(large)


def _outline(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    """(size, size) in [0, 1]: a blob of its own shape, soft over one pixel, inside the picture."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    centre = random.uniform(-0.03, 0.03, 2)
    y, x = y - centre[0], (x - centre[1]) * random.uniform(0.95, 1.5)
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    edge = np.full_like(angle, 0.34)
    for waves in range(2, 8):
        strength, phase = random.uniform(0, 0.18 / waves), random.uniform(0, 2 * np.pi)
        edge += strength * np.sin(waves * angle + phase)
    return np.asarray(np.clip((np.minimum(edge, 0.42) - radius) * size + 0.5, 0, 1))


def cutout_picture(seed: int, size: int = 256) -> Image.Image:
    """RGBA: a subject on nothing, unlike that of any other seed."""
    random = np.random.default_rng([1, seed])
    alpha, texture = _outline(random, size), _texture(random, size)
    texture[alpha == 0] = 0
    return Image.fromarray(np.dstack([texture, (alpha * 255).round().astype(np.uint8)]))


def cutout(seed: int, size: int = 256) -> bytes:
    """A good foreground, PNG."""
    return encoded(cutout_picture(seed, size), compress_level=1)


def background(seed: int, size: tuple[int, int] = (320, 240)) -> bytes:
    """A good background, JPEG."""
    texture = _texture(np.random.default_rng([2, seed]), max(size))
    return encoded(Image.fromarray(texture[: size[1], : size[0]]), "JPEG", quality=90)


def opaque(seed: int) -> bytes:
    """A cut-out that somebody pasted on white: RGBA, every pixel opaque."""
    subject = cutout_picture(seed)
    white = Image.new("RGBA", subject.size, "white")
    return encoded(Image.alpha_composite(white, subject))


def checkerboard(seed: int, kind: str = "PNG") -> bytes:
    """A cut-out on the grey and white squares that programs show transparency by, opaque."""
    subject = cutout_picture(seed)
    y, x = np.mgrid[: subject.height, : subject.width] // _CELL
    cells = np.where((x + y) % 2, 255, 204).astype(np.uint8)
    board = Image.fromarray(cells).convert("RGBA")
    return encoded(Image.alpha_composite(board, subject).convert("RGB"), kind)


def again(data: bytes, factor: float = 0.5, kind: str = "PNG", **options: Any) -> bytes:
    """The same picture at another size, in another format."""
    picture = Image.open(io.BytesIO(data))
    size = round(picture.width * factor), round(picture.height * factor)
    return encoded(picture.resize(size, Image.Resampling.LANCZOS), kind, **options)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(width: int, height: int) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))


def claiming(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that says it is this large."""
    return _header(width, height) + _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A valid PNG that really is this large, all zeros, made without making its pixels."""
    block = 1 << 20
    count, rest = divmod(height * (1 + 4 * width), block)
    squeeze = zlib.compressobj(9)
    first = squeeze.compress(bytes(block)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    # After a full flush equal blocks are coded equally, wherever they stand.
    later = squeeze.compress(bytes(block)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    tail = zlib.compressobj(9, wbits=-15)
    end = tail.compress(bytes(rest)) + tail.flush()
    # Adler-32 of n zeros: a stays 1, b counts them.
    checksum = struct.pack(">HH", (count * block + rest) % 65521, 1)
    data = first + later * (count - 1) + end + checksum
    return _header(width, height) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


# Behaviours -------------------------------------------------------------------------------------


def picture(
    data: bytes, kind: str = "image/png", headers: Sequence[tuple[str, str]] = ()
) -> Behaviour:
    """Served as it should be; `headers` come on top."""
    return lambda visit: visit.send(data, headers=[("Content-Type", kind), *headers])


def robots(data: bytes, *values: str) -> Behaviour:
    """A picture whose owner says what robots may do, one X-Robots-Tag a value."""
    return picture(data, headers=[("X-Robots-Tag", each) for each in values])


def status(code: int, body: bytes = b"no", headers: Sequence[tuple[str, str]] = ()) -> Behaviour:
    """Nothing but a status; 204 goes without a body."""
    if code == 204:
        return lambda visit: visit.begin(code, headers)
    return lambda visit: visit.send(body, code, headers)


def at_first(times: int, first: Behaviour, then: Behaviour) -> Behaviour:
    """`first` for so many visits of this address, then the other."""
    return lambda visit: first(visit) if visit.number <= times else then(visit)


def stall(seconds: float, then: Behaviour) -> Behaviour:
    """Silence, then the answer."""

    def behave(visit: Visit) -> None:
        visit.wait(seconds)
        then(visit)

    return behave


def stall_midway(data: bytes, seconds: float) -> Behaviour:
    """Half of the body, silence, the other half."""

    def behave(visit: Visit) -> None:
        visit.begin(200, _described(data))
        visit.write(data[: len(data) // 2])
        visit.wait(seconds)
        visit.write(data[len(data) // 2 :])

    return behave


def drip(data: bytes, pause_s: float = 1.0) -> Behaviour:
    """One byte, a pause, one byte, …"""

    def behave(visit: Visit) -> None:
        visit.begin(200, _described(data))
        for index in range(len(data)):
            visit.write(data[index : index + 1])
            visit.wait(pause_s)

    return behave


def dropped(data: bytes) -> Behaviour:
    """All of it promised, half of it sent."""

    def behave(visit: Visit) -> None:
        visit.begin(200, _described(data))
        visit.write(data[: len(data) // 2])
        visit.hang_up()

    return behave


def truncated(data: bytes) -> Behaviour:
    """Half of a picture, passed off as whole."""
    return picture(data[: len(data) // 2])


def inflating(size: int) -> Behaviour:
    """So many bytes, and a picture's beginning, as `Content-Encoding: gzip` of a thousandth."""
    block = 10 << 20
    body = gzip.compress(_header(100, 100)) + gzip.compress(bytes(block)) * -(-size // block)
    return picture(body, headers=[("Content-Encoding", "gzip")])


def redirect(location: str, code: int = 302) -> Behaviour:
    """To anywhere; `{port}` is the server's own."""

    def behave(visit: Visit) -> None:
        visit.send(b"", code, [("Location", location.replace("{port}", str(visit.port)))])

    return behave


def redirect_chain(length: int, then: Behaviour) -> Behaviour:
    """So many redirects to the same address with another query, then the answer."""

    def behave(visit: Visit) -> None:
        hop = int(visit.query.get("hop", "0"))
        if hop < length:
            visit.send(b"", 302, [("Location", f"?hop={hop + 1}")])
        else:
            then(visit)

    return behave


def redirect_loop() -> Behaviour:
    """Round and round, never to the same address twice, so that remembering them is no way out."""

    def behave(visit: Visit) -> None:
        visit.send(b"", 302, [("Location", f"?again={visit.number}")])

    return behave


def endless(size: int = 1 << 30, *, chunked: bool = True) -> Behaviour:
    """A body without a length, which begins as a PNG does and goes on in zeros."""
    how = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")

    def behave(visit: Visit) -> None:
        visit.begin(200, [("Content-Type", "image/png"), how])
        for block in _blocks(size):
            visit.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            visit.write(b"0\r\n\r\n")
        visit.hang_up()

    return behave


def _blocks(size: int) -> Iterator[bytes]:
    start = _header(1000, 1000) + struct.pack(">I", 1 << 30) + b"IDAT"
    yield start
    zeros, left = bytes(_BLOCK), size - len(start)
    while left > 0:
        yield zeros[:left]
        left -= _BLOCK


def _described(data: bytes) -> list[tuple[str, str]]:
    return [("Content-Type", "image/png"), ("Content-Length", str(len(data)))]
