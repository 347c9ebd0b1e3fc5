"""The stage `depthmap`: labels every composite, batch by batch, into depth_fg_bg.zip.

A labeller turns a batch of samples into label members; this module chooses one and drives it. The
one rule: a batch is on the disk before the next one is counted as done.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from depthgen import images
from depthgen.archive import Archive, Entry
from depthgen.depth.layered import LayeredLabeller, backgrounds_with_depth
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
from depthgen.workspace import DEPTH_INFO_MEMBER, Workspace, parse_member, picture_stem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from depthgen.depth.quantity import Quantity

MODELS = ("auto", "layered")

# (shard, first member, one past the last), or None for the member that says what the labels are.
Batch = tuple[int, int, int] | None


class Labeller(Protocol):
    """What labels a batch; picklable, since workers run it."""

    def quantity(self) -> Quantity: ...

    def __call__(self, unit: tuple[int, int, int]) -> Sequence[Sequence[Entry]]: ...


@dataclass(frozen=True)
class DepthmapOptions:
    """How to label. Raises `OptionsError` where a value makes no sense.

    model: who computes depth; "auto" takes the best that the workspace allows. batch: samples that
    are made and committed together. bits: 8 or 16 a label pixel.
    """

    model: str = "auto"
    batch: int = 1000
    bits: int = 8
    workers: int = field(default_factory=default_workers)
    overwrite: bool = False

    def __post_init__(self) -> None:
        checks = (
            (self.model in MODELS, f"--model {self.model} is not one of {', '.join(MODELS)}"),
            (self.batch >= 1, f"--batch must be at least 1, not {self.batch}"),
            (self.bits in (8, 16), f"--bits must be 8 or 16, not {self.bits}"),
            (self.workers >= 1, f"--workers must be at least 1, not {self.workers}"),
        )
        for fine, complaint in checks:
            if not fine:
                raise OptionsError(complaint)


def run(
    workspace: Workspace, options: DepthmapOptions, progress: Progress = no_progress
) -> Summary:
    """Label every composite of the workspace.

    Raises `StageError` if there are no composites, or nothing to label them with.
    """
    require_archive(workspace, "fg_bg_mask", "composite")
    with Archive.open(workspace.archive("fg_bg_mask")) as masks:
        shards, samples = masks.paths, len(masks)
        labeller = _choose(workspace, options, masks)
    outputs = [path.with_name(path.name.replace("fg_bg_mask", "depth_fg_bg", 1)) for path in shards]
    quantity = asdict(labeller.quantity())

    def reads() -> dict[str, str]:
        return {
            "fg_bg_mask.zip": archive_digest(workspace, "fg_bg_mask", "composite"),
            "bg_depth.zip": archive_digest(workspace, "bg_depth", "crop"),
        }

    settings = {"model": quantity["model"], "bits": options.bits}
    with open_stage(workspace, "depthmap", settings, reads, outputs, options.overwrite) as stage:
        if stage.done:
            return stage.summary()
        parts = [
            _part(number, shard, output, options.batch)
            for number, (shard, output) in enumerate(zip(shards, outputs, strict=True))
        ]
        work = _Work(labeller, json.dumps(quantity, indent=2) + "\n")
        produce(parts, work, options.workers, _describe, progress, commit_each=True)
        return stage.finish({"samples": samples}, **quantity)


def _choose(workspace: Workspace, options: DepthmapOptions, masks: Archive) -> Labeller:
    """The labeller that the options and the workspace allow."""
    members = [parse_member(name) for name in masks.names]
    wanted = {member.bg for member in members if member}
    if None in members or not members:
        raise StageError(f"{masks.paths[0]} has members that are not masks of samples")
    missing = sorted(wanted - backgrounds_with_depth(workspace))
    if missing:
        raise StageError(
            f"{len(missing)} of {len(wanted)} backgrounds have no depth in "
            f"{workspace.archive('bg_depth')} ({picture_stem('bg', missing[0])} is the first): "
            "render rooms with `depthgen render`, or bring your own depth maps with "
            "`depthgen crawl --source folder --kind bg --from DIR --depth DIR`, then crop"
        )
    first = images.decode(masks[0], "L", name=masks.name(0))
    return LayeredLabeller(workspace, masks.paths, options.bits, first.shape[1])


def _part(number: int, shard: Path, output: Path, batch: int) -> Part:
    with Archive(shard) as archive:
        count = len(archive)
    batches: list[Batch] = [
        (number, start, min(start + batch, count)) for start in range(0, count, batch)
    ]
    samples = [stop - start for _, start, stop in filter(None, batches)]
    if number:
        return Part([output], batches, [samples], samples)
    # The first file says what all of them hold.
    return Part([output], [None, *batches], [[1, *samples]], [0, *samples])


def _describe(batch: Batch) -> str:
    return f"samples {batch[1]} to {batch[2] - 1} of file {batch[0]}" if batch else "the label info"


@dataclass(frozen=True)
class _Work:
    labeller: Labeller
    info: str

    def __call__(self, batch: Batch) -> Sequence[Sequence[Entry]]:
        if batch is None:
            data = self.info.encode()
            return [[(DEPTH_INFO_MEMBER, data, crc32(data))]]
        return self.labeller(batch)
