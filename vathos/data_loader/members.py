"""The pictures of one archive, decoded at the size that is trained on.

The one rule: what is made smaller is what `depthgen resize` would have made: areas are averaged,
and a mask is white again from 128. Only a JPEG comes out a little different, for it is decoded at a
half, a quarter or an eighth of its size wherever that is large enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthgen.images import ImageError, decode, decode_depth, resize
from vathos.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from depthgen.archive import Archive
    from depthgen.images import Mode, Reduction

__all__ = ["MASK_THRESHOLD", "Members"]

MASK_THRESHOLD = 128
REDUCTIONS: tuple[Reduction, ...] = (8, 4, 2)


class Members:
    """The members of `archive`, by their position in it.

    path: what to call it in an error. stem: which of the four archives it is. stored: (height,
    width) that every picture of the set must have. size: the side to bring them to, None for as
    they are; not larger than what is stored.
    """

    def __init__(
        self, archive: Archive, path: Path, stem: str, stored: tuple[int, int], size: int | None
    ) -> None:
        self.archive = archive
        self.path = path
        self.stored = stored
        self.shape = stored if size is None else (size, size)
        self._stem = stem
        self._reduced: Reduction = 1
        if stem in ("bg", "fg_bg"):
            fitting = (by for by in REDUCTIONS if min(stored) >= by * self.shape[0])
            self._reduced = next(fitting, 1)
        self._expected = tuple(-(-side // self._reduced) for side in stored)

    def read(self, position: int) -> NDArray[Any]:
        """RGB uint8 (H, W, 3), a mask uint8 (H, W), or depth (H, W) in its stored type.

        Raises `ImageError`, and `DataError` for one of another size or with depths that are none.
        """
        data = self.archive[position]
        try:
            picture = self._decode(data, "picture", self._reduced)
        except ImageError:
            # Once more, to call it by its name: making names costs more than reading members.
            picture = self._decode(data, self._name(position), self._reduced)
        if picture.shape[:2] != self._expected:
            raise self._another_size(data, position)
        if picture.dtype == np.float32:
            self._check_label(picture, position)
        return picture if picture.shape[:2] == self.shape else self._shrunk(picture)

    def _decode(self, data: memoryview, name: str, reduced: Reduction) -> NDArray[Any]:
        if self._stem == "depth_fg_bg":
            return decode_depth(data, name=name)
        mode: Mode = "L" if self._stem == "fg_bg_mask" else "RGB"
        return decode(data, mode, name=name, reduced=reduced)

    def _another_size(self, data: memoryview, position: int) -> DataError:
        name = self._name(position)
        height, width = self._decode(data, name, 1).shape[:2]
        return DataError(
            f"{name} is {height} x {width}, but the backgrounds are {self.stored[0]} x "
            f"{self.stored[1]}; the archives are not of one set"
        )

    def _shrunk(self, picture: NDArray[Any]) -> NDArray[Any]:
        small = resize(picture, self.shape[1], self.shape[0], "area")
        if self._stem == "fg_bg_mask":
            return (small >= MASK_THRESHOLD) * np.uint8(255)
        return small

    def _check_label(self, depth: NDArray[Any], position: int) -> None:
        """Floats may be anything; integers are a label at whatever value."""
        low, high = float(depth.min()), float(depth.max())  # NaN if any is
        if not 0 <= low <= high <= 1:
            raise DataError(
                f"{self._name(position)} has values from {low:g} to {high:g}, but a depth label is "
                "a number from 0 to 1; make the labels again"
            )

    def _name(self, position: int) -> str:
        return f"{self.path}: {self.archive.names[position]}"
