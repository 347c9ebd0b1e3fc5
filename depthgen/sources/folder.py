"""The source `folder`: the pictures that a user has.

The one rule: a folder is taken in the order of its sorted names, hidden files left out, so that
the same folder gives the same numbers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from depthgen.errors import StageError
from depthgen.sources.candidate import Candidate, Offer
from depthgen.sources.outcome import Outcome, by_reason, too_few
from depthgen.workspace import DEPTH_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from depthgen.sources.intake import Intake
    from depthgen.sources.options import CrawlOptions
    from depthgen.stage import Progress


def open_source(options: CrawlOptions) -> Callable[[Intake, Progress], Outcome]:
    """List the folder; the result takes its pictures in. Raises `StageError` if it has none."""
    assert options.origin is not None, "CrawlOptions checks this"
    found = candidates(options.origin, options.depth_origin, options.limits.max_bytes)
    if not found:
        raise StageError(f"{options.origin} holds no file to take; name another with --from")
    return partial(_fill, options, found)


def _fill(
    options: CrawlOptions, found: Sequence[Candidate], intake: Intake, progress: Progress
) -> Outcome:
    count = options.count
    wanted = len(found) if count is None else min(count, len(found))
    progress(0, wanted)
    for seen, candidate in enumerate(found, 1):
        if intake.kept == count:
            break
        intake.offer(candidate)
        progress(min(wanted, seen if count is None else intake.kept), wanted)
    counts = {
        "offered": len(found),
        "added": intake.added,
        "refused": intake.reasons.total(),
    }
    why = by_reason(intake.reasons)
    problem = None
    if intake.kept < (count or 1):
        advice = "add more pictures there, or take a second folder with --from"
        where, standing = str(options.origin), intake.kept
        problem = too_few(where, options.kind, standing, count, intake.reasons, advice)
    return Outcome(counts, (why,) if why else (), problem)


def candidates(folder: Path, depth_folder: Path | None, max_bytes: int) -> list[Candidate]:
    """Every file of `folder`, each with the depth map of the same stem from `depth_folder`.

    Raises `StageError` if a folder cannot be listed, or a picture has two depth maps.
    """
    depths = _depth_maps(depth_folder) if depth_folder else {}
    return [
        Candidate(
            source="folder",
            origin=str(path.resolve()),
            name=path.name,
            read=partial(read_at_most, path, max_bytes),
            depth=_offer(depths[path.stem]) if path.stem in depths else None,
        )
        for path in _files(folder)
    ]


def _offer(path: Path) -> Offer:
    return Offer(str(path.resolve()), path.name, path.read_bytes)


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """The file's bytes; of a larger one, one byte more than `max_bytes`, for the screen to see."""
    with path.open("rb") as stream:
        return stream.read(max_bytes + 1)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StageError(f"{folder} is not a folder; name the one that holds the pictures")
    try:
        found = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise StageError(f"cannot list {folder}: {error.strerror}") from error
    return sorted((path for path in found if path.name[0] != "."), key=lambda path: path.name)


def _depth_maps(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() not in DEPTH_SUFFIXES:
            continue
        other = found.setdefault(path.stem, path)
        if other != path:
            raise StageError(f"{other} and {path.name} are depth of one picture; keep one of them")
    return found
