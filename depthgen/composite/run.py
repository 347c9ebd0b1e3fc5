"""The stage `composite`: bg.zip and fg.zip in, fg_bg.zip and fg_bg_mask.zip out, in step.

The one rule: both archives hold the same samples in the same order, after any stop.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from depthgen import images
from depthgen.archive import Archive, partial_path, shard_path
from depthgen.composite.compositor import Compositor, Unit
from depthgen.errors import OptionsError, StageError
from depthgen.produce import Part, produce
from depthgen.stage import (
    Progress,
    Summary,
    archive_digest,
    no_progress,
    open_stage,
    require_archive,
)
from depthgen.workers import default_workers
from depthgen.workspace import Kind, Layout, Workspace, parse_picture, picture_member, picture_stem

if TYPE_CHECKING:
    from pathlib import Path

_SAMPLES_PER_UNIT = 400
_ROOM_TO_SPARE = 1.02


@dataclass(frozen=True)
class CompositeOptions:
    """What to composite. Raises `OptionsError` where a value makes no sense.

    bg, fg: how many backgrounds and cut-outs to use, the first ones; None takes all there are.
    placements: positions for each pair and flip. flip: also paste each cut-out mirrored.
    scale: smallest and largest longest side of a cut-out, as a fraction of the background's side.
    quality: of the JPEG files, 1 to 100. mask_format: "png" (1 bit) or "jpg". seed: 0 to 2^64 − 1.
    shards: files that each archive is split into, at the borders of backgrounds.
    """

    bg: int | None = None
    fg: int | None = None
    placements: int = 20
    flip: bool = True
    scale: tuple[float, float] = (0.25, 0.55)
    quality: int = 90
    mask_format: str = "png"
    seed: int = 0
    workers: int = field(default_factory=default_workers)
    shards: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        low, high = self.scale
        checks = (
            (self.bg is None or self.bg >= 1, f"--bg must be at least 1, not {self.bg}"),
            (self.fg is None or self.fg >= 1, f"--fg must be at least 1, not {self.fg}"),
            (self.placements >= 1, f"--placements must be at least 1, not {self.placements}"),
            (0 < low <= high <= 1, f"--scale takes 0 < LO <= HI <= 1, not {low} {high}"),
            (1 <= self.quality <= 100, f"--quality must be 1 to 100, not {self.quality}"),
            (self.mask_format in ("png", "jpg"), "--mask-format must be png or jpg"),
            (0 <= self.seed < 2**64, f"--seed must be 0 to 2^64 − 1, not {self.seed}"),
            (self.workers >= 1, f"--workers must be at least 1, not {self.workers}"),
            (self.shards >= 1, f"--shards must be at least 1, not {self.shards}"),
        )
        for fine, complaint in checks:
            if not fine:
                raise OptionsError(complaint)

    def settings(self) -> dict[str, Any]:
        """The options that decide the bytes; how the work is spread does not."""
        free = ("workers", "overwrite")
        return {name: value for name, value in vars(self).items() if name not in free}


@dataclass(frozen=True)
class Forecast:
    """What a run would make: samples, bytes of both archives, and seconds to expect."""

    samples: int
    nbytes: int
    seconds: float


def run(
    workspace: Workspace, options: CompositeOptions, progress: Progress = no_progress
) -> Summary:
    """Composite every cut-out onto every background.

    Raises `StageError` if pictures are missing or the disk is too small, `ArchiveError` and
    `ImageError` for input that cannot be read.
    """
    work = _compositor(workspace, options)
    layout = work.layout
    pairs = _outputs(workspace, options)
    outputs = [path for pair in pairs for path in pair]
    settings = options.settings() | {"bg": layout.n_bg, "fg": layout.n_fg}

    def reads() -> dict[str, str]:
        return {
            "bg.zip": archive_digest(workspace, "bg", "crop"),
            "fg.zip": archive_digest(workspace, "fg", "mask"),
        }

    with open_stage(workspace, "composite", settings, reads, outputs, options.overwrite) as stage:
        if stage.done:
            return stage.summary()
        _check_room(workspace, work, outputs)
        parts = [_part(pair, layout, options, number) for number, pair in enumerate(pairs)]
        produce(parts, work, options.workers, work.describe, progress)
        return stage.finish({"samples": layout.samples}, layout=vars(layout), side=work.side)


def forecast(workspace: Workspace, options: CompositeOptions) -> Forecast:
    """What `run` would make and take, from a few hundred samples made here and thrown away."""
    work = _compositor(workspace, options)
    nbytes, seconds = work.probe()
    samples = work.layout.samples
    spread = min(options.workers, default_workers())
    return Forecast(samples, int(nbytes * samples), seconds * samples / spread)


def _outputs(workspace: Workspace, options: CompositeOptions) -> list[tuple[Path, Path]]:
    """For each shard, the paths of its two archives."""
    return [
        (
            shard_path(workspace.archive("fg_bg"), number, options.shards),
            shard_path(workspace.archive("fg_bg_mask"), number, options.shards),
        )
        for number in range(options.shards)
    ]


def _part(pair: tuple[Path, Path], layout: Layout, options: CompositeOptions, number: int) -> Part:
    step = max(1, _SAMPLES_PER_UNIT // layout.per_pair)
    first = layout.n_bg * number // options.shards
    last = layout.n_bg * (number + 1) // options.shards
    units = [
        Unit(bg, start, min(start + step, layout.n_fg))
        for bg in range(first, last)
        for start in range(0, layout.n_fg, step)
    ]
    samples = [(unit.stop - unit.start) * layout.per_pair for unit in units]
    with_labels = [
        count + (unit.stop == layout.n_fg) for unit, count in zip(units, samples, strict=True)
    ]
    return Part(pair, units, (with_labels, samples), samples)


def _check_room(workspace: Workspace, work: Compositor, outputs: list[Path]) -> None:
    """Refuse to start what the disk cannot hold, counting what an earlier run has written."""
    nbytes, _ = work.probe()
    there = sum(
        path.stat().st_size
        for output in outputs
        for path in (output, partial_path(output))
        if path.exists()
    )
    needed = int(nbytes * work.layout.samples * _ROOM_TO_SPARE) - there
    free = shutil.disk_usage(workspace.root).free
    if needed > free:
        raise StageError(
            f"{workspace.root} has {free / 1e9:.1f} GB free, and the archives need about "
            f"{needed / 1e9:.1f} GB more; make room, or use fewer pictures or a lower --quality"
        )


def _compositor(workspace: Workspace, options: CompositeOptions) -> Compositor:
    """Count the pictures and take their size. Raises `StageError` if they do not do."""
    require_archive(workspace, "bg", "crop")
    require_archive(workspace, "fg", "mask")
    n_bg = _count(workspace, "bg", options.bg)
    n_fg = _count(workspace, "fg", options.fg)
    if options.shards > n_bg:
        raise OptionsError(f"--shards {options.shards} is more than the {n_bg} backgrounds")
    layout = Layout(n_bg, n_fg, options.placements, 2 if options.flip else 1)
    return Compositor(workspace, options, layout, _common_side(workspace, n_bg))


def _count(workspace: Workspace, kind: Kind, wanted: int | None) -> int:
    """How many pictures of a kind to use; all numbers from 0 on must be there."""
    path = workspace.archive(kind)
    with Archive.open(path) as archive:
        parsed = (parse_picture(name) for name in archive.names)
        numbers = {picture[1] for picture in parsed if picture and picture[0] == kind}
    there = len(numbers)
    if wanted is not None and wanted > there:
        raise StageError(
            f"{path} has {there} pictures and --{kind} asks for {wanted}; ask for fewer, or add "
            f"some with `depthgen crawl --kind {kind}` or `depthgen render`"
        )
    count = there if wanted is None else wanted
    if not count:
        raise StageError(f"{path} has no {kind} pictures; add some with `depthgen crawl`")
    for number in range(count):
        if number not in numbers:
            raise StageError(f"{path} lacks {picture_stem(kind, number)}; numbers start at 0")
    return count


def _common_side(workspace: Workspace, n_bg: int) -> int:
    """The side of the backgrounds in pixels: all are squares of one size."""
    sides = set()
    with Archive.open(workspace.archive("bg")) as archive:
        for number in range(n_bg):
            name = picture_member("bg", "bg", number, ".jpg")
            width, height = images.size_of(archive[name], name=name)
            sides.add(width)
            if width != height or len(sides) > 1:
                raise StageError(
                    f"{workspace.archive('bg')}: {name} is {width} × {height}; backgrounds must be "
                    "squares of one size, make them with `depthgen crop --overwrite`"
                )
    return sides.pop()
