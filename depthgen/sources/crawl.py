"""The stage `crawl`: pictures from outside into `W/sources`, screened and with their provenance.

A source looks at its options and gives a function that fills the intake; all else is done here, the
same for each. The one rule: crawling only adds. What a run kept stays, even if the run ends in an
error.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from depthgen.errors import OptionsError, StageError
from depthgen.sources import folder
from depthgen.sources.intake import Intake
from depthgen.sources.options import SEARCHES, SOURCES, CrawlOptions
from depthgen.sources.outcome import UnreachableError
from depthgen.stage import Progress, Summary, no_progress, open_adding_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from depthgen.sources.intake import Duplicates
    from depthgen.sources.outcome import Outcome
    from depthgen.workspace import Kind, Workspace

__all__ = ["CrawlOptions", "options_for", "run", "run_each"]


def run(
    workspace: Workspace,
    options: CrawlOptions,
    progress: Progress = no_progress,
    until: float = float("inf"),
) -> Summary:
    """Take pictures in until there are as many as wanted, or no more are offered.

    until: `time.monotonic()` of the end, if that comes before the options' own deadline.
    Raises `StageError` if fewer than wanted, or none at all, remain after screening; those that
    were good enough stay.
    """
    fill = _source(options, until)
    outputs = (workspace.sources(options.kind), workspace.provenance)
    noted = options.source == "folder" and not options.dedupe
    duplicates: Duplicates = "note" if noted else "refuse"
    stage = f"crawl_{options.kind}"
    with (
        open_adding_stage(workspace, stage, options.settings(), outputs) as this_run,
        Intake(workspace, options.kind, options.limits, duplicates) as intake,
    ):
        outcome = fill(intake, progress)
        counts = dict(outcome.counts) | {"total": intake.total()}
        notes = [*intake.notes, *outcome.notes, *intake.unclaimed()]
        if options.depth_origin is not None:
            counts["depth"] = intake.depths
            if not intake.depths:
                notes.append(
                    f"no depth map of {options.depth_origin} went to a picture: their names must "
                    "be the same but for the ending"
                )
        if outcome.problem is not None:
            this_run.stop(counts, notes)
            raise outcome.problem
        return this_run.finish(counts, notes)


def _source(options: CrawlOptions, until: float) -> Callable[[Intake, Progress], Outcome]:
    if options.source == "folder":
        return folder.open_source(options)
    # icrawler and what it needs take a quarter of a second to import.
    from depthgen.sources.web.source import open_source

    return open_source(options, until)


def options_for(kind: Kind | str | None, given: Mapping[str, Any]) -> list[CrawlOptions]:
    """The options of each kind to crawl for; `kind` may be "both", and is for a plain search.

    Raises `OptionsError`.
    """
    source = given.get("source", "bing")
    if kind is None and source in SOURCES and (source not in SEARCHES or given.get("keywords")):
        raise OptionsError("say what to take the pictures for: --kind fg, --kind bg or --kind both")
    kind = kind or "both"
    kinds: tuple[Any, ...] = ("fg", "bg") if kind == "both" else (kind,)
    return [CrawlOptions(kind=each, **given) for each in kinds]


def run_each(
    workspace: Workspace,
    options: Sequence[CrawlOptions],
    progress_of: Callable[[Kind], Progress] = lambda _: no_progress,
) -> Iterator[Summary]:
    """Crawl for one kind after the other, within one deadline for all.

    What one kind lacks does not take the other's turn away, unless there is no network. Raises
    `StageError` at the end.
    """
    until = time.monotonic() + options[0].seconds
    problems = []
    for at, each in enumerate(options):
        now = time.monotonic()
        share = (until - now) / (len(options) - at)
        try:
            yield run(workspace, each, progress_of(each.kind), now + share)
        except StageError as error:
            problems.append(str(error))
            if isinstance(error, UnreachableError):
                break
    if problems:
        raise StageError(". ".join(dict.fromkeys(problems)))
