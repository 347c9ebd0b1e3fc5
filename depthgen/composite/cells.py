"""JPEG files spliced from cells of blocks, so that only what lies under a cut-out is encoded.

With a restart marker after every few blocks, each such cell is coded independently of the others
(ITU-T T.81, section E.1.4): what a cut-out does not touch is the background's own bytes. The one
rule: a spliced file is byte-identical to encoding the whole picture with the same markers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from depthgen import images

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

BLOCK = 16  # pixels: at 4:2:0 a block (MCU) is 16 × 16
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MARKERS = tuple(bytes((0xFF, 0xD0 + number)) for number in range(8))
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_MAX_HEIGHT = 65_000  # pixels; the encoder's limit is 65,500


def blocks_in_a_cell(width: int) -> int:
    """How many blocks make a cell of a picture this wide: the least divisor of a row above one.

    Narrow cells leave more of the background untouched, but cost three bytes each; a cell must not
    reach over the end of a row, for markers are counted through.
    """
    row = -(-width // BLOCK)
    return next((blocks for blocks in range(2, row) if row % blocks == 0), row)


@dataclass(frozen=True)
class Patch:
    """Cells out of a picture: pixels (h, w, 3) whose first is at (left, top) of the picture."""

    pixels: NDArray[np.uint8]
    left: int
    top: int


class CellEncoder:
    """Encodes pictures that differ from one background in a rectangle only.

    background: uint8 (H, W, 3) in BGR order. quality: 1 to 100.
    """

    def __init__(self, background: NDArray[np.uint8], quality: int) -> None:
        self._background = background
        self._quality = quality
        self._blocks = blocks_in_a_cell(background.shape[1])
        self._cell = self._blocks * BLOCK
        jpeg = images.encode_jpeg_cells(background, quality, self._blocks)
        # Every picture of these settings has a header as long as this one.
        self._header = _header_size(jpeg)
        cells = _RESTART.split(jpeg[self._header : -len(_END_OF_IMAGE)])
        self._columns = -(-background.shape[1] // self._cell)
        self._rows = len(cells) // self._columns
        # A marker follows each cell but the last; which one, its place in the picture says.
        ends = [_MARKERS[number % 8] for number in range(len(cells) - 1)] + [_END_OF_IMAGE]
        marked = [cell + end for cell, end in zip(cells, ends, strict=True)]
        self._ends = ends
        by_row = [marked[at : at + self._columns] for at in range(0, len(cells), self._columns)]
        columns = range(self._columns + 1)
        self._left = [[b"".join(row[:column]) for column in columns] for row in by_row]
        self._right = [[b"".join(row[column:]) for column in columns] for row in by_row]
        whole = [row[self._columns] for row in self._left]
        self._above = [
            jpeg[: self._header] + b"".join(whole[:row]) for row in range(self._rows + 1)
        ]
        self._below = [b"".join(whole[row:]) for row in range(self._rows + 1)]

    def cut(self, x: int, y: int, width: int, height: int) -> Patch:
        """A copy of the cells that a rectangle touches."""
        left, top = x // self._cell * self._cell, y // BLOCK * BLOCK
        right = -(-(x + width) // self._cell) * self._cell
        bottom = -(-(y + height) // BLOCK) * BLOCK
        return Patch(self._background[top:bottom, left:right].copy(), left, top)

    def encode(self, patches: Sequence[Patch]) -> list[bytes]:
        """For each patch the whole picture as JPEG, with the patch in place of the background.

        Patches of one width are stacked and encoded in one go: an encoder's start costs as much as
        two dozen blocks.
        """
        pictures = [b""] * len(patches)
        for stack in _stacks(patches):
            tall = np.concatenate([patches[index].pixels for index in stack])
            jpeg = images.encode_jpeg_cells(tall, self._quality, self._blocks)
            # In the scan, a 0xFF of the data is followed by 0x00, so markers are what they seem.
            cells = iter(_RESTART.split(jpeg[self._header : -len(_END_OF_IMAGE)]))
            for index in stack:
                pictures[index] = self._splice(patches[index], cells)
        return pictures

    def _splice(self, patch: Patch, cells: Iterator[bytes]) -> bytes:
        """The picture of a patch, whose cells are the next ones of `cells`."""
        height, width = patch.pixels.shape[:2]
        first, row = patch.left // self._cell, patch.top // BLOCK
        last = first - (-width // self._cell)
        pieces = [self._above[row]]
        for below in range(row, row - (-height // BLOCK)):
            number = below * self._columns
            pieces.append(self._left[below][first])
            ends = self._ends[number + first : number + last]
            pieces.extend(chain.from_iterable(zip(islice(cells, len(ends)), ends, strict=True)))
            pieces.append(self._right[below][last])
        pieces.append(self._below[row - (-height // BLOCK)])
        return b"".join(pieces)


def _stacks(patches: Sequence[Patch]) -> list[list[int]]:
    """The patches, by number, that can be encoded as one tall picture."""
    stacks: list[list[int]] = []
    open_stacks: dict[int, tuple[list[int], int]] = {}  # by width: the stack and its height
    for index, patch in enumerate(patches):
        height, width = patch.pixels.shape[:2]
        stack, tall = open_stacks.get(width, ([], _MAX_HEIGHT))
        if tall + height > _MAX_HEIGHT:
            stack, tall = [], 0
            stacks.append(stack)
        stack.append(index)
        # At the lower edge of a picture a block may be cut: nothing can be stacked below it.
        open_stacks[width] = stack, tall + height if height % BLOCK == 0 else _MAX_HEIGHT
    return stacks


def _header_size(jpeg: bytes) -> int:
    """How many bytes come before the scan."""
    position = 2
    while jpeg[position + 1] != _START_OF_SCAN:
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
