"""Looking at single members: checksum, name, picture, size, table of samples.

The one rule: nothing is taken from a member before its checksum is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from depthgen import images
from depthgen.archive import Archive, ArchiveError
from depthgen.images import ImageError
from depthgen.workspace import (
    DEPTH_INFO_MEMBER,
    Kind,
    Layout,
    labels_member,
    parse_member,
    parse_picture,
    picture_member,
    sample_member,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

PICTURES: dict[str, Kind] = {"bg": "bg", "bg_depth": "bg", "fg": "fg", "fg_mask": "fg"}
SAMPLES = ("fg_bg", "fg_bg_mask", "depth_fg_bg")
_LABELS = "labels/"
_COLUMNS = 8


@dataclass(frozen=True)
class Target:
    """An archive to look at.

    base: what it is, without the suffix of a resized one. side: of its pictures, None if they may
    have any size.
    """

    name: str
    base: str
    paths: tuple[Path, ...]
    side: int | None


@dataclass
class Look:
    """What a piece of an archive held.

    problems: (member, what is wrong). rows: (n, 5) of sample index or picture number, background,
    cut-out, height, width; −1 where one does not
    apply or is not known. tables: backgrounds with a table.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 5), np.int64))
    tables: list[int] = field(default_factory=list)


class MemberError(Exception):
    """A member that is wrong; only used in this module."""


class Checker:
    """The work on (archive, first member, end)."""

    def __init__(
        self, targets: Mapping[str, Target], layout: Layout | None, side: int | None
    ) -> None:
        self._targets, self._layout, self._side = targets, layout, side
        self._archives: dict[str, Archive] = {}

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_archives": {}}

    def __call__(self, item: tuple[str, int, int]) -> Look:
        name, start, stop = item
        target = self._targets[name]
        if name not in self._archives:
            self._archives[name] = Archive(*target.paths)
        archive = self._archives[name]
        look, rows = Look(), []
        for index in range(start, stop):
            member = archive.name(index)
            try:
                if member.startswith(_LABELS):
                    self._table(target, _read(archive, index), member, look)
                    continue
                # The name is entered first: a sample that is damaged is not missing as well.
                rows.append([*_numbers(target.base, member), -1, -1])
                shape = _shape(target.base, _read(archive, index))
                rows[-1][3:] = shape
                _check_side(shape, target.side)
            except (MemberError, ArchiveError, ImageError) as error:
                look.problems.append((member, str(error)))
        look.rows = np.array(rows, np.int64).reshape(-1, 5)
        return look

    def _table(self, target: Target, data: memoryview, member: str, look: Look) -> None:
        if target.base == "depth_fg_bg" and member == DEPTH_INFO_MEMBER:
            return
        number = parse_picture(member.removesuffix("_label_info.txt") + ".txt")
        if target.base != "fg_bg" or number is None or labels_member(number[1]) != member:
            raise MemberError("it does not belong here")
        look.tables.append(number[1])
        if self._layout is not None:
            _check_table(bytes(data), number[1], self._layout, self._side)


def _read(archive: Archive, index: int) -> memoryview:
    if not archive.crc_is_right(index):
        raise MemberError("its bytes do not have the checksum that the directory gives")
    return archive[index]


def _check_side(shape: tuple[int, int], side: int | None) -> None:
    if side is not None and shape != (side, side):
        raise MemberError(f"it is {shape[1]} × {shape[0]} px, not {side} × {side}")


def _numbers(base: str, member: str) -> tuple[int, int, int]:
    """(index, bg, fg) that a name tells; the name must be the one that we would give."""
    suffix = member[member.rfind(".") :]
    if base in SAMPLES:
        sample = parse_member(member)
        if sample is None or sample_member(base, sample, suffix) != member:
            raise MemberError("this is not the name of a sample")
        return sample.index, sample.bg, sample.fg
    picture = parse_picture(member)
    if picture is None or picture_member(base, PICTURES[base], picture[1], suffix) != member:
        raise MemberError(f"this is not the name of a picture of {base}")
    return picture[1], -1, -1


def _shape(base: str, data: memoryview) -> tuple[int, int]:
    """(height, width) of a picture, which is decoded whole."""
    if base in ("bg_depth", "depth_fg_bg"):
        pixels = images.decode_depth(data, name="it")
    elif base == "fg":
        pixels = images.decode(data, "RGBA", name="it")
    else:
        pixels = images.decode(data, "L" if "mask" in base else "RGB", name="it")
    return pixels.shape[0], pixels.shape[1]


def _check_table(data: bytes, bg: int, layout: Layout, side: int | None) -> None:
    """A background's table has a line for each of its samples, in order, each box inside."""
    lines = data.decode("utf-8", "replace").splitlines()
    if len(lines) != layout.per_background:
        raise MemberError(f"it has {len(lines)} lines for {layout.per_background} samples")
    for number, line in enumerate(lines):
        try:
            composite, mask, *rest = line.split("\t")
            x, y, width, height, flip = map(int, rest[: _COLUMNS - 3])
            float(rest[_COLUMNS - 3])
        except (ValueError, IndexError):
            raise MemberError(f"line {number + 1} is not a sample") from None
        index = bg * layout.per_background + number
        sample = layout.sample(index)
        members = parse_member(composite), parse_member(mask)
        if any(
            each is None or (each.bg, each.fg, each.index) != (sample.bg, sample.fg, index)
            for each in members
        ):
            raise MemberError(f"line {number + 1} is not of sample {index}")
        inside = min(x, y) >= 0 and min(width, height) >= 1
        if side is not None:
            inside = inside and x + width <= side and y + height <= side
        if not inside or flip != sample.flip:
            raise MemberError(f"line {number + 1} has a box or a flip that cannot be")
