"""JPEG files spliced from rows of blocks, so that only the rows under a cut-out are encoded.

With a restart marker after each row of blocks, rows are coded independently of each other (ITU-T
T.81, section E.1.4): what lies above and below a cut-out is the background's own bytes. The one
rule: a spliced file is byte-identical to encoding the whole picture with the same markers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from depthgen import images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_ROWS = 16  # pixels: at 4:2:0 a row of blocks is two luma blocks high
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MARKERS = tuple(bytes((0xFF, 0xD0 + number)) for number in range(8))
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA


class RowEncoder:
    """Encodes pictures that differ from one background in a strip only.

    background: uint8 (H, W, 3) in BGR order. quality: 1 to 100.
    """

    def __init__(self, background: NDArray[np.uint8], quality: int) -> None:
        self.background = background
        self._quality = quality
        header, rows = _split(images.encode_jpeg_rows(background, quality))
        self._rows = len(rows)
        # For each row of blocks: all bytes before it, and all bytes from it on.
        self._before = [header]
        for number, row in enumerate(rows):
            self._before.append(self._before[-1] + row + _MARKERS[number % 8])
        self._after = [_END_OF_IMAGE]
        for number, row in reversed(list(enumerate(rows))):
            marker = b"" if number == self._rows - 1 else _MARKERS[number % 8]
            self._after.append(row + marker + self._after[-1])
        self._after.reverse()

    def strip(self, top: int, bottom: int) -> tuple[NDArray[np.uint8], int]:
        """(copy of the rows of blocks that hold pixel rows [top, bottom), its first pixel row)."""
        first = top // BLOCK_ROWS * BLOCK_ROWS
        last = -(-bottom // BLOCK_ROWS) * BLOCK_ROWS
        return self.background[first:last].copy(), first

    def encode(self, strip: NDArray[np.uint8], first: int) -> bytes:
        """The whole picture as JPEG, with `strip` in place of the background from row `first`."""
        _, rows = _split(images.encode_jpeg_rows(strip, self._quality))
        start = first // BLOCK_ROWS
        stop = start + len(rows)
        pieces = [self._before[start]]
        for number, row in enumerate(rows, start):
            pieces += (row, _MARKERS[number % 8])
        if stop == self._rows:
            pieces.pop()
        pieces.append(self._after[stop])
        return b"".join(pieces)


def _split(jpeg: bytes) -> tuple[bytes, list[bytes]]:
    """(everything up to the scan, the scan's rows without their markers)."""
    position = 2
    while jpeg[position + 1] != _START_OF_SCAN:
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    # In the scan, a 0xFF of the data is followed by 0x00, so a marker cannot be anything else.
    return jpeg[:position], _RESTART.split(jpeg[position : -len(_END_OF_IMAGE)])
