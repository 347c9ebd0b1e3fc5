"""The stage `resize`: the same archives at a smaller size, under the same member names.

The one rule: a sample keeps its name, so that whatever reads the large archives reads the small
ones. The tables in `labels/` are copied as they are: their coordinates are of the full size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from depthgen import images
from depthgen.archive import Archive, Entry, files_of
from depthgen.errors import OptionsError, StageError
from depthgen.produce import Part, produce
from depthgen.stage import (
    Manifest,
    Progress,
    Summary,
    archive_digest,
    no_progress,
    open_stage,
    sound_member,
)
from depthgen.workers import default_workers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from depthgen.workspace import Workspace

# What can be resized, and the command that makes it.
ARCHIVES = {
    "bg": "crop",
    "fg_bg": "composite",
    "fg_bg_mask": "composite",
    "depth_fg_bg": "depthmap",
}
_MEMBERS_PER_UNIT = 256
_WHITE = 128
_DEFAULT_QUALITY = 90


@dataclass(frozen=True)
class ResizeOptions:
    """How to resize. Raises `OptionsError` where a value makes no sense.

    size: the side in pixels, smaller than what is there. suffix: the new archives are
    `<name>_<suffix>.zip`. quality: of JPEG members; None takes that of the archive that is read.
    """

    size: int = 96
    suffix: str = "small"
    quality: int | None = None
    workers: int = field(default_factory=default_workers)
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise OptionsError(f"--size must be at least 1 pixel, not {self.size}")
        if not re.fullmatch(r"[a-z0-9]+", self.suffix) or self.suffix in ("bg", "mask", "depth"):
            raise OptionsError(
                f"--suffix takes small letters and digits, such as small or s{self.size}, "
                f"not {self.suffix!r}"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise OptionsError(f"--quality must be 1 to 100, not {self.quality}")
        if self.workers < 1:
            raise OptionsError(f"--workers must be at least 1, not {self.workers}")


def stage_name(name: str, suffix: str) -> str:
    """The manifest of one resized archive: `resize_fg_bg_small`."""
    return f"resize_{name}_{suffix}"


def run(workspace: Workspace, options: ResizeOptions, progress: Progress = no_progress) -> Summary:
    """Resize every archive of `ARCHIVES` that is there.

    Each has its own manifest, so that one made later is resized later.
    Raises `StageError` if there is none, if they are not larger than `size`, or if the suffix is in
    use for another size.
    """
    names = [name for name in ARCHIVES if files_of(workspace.archive(name))]
    if not names:
        raise StageError(
            f"{workspace.root} has no archive to resize; run `depthgen composite` first"
        )
    if not options.overwrite:
        _refuse_another_size(workspace, options)
    # All of them before the first stage opens: with --overwrite that deletes what there is.
    for name in names:
        Resizer(tuple(files_of(workspace.archive(name))), name, options.size, 1).check()
    summaries = [_run_one(workspace, name, options, progress) for name in names]
    return Summary(
        "resize",
        {key: count for summary in summaries for key, count in summary.counts.items()},
        tuple(path for summary in summaries for path in summary.outputs),
        already_done=all(summary.already_done for summary in summaries),
    )


def _refuse_another_size(workspace: Workspace, options: ResizeOptions) -> None:
    for name in ARCHIVES:
        path = workspace.manifest(stage_name(name, options.suffix))
        earlier = Manifest.read(path)
        size = earlier.settings.get("size") if earlier else options.size
        if size != options.size:
            raise StageError(
                f"{workspace.archive(f'{name}_{options.suffix}')} has {size} px; keep both with "
                f"--suffix s{options.size}, or replace it with --overwrite"
            )


def _run_one(
    workspace: Workspace, name: str, options: ResizeOptions, progress: Progress
) -> Summary:
    sources = files_of(workspace.archive(name))
    target = workspace.archive(f"{name}_{options.suffix}")
    outputs = [target.with_name(target.stem + path.name.removeprefix(name)) for path in sources]
    if len(sources) == 1:
        outputs = [target]
    quality = options.quality or _quality_of(workspace, name)
    settings = {"size": options.size, "quality": quality}

    def reads() -> dict[str, str]:
        return {f"{name}.zip": archive_digest(workspace, name, ARCHIVES[name])}

    stage = stage_name(name, options.suffix)
    with open_stage(workspace, stage, settings, reads, outputs, options.overwrite) as this_run:
        if this_run.done:
            return this_run.summary()
        work = Resizer(tuple(sources), name, options.size, quality)
        parts, members = _parts(work, outputs)
        produce(parts, work, options.workers, work.describe, progress)
        return this_run.finish({target.stem: members}, side=options.size)


def _quality_of(workspace: Workspace, name: str) -> int:
    made_by = Manifest.read(workspace.manifest(ARCHIVES[name]))
    return int(made_by.settings.get("quality", _DEFAULT_QUALITY)) if made_by else _DEFAULT_QUALITY


def _parts(work: Resizer, outputs: Sequence[Path]) -> tuple[list[Part], int]:
    """One part a shard, so that shards stay alike; and how many members there are in all."""
    parts, members = [], 0
    for number, path in enumerate(outputs):
        count = len(work.archives[number])
        items = [
            (number, start, min(start + _MEMBERS_PER_UNIT, count))
            for start in range(0, count, _MEMBERS_PER_UNIT)
        ]
        sizes = [stop - start for _, start, stop in items]
        parts.append(Part([path], items, [sizes], sizes))
        members += count
    return parts, members


@dataclass(frozen=True)
class Resizer:
    """The work on (shard, first member, end)."""

    paths: tuple[Path, ...]
    name: str
    size: int
    quality: int

    @cached_property
    def archives(self) -> list[Archive]:
        return [Archive(path) for path in self.paths]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "archives"}

    def describe(self, item: tuple[int, int, int]) -> str:
        shard, start, stop = item
        return f"{self.paths[shard]}, members {start} to {stop - 1}"

    def check(self) -> None:
        """Raise `StageError` if the first picture is not a square larger than `size`."""
        for member in self.archives[0].names:
            if member.startswith("labels/"):
                continue
            width, height = self._size_of(self.archives[0][member], member)
            if width != height or width <= self.size:
                raise StageError(
                    f"{self.paths[0]} has pictures of {width} × {height} px; resize makes squares "
                    "smaller, choose a smaller --size"
                )
            return

    def _size_of(self, data: memoryview, member: str) -> tuple[int, int]:
        if member.endswith(".npy"):
            height, width = images.decode_depth(data, name=member).shape
            return width, height
        return images.size_of(data, name=member)

    def __call__(self, item: tuple[int, int, int]) -> list[list[Entry]]:
        shard, start, stop = item
        archive = self.archives[shard]
        block = []
        for index in range(start, stop):
            member = archive.name(index)
            source = sound_member(archive, index, ARCHIVES[self.name])
            data = bytes(source) if member.startswith("labels/") else self._resized(source, member)
            block.append((member, data, crc32(data)))
        return [block]

    def _resized(self, data: memoryview, member: str) -> bytes:
        shrink = partial(images.resize, width=self.size, height=self.size, how="area")
        if self.name == "depth_fg_bg":
            depth = shrink(images.decode_depth(data, name=member))
            return images.encode_depth(depth)
        if self.name == "fg_bg_mask":
            mask = shrink(images.decode(data, "L", name=member)) >= _WHITE
            if member.endswith(".png"):
                return images.encode_mask(mask)
            return images.encode_jpeg(mask * np.uint8(255), self.quality)
        rgb = shrink(images.decode(data, "RGB", name=member))
        return images.encode_jpeg(rgb, self.quality)
