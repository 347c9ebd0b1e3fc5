"""The stage `crawl`: pictures from outside into `W/sources`, screened and with their provenance.

A source is a function that turns the options into candidates; it is entered in `SOURCES` and all
else is done here, the same for each. The one rule: crawling only adds. What a run kept stays, even
if the run ends in an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthgen import images
from depthgen.errors import OptionsError, StageError
from depthgen.sources import folder
from depthgen.sources.intake import Candidate, Intake
from depthgen.sources.screen import Limits
from depthgen.stage import Progress, Summary, no_progress, open_adding_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from depthgen.workspace import Kind, Workspace


@dataclass(frozen=True)
class CrawlOptions:
    """What to take in. Raises `OptionsError` where a value makes no sense.

    source: one of `SOURCES`. kind: "fg" for cut-outs with alpha, "bg" for scenes.
    origin: the folder to take from. count: how many to have from it, those of earlier runs
    included; None takes all. dedupe: refuse exact duplicates instead of noting them.
    min_size: the least smallest side, in pixels. max_pixels, max_bytes: of one picture.
    depth_origin: a folder of depth maps with the pictures' stems (bg only): 16-bit grey PNG in
    millimetres, 8-bit grey PNG of depth / 10 m × 255, or `.npy` in metres.
    """

    source: str = "folder"
    kind: Kind = "bg"
    origin: Path | None = None
    count: int | None = None
    dedupe: bool = False
    min_size: int = 32
    max_pixels: int = images.MAX_PIXELS
    max_bytes: int = images.MAX_BYTES
    depth_origin: Path | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            known = ", ".join(sorted(SOURCES))
            raise OptionsError(f"there is no source {self.source!r}; use --source {known}")
        if self.kind not in ("fg", "bg"):
            raise OptionsError(f"kind must be fg or bg, not {self.kind!r}")
        if self.source == "folder" and self.origin is None:
            raise OptionsError("the source folder needs the folder to take from: --from DIR")
        if self.depth_origin is not None and self.kind != "bg":
            raise OptionsError("depth maps belong to backgrounds; use them with --kind bg")
        if self.count is not None and self.count < 1:
            raise OptionsError(f"count must be at least 1, not {self.count}")
        if min(self.min_size, self.max_pixels, self.max_bytes) < 1:
            raise OptionsError("min_size, max_pixels and max_bytes must be at least 1")
        if self.max_bytes > images.MAX_BYTES:
            raise OptionsError(f"max_bytes is at most {images.MAX_BYTES}, not {self.max_bytes}")


def _from_folder(options: CrawlOptions) -> Sequence[Candidate]:
    assert options.origin is not None, "CrawlOptions checks this"
    return folder.candidates(options.origin, options.depth_origin, options.max_bytes)


SOURCES: Mapping[str, Callable[[CrawlOptions], Sequence[Candidate]]] = {"folder": _from_folder}


def run(workspace: Workspace, options: CrawlOptions, progress: Progress = no_progress) -> Summary:
    """Take pictures in until there are `count`, or no more are offered.

    Raises `StageError` if fewer than `count`, or none at all, remain after screening; those that
    were good enough stay.
    """
    candidates = SOURCES[options.source](options)
    if not candidates:
        raise StageError(f"{_where(options)} holds no file to take; name another with --from")
    stage = f"crawl_{options.kind}"
    limits = Limits(options.min_size, options.max_pixels, options.max_bytes)
    outputs = (workspace.sources(options.kind), workspace.provenance)
    with (
        open_adding_stage(workspace, stage, _settings(options), outputs) as this_run,
        Intake(workspace, options.kind, limits, options.dedupe) as intake,
    ):
        _fill(intake, candidates, options.count, progress)
        notes = list(intake.notes)
        if intake.reasons:
            notes.append(f"refused: {_reasons(intake.reasons)}")
        counts = {
            "offered": len(candidates),
            "added": intake.added,
            "refused": intake.reasons.total(),
            "total": intake.total(),
        }
        if options.depth_origin is not None:
            counts["depth"] = intake.depths
        summary = this_run.finish(counts, notes)
    if intake.kept < (options.count or 1):
        raise StageError(_too_few(options, intake))
    return summary


def _fill(
    intake: Intake, candidates: Sequence[Candidate], count: int | None, progress: Progress
) -> None:
    wanted = len(candidates) if count is None else min(count, len(candidates))
    progress(0, wanted)
    for seen, candidate in enumerate(candidates, 1):
        if intake.kept == count:
            break
        intake.offer(candidate)
        progress(min(wanted, seen if count is None else intake.kept), wanted)


def _settings(options: CrawlOptions) -> dict[str, object]:
    paths = {"origin", "depth_origin"}
    return {
        name: str(value) if name in paths and value is not None else value
        for name, value in vars(options).items()
    }


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _where(options: CrawlOptions) -> str:
    return str(options.origin) if options.origin else options.source


def _too_few(options: CrawlOptions, intake: Intake) -> str:
    wanted = f" of the {options.count} asked for" if options.count else ""
    refused = f" (refused: {_reasons(intake.reasons)})" if intake.reasons else ""
    advice = "add more pictures there, or take a second folder with --from"
    if options.count and intake.kept:
        advice = f"{advice}, or ask for fewer with --count {intake.kept}"
    kind = "cut-outs" if options.kind == "fg" else "backgrounds"
    return f"{_where(options)} gave {intake.kept} {kind}{wanted}{refused}; {advice}"
