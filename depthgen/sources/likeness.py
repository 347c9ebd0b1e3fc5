"""Finding pictures that show the same as one seen before: rescaled, re-encoded, slightly cropped.

The one rule: likeness is judged by what is to be seen, in grey; the size, the format, the padding
around a cut-out and the colours under its transparent pixels have no say. A picture that shows
next to nothing is like no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 16
_WORDS = _SIDE * _SIDE // 64
_GREY = 128
# A cut-out's box is that of what is mostly opaque: rescaling adds a faint rim, and a box that it
# widens moves all that is inside.
_OPAQUE = 128
# The side that the hash looks at; made by averaging, in a fifth of the time that Pillow takes for
# its own way, it leaves the hash the same but for a few bits.
_ENOUGH = 4 * _SIDE
# A hash is a sign for each frequency. Where all frequencies are weaker than rounding and a codec's
# noise, those signs are chance, and equal for all pictures of one colour.
_LEAST_DEVIATION = 2.0
# Of 256 bits. Re-encoded or rescaled backgrounds differ by at most 32, and by 56 where a small one
# was quartered and packed hard; unrelated real pictures by 82, rendered cut-outs by 66.
THRESHOLD = 40


class FingerprintError(DepthgenError):
    """A fingerprint that was not made by `fingerprint`."""


def fingerprint(pixels: NDArray[np.uint8]) -> str:
    """What (H, W, 3) RGB or (H, W, 4) straight RGBA looks like: 64 hexadecimal digits.

    The 256-bit DCT hash of `imagehash.phash`, of the grey picture; a cut-out's is that of the box
    around alpha from 128 up, over mid-grey. Empty where there is nothing to compare: a plain
    colour, or no such alpha. May run in several threads.
    """
    import imagehash  # it loads SciPy, which takes longer than the whole command line

    grey = _grey_cutout(pixels) if pixels.shape[2] == 4 else _shrunk(_to_grey(pixels))
    if cv2.meanStdDev(grey)[1].item() < _LEAST_DEVIATION:
        return ""
    bits = imagehash.phash(Image.fromarray(grey), hash_size=_SIDE).hash
    return np.packbits(bits).tobytes().hex()


def _to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    code = cv2.COLOR_RGBA2GRAY if pixels.shape[2] == 4 else cv2.COLOR_RGB2GRAY
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _grey_cutout(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = np.asarray(cv2.extractChannel(pixels, 3), np.uint8)
    left, top, width, height = cv2.boundingRect(cv2.inRange(alpha, _OPAQUE, 255))
    if not width:
        return np.full((1, 1), _GREY, np.uint8)
    box = np.s_[top : top + height, left : left + width]
    # Premultiplied before it shrinks, as colours under transparent pixels must not bleed in.
    alpha = alpha[box]
    colour = np.asarray(cv2.multiply(_to_grey(pixels[box]), alpha, scale=1 / 255), np.uint8)
    under = _GREY * (1 - _shrunk(alpha) / 255)
    return np.rint(np.minimum(_shrunk(colour) + under, 255)).astype(np.uint8)


def _shrunk(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As large as it is looked at, where it was larger."""
    height, width = (min(side, _ENOUGH) for side in grey.shape)
    if (height, width) == grey.shape:
        return grey
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


class Likenesses:
    """The fingerprints seen so far. It belongs to one thread."""

    def __init__(self) -> None:
        self._words = np.empty((64, _WORDS), np.uint64)
        self._names: list[str] = []

    def add(self, fingerprint: str, name: str) -> None:
        """Remember a picture; an empty fingerprint is like no other and is not kept.

        Raises `FingerprintError`.
        """
        if not fingerprint:
            return
        if len(self._names) == len(self._words):
            self._words = np.concatenate((self._words, np.empty_like(self._words)))
        self._words[len(self._names)] = _to_words(fingerprint)
        self._names.append(name)

    def nearest(self, fingerprint: str) -> str | None:
        """The name of the most similar picture within `THRESHOLD` bits, the earliest of equals.

        Raises `FingerprintError`.
        """
        if not fingerprint or not self._names:
            return None
        different = self._words[: len(self._names)] ^ _to_words(fingerprint)
        distances = np.bitwise_count(different).sum(axis=1, dtype=np.uint16)
        best = int(distances.argmin())
        return self._names[best] if distances[best] <= THRESHOLD else None


def _to_words(fingerprint: str) -> NDArray[np.uint64]:
    try:
        words = np.frombuffer(bytes.fromhex(fingerprint), np.uint64)
    except ValueError:
        words = np.empty(0, np.uint64)
    if words.size != _WORDS:
        raise FingerprintError(
            f"a fingerprint has {_WORDS * 16} hexadecimal digits, not {fingerprint!r}; "
            "take it from `fingerprint`"
        )
    return words
