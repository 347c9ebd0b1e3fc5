"""Depth without a network: the background's own depth, and the cut-out as an upright plane in it.

A cut-out stands where its lowest row meets the background (z_contact), but never behind what it
covers (z_cover). The one rule: outside the mask a label is the background's, pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from depthgen import images
from depthgen.archive import Archive, Entry, files_of
from depthgen.depth.quantity import FAR_M, Quantity, label_entry, quantise, to_metres
from depthgen.errors import StageError
from depthgen.stage import sound_member
from depthgen.workspace import (
    DEPTH_SUFFIXES,
    Member,
    Workspace,
    parse_member,
    parse_picture,
    picture_stem,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_COVER_FRACTION = 0.05


def plane_depth(mask: NDArray[np.bool_], background_m: NDArray[np.float64]) -> float:
    """The depth in metres of the upright plane that stands for a cut-out.

    mask: (H, W) where the cut-out is, not empty. background_m: (H, W) metres.
    z_contact: median of the background under the lowest row of the mask. z_cover: 5th percentile
    (linear interpolation) of the background under the whole mask. The nearer of both is returned.
    """
    covered = background_m[mask]
    # A boolean index goes row by row: the last ones are the lowest row.
    lowest = int(np.count_nonzero(mask[np.flatnonzero(mask.any(axis=1))[-1]]))
    z_contact = float(np.median(covered[-lowest:]))
    place = (len(covered) - 1) * _COVER_FRACTION
    below = int(place)
    above = min(below + 1, len(covered) - 1)
    ordered = np.partition(covered, (below, above))
    z_cover = float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))
    return min(z_contact, z_cover)


@dataclass
class LayeredLabeller:
    """Labels samples from their masks and the backgrounds' depth; what a worker runs.

    depth: the archive of the backgrounds' depth. shards: the files of fg_bg_mask.zip. A unit is
    (shard, start, stop): members of that file. over: the network that computed the backgrounds'
    depth, empty where it is their own.
    """

    depth: Path
    shards: tuple[Path, ...]
    bits: int
    size: int
    over: str = ""

    def quantity(self) -> Quantity:
        model = f"layered over {self.over}" if self.over else "layered"
        return Quantity("depth_m", FAR_M, self.bits, model, self.size)

    def __call__(self, unit: tuple[int, int, int]) -> list[list[Entry]]:
        """The label members of one unit."""
        images.use_one_thread()
        shard, start, stop = unit
        masks = self._masks[shard]
        entries = []
        for index in range(start, stop):
            name = masks.name(index)
            member = parse_member(name)
            assert member is not None, "the stage counted sample members only"
            mask = sound_member(masks, index, "composite")
            entries.append(label_entry(member, self._label(member, name, mask)))
        return [entries]

    def _label(self, member: Member, name: str, data: memoryview) -> NDArray[Any]:
        metres, label = self._background(member.bg)
        mask = images.decode(data, "L", name=name) >= 128
        if mask.shape != metres.shape:
            raise StageError(
                f"the depth of {picture_stem('bg', member.bg)} is {metres.shape[1]} × "
                f"{metres.shape[0]} and {name} {mask.shape[1]} × {mask.shape[0]}; "
                "run `depthgen crop` with the background's depth in sources/bg_depth"
            )
        label = label.copy()
        if mask.any():
            # Quantising keeps the order, so the minimum can be taken after it.
            label[mask] = np.minimum(label[mask], quantise(plane_depth(mask, metres), self.bits))
        return label

    def _background(self, bg: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """(depth in metres, the same as a label) of a background."""
        if bg not in self._backgrounds:
            if bg not in self._members:
                raise StageError(f"{self.depth} has no depth for {picture_stem('bg', bg)}")
            name = self._members[bg]
            made_by = "depthmap" if self.over else "crop"
            depth = sound_member(self._depth, self._depth.index(name), made_by)
            metres = to_metres(images.decode_depth(depth, name=name), name)
            self._backgrounds.clear()  # samples come background by background
            self._backgrounds[bg] = metres, quantise(metres, self.bits)
        return self._backgrounds[bg]

    @cached_property
    def _masks(self) -> list[Archive]:
        return [Archive(path) for path in self.shards]

    @cached_property
    def _depth(self) -> Archive:
        return Archive.open(self.depth)

    @cached_property
    def _members(self) -> dict[int, str]:
        return depth_members(self._depth)

    @cached_property
    def _backgrounds(self) -> dict[int, tuple[NDArray[np.float64], NDArray[Any]]]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Open archives stay here: a worker opens its own.
        return type(self), (self.depth, self.shards, self.bits, self.size, self.over)


def backgrounds_with_depth(workspace: Workspace) -> set[int]:
    """The numbers of the backgrounds whose depth is in bg_depth.zip, if there is one."""
    files = files_of(workspace.archive("bg_depth"))
    if not files:
        return set()
    with Archive(*files) as archive:
        return set(depth_members(archive))


def depth_members(archive: Archive) -> dict[int, str]:
    """The member with the depth of each background, by number, in whatever folder it lies.

    Raises `StageError` if a background has two.
    """
    found: dict[int, str] = {}
    for name in archive.names:
        picture = parse_picture(name)
        if picture is None or picture[0] != "bg" or not name.endswith(DEPTH_SUFFIXES):
            continue
        other = found.setdefault(picture[1], name)
        if other != name:
            raise StageError(
                f"{archive.paths[0]} has {other} and {name}, depth of one background; keep one"
            )
    return found
