"""The stage `render`: rooms with exact depth and cut-outs, made here instead of found.

The one rule: it only adds. A picture that was rendered before from the same seed, number and size
is not rendered again.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from depthgen import images
from depthgen.errors import OptionsError
from depthgen.sources.candidate import Candidate, Offer
from depthgen.sources.intake import Intake
from depthgen.sources.render import render_background, render_cutout
from depthgen.sources.screen import Limits
from depthgen.stage import Progress, Summary, no_progress, open_adding_stage
from depthgen.workers import default_workers, ordered_map

if TYPE_CHECKING:
    from depthgen.workspace import Kind, Workspace

_MIN_SIDE = 1  # a thin thing is still what was asked for


@dataclass(frozen=True)
class RenderOptions:
    """What to render. Raises `OptionsError` where a value makes no sense.

    bg, fg: how many rooms and cut-outs to have from this seed and size, those of earlier runs
    included. size: the side of a room, and the longest side of a cut-out, in pixels.
    """

    bg: int = 100
    fg: int = 100
    size: int = 192
    seed: int = 0
    workers: int = field(default_factory=default_workers)

    def __post_init__(self) -> None:
        checks = (
            (self.bg >= 0 and self.fg >= 0, "--bg and --fg must be at least 0"),
            (self.bg + self.fg > 0, "nothing to render: give --bg or --fg a number above 0"),
            (16 <= self.size <= 4096, f"--size must be 16 to 4096 pixels, not {self.size}"),
            (0 <= self.seed < 2**64, f"--seed must be 0 to 2^64 − 1, not {self.seed}"),
            (self.workers >= 1, f"--workers must be at least 1, not {self.workers}"),
        )
        for fine, complaint in checks:
            if not fine:
                raise OptionsError(complaint)


@dataclass(frozen=True)
class _Subject:
    kind: Kind
    seed: int
    index: int
    size: int

    @property
    def origin(self) -> str:
        return f"render:{self.kind}?seed={self.seed}&index={self.index}&size={self.size}"


def run(workspace: Workspace, options: RenderOptions, progress: Progress = no_progress) -> Summary:
    """Render what is missing of `options.bg` rooms and `options.fg` cut-outs into `W/sources`."""
    settings = {name: value for name, value in vars(options).items() if name != "workers"}
    outputs = tuple(workspace.sources(kind) for kind in ("bg", "fg"))
    total = options.bg + options.fg
    with ExitStack() as stack:
        this_run = stack.enter_context(open_adding_stage(workspace, "render", settings, outputs))
        intakes = {
            kind: stack.enter_context(Intake(workspace, kind, Limits(_MIN_SIDE), "ignore"))
            for kind in _kinds(options)
        }
        missing = [
            subject
            for subject in _subjects(options)
            if not intakes[subject.kind].holds(subject.origin)
        ]
        done = total - len(missing)
        progress(done, total)
        workers = max(1, min(options.workers, len(missing)))
        pictures = stack.enter_context(
            ordered_map(_render, missing, workers, lambda subject: subject.origin)
        )
        for subject, files in zip(missing, pictures, strict=True):
            intakes[subject.kind].offer(_candidate(subject, files))
            done += 1
            progress(done, total)
        counts: dict[str, int] = {kind: intake.total() for kind, intake in intakes.items()}
        counts["added"] = sum(intake.added for intake in intakes.values())
        return this_run.finish(counts)


def _kinds(options: RenderOptions) -> list[Kind]:
    wanted: dict[Kind, int] = {"bg": options.bg, "fg": options.fg}
    return [kind for kind, count in wanted.items() if count]


def _subjects(options: RenderOptions) -> list[_Subject]:
    rooms = [_Subject("bg", options.seed, index, options.size) for index in range(options.bg)]
    things = [_Subject("fg", options.seed, index, options.size) for index in range(options.fg)]
    return rooms + things


def _render(subject: _Subject) -> list[bytes]:
    """The PNG files of a subject: the picture, and a room's depth."""
    images.use_one_thread()
    if subject.kind == "fg":
        return [images.encode_png(render_cutout(subject.seed, subject.index, subject.size))]
    rgb, depth_mm = render_background(subject.seed, subject.index, subject.size)
    return [images.encode_png(rgb), images.encode_png(depth_mm)]


def _candidate(subject: _Subject, files: list[bytes]) -> Candidate:
    name = f"{subject.kind}_{subject.index:03d}.png"
    depth = Offer(subject.origin, name, lambda: files[1]) if len(files) > 1 else None
    return Candidate(subject.origin, name, lambda: files[0], "render", depth)
