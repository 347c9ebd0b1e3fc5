"""Making samples: what a worker of the stage `composite` runs.

A unit of work is a few cut-outs on one background, about 400 samples. The one rule: a unit's bytes
depend on the options and on its own pictures alone.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from depthgen import images
from depthgen.archive import Archive, Entry
from depthgen.composite.blend import Cutout, paste
from depthgen.composite.cells import CellEncoder
from depthgen.composite.plan import Plan, cutout_sizes, plan_pair, scales
from depthgen.workspace import (
    Layout,
    Member,
    Workspace,
    labels_member,
    picture_member,
    picture_stem,
    sample_member,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from depthgen.composite.run import CompositeOptions

_CUTOUT_CACHE_BYTES = 256 * 2**20
_PROBE_SAMPLES = 400


@dataclass(frozen=True)
class Unit:
    """Cut-outs [start, stop) on one background."""

    bg: int
    start: int
    stop: int


@dataclass
class Compositor:
    """Makes the samples of a unit: what a worker runs. Pictures are opened on first use."""

    workspace: Workspace
    options: CompositeOptions
    layout: Layout
    side: int

    def describe(self, unit: Unit) -> str:
        """What an error message calls a unit."""
        last = picture_stem("fg", unit.stop - 1)
        return f"{picture_stem('fg', unit.start)} to {last} on {picture_stem('bg', unit.bg)}"

    def __call__(self, unit: Unit) -> tuple[list[Entry], list[Entry]]:
        """The members of one unit, for fg_bg.zip and fg_bg_mask.zip."""
        images.use_one_thread()
        composites: list[Entry] = []
        masks: list[Entry] = []
        encoder = CellEncoder(self._background(unit.bg), self.options.quality)
        for fg in range(unit.start, unit.stop):
            self._pair(encoder, unit.bg, fg, composites, masks)
        if unit.stop == self.layout.n_fg:
            table = self.labels(unit.bg).encode()
            composites.append((labels_member(unit.bg), table, crc32(table)))
        return composites, masks

    def _pair(
        self, encoder: CellEncoder, bg: int, fg: int, composites: list[Entry], masks: list[Entry]
    ) -> None:
        names, patches = [], []
        for member, (flip, size, x, y) in self._samples(bg, fg):
            cutout = self._cutout(fg, size, flip)
            height, width = cutout.mask.shape
            patch = encoder.cut(x, y, width, height)
            paste(patch.pixels, cutout, x - patch.left, y - patch.top)
            patches.append(patch)
            mask = self._encode_mask(cutout.mask, x, y)
            name, mask_name = self._names(member)
            names.append(name)
            masks.append((mask_name, mask, crc32(mask)))
        for name, picture in zip(names, encoder.encode(patches), strict=True):
            composites.append((name, picture, crc32(picture)))

    def _samples(self, bg: int, fg: int) -> Iterator[tuple[Member, tuple[int, int, int, int]]]:
        """The samples of a pair: who they are, and (flip, size, x, y)."""
        first = (bg * self.layout.n_fg + fg) * self.layout.per_pair
        rows = zip(*(column.tolist() for column in vars(self._plan(bg, fg)).values()), strict=True)
        for index, row in enumerate(rows, first):
            yield Member(fg, bg, index), row

    def _names(self, member: Member) -> tuple[str, str]:
        suffix = f".{self.options.mask_format}"
        return sample_member("fg_bg", member, ".jpg"), sample_member("fg_bg_mask", member, suffix)

    def _encode_mask(self, mask: NDArray[np.bool_], x: int, y: int) -> bytes:
        if self.options.mask_format == "png":
            return images.encode_mask(mask, (self.side, self.side), x, y)
        frame = np.zeros((self.side, self.side), np.uint8)
        frame[y : y + mask.shape[0], x : x + mask.shape[1]] = mask * np.uint8(255)
        return images.encode_jpeg(frame, self.options.quality)

    def labels(self, bg: int) -> str:
        """The table of one background's samples: tab-separated, a line each, without a header.

        Columns: fg_bg member, mask member, x, y, width, height, flip, scale.
        """
        lines = []
        drawn = [f"{fraction:.4f}" for fraction in scales(*self.options.scale)]
        for fg in range(self.layout.n_fg):
            sizes = self._sizes(fg).tolist()
            for member, (flip, size, x, y) in self._samples(bg, fg):
                names = "\t".join(self._names(member))
                width, height = sizes[size]
                lines.append(f"{names}\t{x}\t{y}\t{width}\t{height}\t{flip}\t{drawn[size]}\n")
        return "".join(lines)

    def probe(self) -> tuple[float, float]:
        """(bytes, seconds) a sample on one core, from pairs spread over all pictures.

        Each pair is made twice and timed the second time: over a whole run, getting a cut-out's
        sizes ready does not count.
        """
        layout = self.layout
        pairs = max(1, min(_PROBE_SAMPLES // layout.per_pair, layout.n_bg * layout.n_fg))
        chosen = random.Random(0).sample(range(layout.n_bg * layout.n_fg), pairs)
        nbytes, seconds = 0, 0.0
        for pair in chosen:
            bg, fg = divmod(pair, layout.n_fg)
            self(Unit(bg, fg, fg + 1))
            started = time.perf_counter()
            composites, masks = self(Unit(bg, fg, fg + 1))
            seconds += time.perf_counter() - started
            # A member's header and directory entry take 76 bytes and twice its name.
            nbytes += sum(len(data) + 76 + 2 * len(name) for name, data, _ in (*composites, *masks))
        samples = pairs * layout.per_pair
        return nbytes / samples, seconds / samples

    def _plan(self, bg: int, fg: int) -> Plan:
        options, sizes = self.options, self._sizes(fg)
        flips = self.layout.flips
        return plan_pair(options.seed, bg, fg, options.placements, flips, self.side, sizes)

    def _sizes(self, fg: int) -> NDArray[np.int64]:
        if fg not in self._size_tables:
            height, width = self._bgra(fg).shape[:2]
            fractions = scales(*self.options.scale)
            self._size_tables[fg] = cutout_sizes(width, height, self.side, fractions)
        return self._size_tables[fg]

    def _cutout(self, fg: int, size: int, flip: int) -> Cutout:
        both = self._cutouts.get((fg, size))
        if both is None:
            width, height = self._sizes(fg)[size].tolist()
            pixels = images.resize(self._bgra(fg), width, height, "bicubic")
            both = Cutout.prepare(pixels), Cutout.prepare(pixels[:, ::-1])
            self._cached_bytes += both[0].nbytes + both[1].nbytes
            while self._cached_bytes > _CUTOUT_CACHE_BYTES and self._cutouts:
                oldest = self._cutouts.pop(next(iter(self._cutouts)))
                self._cached_bytes -= oldest[0].nbytes + oldest[1].nbytes
            self._cutouts[fg, size] = both
        return both[flip]

    # Pictures are kept in BGR order here: the one encoder that can write rows wants it so.

    def _bgra(self, fg: int) -> NDArray[np.uint8]:
        if fg not in self._decoded:
            name = picture_member("fg", "fg", fg, ".png")
            rgba = images.decode(self._archives["fg"][name], "RGBA", name=name)
            self._decoded.clear()  # all sizes of a cut-out are asked for in a row
            self._decoded[fg] = np.ascontiguousarray(rgba[:, :, [2, 1, 0, 3]])
        return self._decoded[fg]

    def _background(self, bg: int) -> NDArray[np.uint8]:
        name = picture_member("bg", "bg", bg, ".jpg")
        rgb = images.decode(self._archives["bg"][name], "RGB", name=name)
        return np.ascontiguousarray(rgb[:, :, ::-1])

    @cached_property
    def _archives(self) -> dict[str, Archive]:
        return {name: Archive.open(self.workspace.archive(name)) for name in ("bg", "fg")}

    @cached_property
    def _cutouts(self) -> dict[tuple[int, int], tuple[Cutout, Cutout]]:
        """(as it is, mirrored) by cut-out and size."""
        return {}

    @cached_property
    def _decoded(self) -> dict[int, NDArray[np.uint8]]:
        return {}

    @cached_property
    def _size_tables(self) -> dict[int, NDArray[np.int64]]:
        return {}

    _cached_bytes: int = field(default=0, init=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is cached stays here: a worker opens and prepares its own.
        return type(self), (self.workspace, self.options, self.layout, self.side)
