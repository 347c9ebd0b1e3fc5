"""Taking pictures in: screened, numbered, copied as they are, written down.

Every source hands over `Candidate`s and knows no more than that. The one rule: a file is copied
first and written down after, and a copy that a kill left unwritten is found again by its bytes, so
that no picture is taken twice and no number is lost. Depth comes after its picture, and nothing is
deleted but what a depth map replaces.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from depthgen.errors import StageError
from depthgen.files import write_atomically
from depthgen.sources.provenance import ProvenanceWriter, Sighting, read_provenance
from depthgen.sources.screen import (
    DUPLICATE,
    UNREADABLE,
    Limits,
    Verdict,
    depth_problem,
    screen,
)
from depthgen.workspace import parse_picture, picture_stem

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from depthgen.workspace import Kind, Workspace

_log = logging.getLogger(__name__)
_DEPTH_SUFFIXES = (".png", ".npy")


@dataclass(frozen=True)
class Offer:
    """A file that a source offers; `read` gives its bytes or raises `OSError`.

    origin: its absolute path, its URL, or what it was rendered from. name: for messages.
    """

    origin: str
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Candidate(Offer):
    """A picture that a source offers, and the depth map that belongs to it, if there is one."""

    source: str
    depth: Offer | None = None


class Intake:
    """Takes the pictures of one kind into a workspace, whose lock the caller holds.

    dedupe: refuse a picture whose bytes are there already, instead of noting `duplicate_of`.
    `reasons` counts the refusals of this run, `kept` what stands from the candidates offered,
    `added` the new ones and `depths` the depth maps that came in. Raises `StageError` where the
    disk says no.
    """

    def __init__(self, workspace: Workspace, kind: Kind, limits: Limits, dedupe: bool) -> None:
        self._workspace, self._kind = workspace, kind
        self._limits, self._dedupe = limits, dedupe
        self._root = workspace.provenance.parent
        seen = [each for each in read_provenance(workspace.provenance) if each.kind == kind]
        # The last line about a picture is the one that holds.
        self._seen = {(each.origin, each.sha256): each for each in seen}
        self._first: dict[str, str] = {}
        for each in seen:
            if each.file and (self._root / each.file).exists():
                self._first.setdefault(each.sha256, each.file)
        self._orphans, self._next = self._look_around({each.file for each in seen})
        self._provenance = ProvenanceWriter(workspace.provenance)
        self.kept = self.added = self.depths = 0
        self.reasons: Counter[str] = Counter()
        self.notes: list[str] = []

    def _look_around(self, known: set[str]) -> tuple[dict[str, Path], int]:
        """Copies that no line tells of, by SHA-256, and the first number above all others."""
        orphans: dict[str, Path] = {}
        highest = max((parsed[1] for name in known if (parsed := parse_picture(name))), default=-1)
        folder = self._workspace.sources(self._kind)
        for path in _pictures(folder):
            parsed = parse_picture(path.name)
            assert parsed is not None, "_pictures gives nothing else"
            highest = max(highest, parsed[1])
            if self._relative(path) not in known:
                orphans[_sha256_of(path)] = path
        return orphans, highest + 1

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def holds(self, origin: str) -> bool:
        """Whether a picture of this origin was kept before and is still there."""
        return any(
            where == origin and each.file and (self._root / each.file).exists()
            for (where, _), each in self._seen.items()
        )

    def offer(self, candidate: Candidate) -> bool:
        """Take one picture in, or refuse it; True if it stands, from this run or an earlier one."""
        sighting, data, verdict = self._judge(candidate)
        earlier = self._seen.get((candidate.origin, sighting.sha256))
        if earlier is not None and earlier.file and (self._root / earlier.file).exists():
            self.kept += 1
            if candidate.depth is not None and not self._has_depth(earlier):
                self._add_depth(earlier, candidate.depth)
            return True
        if sighting.verdict == "kept":
            lost = self._root / earlier.file if earlier is not None and earlier.file else None
            path = lost or self._path_for(verdict)
            sighting = self._take(sighting, candidate, data, path)
            self.kept += 1
            self.added += 1
        else:
            self.reasons[sighting.reason] += 1
            _log.info("%s is refused: %s", candidate.name, sighting.reason)
        if earlier is None or (earlier.verdict, earlier.reason) != (
            sighting.verdict,
            sighting.reason,
        ):
            self._provenance.add(sighting)
        self._seen[candidate.origin, sighting.sha256] = sighting
        return sighting.verdict == "kept"

    def _judge(self, candidate: Candidate) -> tuple[Sighting, bytes, Verdict]:
        try:
            data = candidate.read()
            verdict = screen(data, self._kind, self._limits)
        except OSError:
            data, verdict = b"", Verdict(UNREADABLE)
        duplicate_of = self._first.get(verdict.sha256, "") if not verdict.reason else ""
        reason = DUPLICATE if duplicate_of and self._dedupe else verdict.reason
        sighting = Sighting(
            kind=self._kind,
            source=candidate.source,
            origin=candidate.origin,
            name=candidate.name,
            time=_now(),
            sha256=verdict.sha256,
            width=verdict.width,
            height=verdict.height,
            bytes=len(data),
            verdict="refused" if reason else "kept",
            reason=reason,
            duplicate_of=duplicate_of,
        )
        return sighting, data, verdict

    def _path_for(self, verdict: Verdict) -> Path:
        """Where a picture goes: a copy that a kill left behind, or the next number."""
        orphan = self._orphans.pop(verdict.sha256, None)
        if orphan is not None:
            return orphan
        stem = picture_stem(self._kind, self._next)
        self._next += 1
        return self._workspace.sources(self._kind) / f"{stem}{verdict.suffix}"

    def _take(self, sighting: Sighting, candidate: Candidate, data: bytes, path: Path) -> Sighting:
        write_atomically(path, data)
        file = self._relative(path)
        first = self._first.setdefault(sighting.sha256, file)
        if first != file:
            self.notes.append(f"{file} ({candidate.name}) has the same bytes as {first}")
        sighting = replace(sighting, file=file)
        return self._take_depth(sighting, candidate.depth) if candidate.depth else sighting

    def _has_depth(self, sighting: Sighting) -> bool:
        return bool(sighting.depth_file) and (self._root / sighting.depth_file).exists()

    def _add_depth(self, earlier: Sighting, depth: Offer) -> None:
        """Take the depth of a picture that came without, or whose depth was lost."""
        sighting = self._take_depth(replace(earlier, depth_file="", depth_problem=""), depth)
        # A map that is as bad as it was is no news.
        if sighting != earlier:
            sighting = replace(sighting, time=_now())
            self._provenance.add(sighting)
            self._seen[earlier.origin, earlier.sha256] = sighting

    def _take_depth(self, sighting: Sighting, depth: Offer) -> Sighting:
        sighting = replace(sighting, depth_origin=depth.origin)
        try:
            data = depth.read()
            problem = depth_problem(data, sighting.width, sighting.height, depth.name)
        except OSError as error:
            data, problem = b"", f"{depth.name} cannot be read: {error.strerror}"
        if problem:
            self.notes.append(f"{sighting.name} is kept without its depth: {problem}")
            return replace(sighting, depth_problem=problem)
        stem, suffix = Path(sighting.file).stem, Path(depth.name).suffix.lower()
        path = self._workspace.sources("bg_depth") / f"{stem}{suffix}"
        write_atomically(path, data)
        for other in _DEPTH_SUFFIXES:
            if other != suffix:  # two maps of one picture are none
                _delete(path.with_suffix(other))
        self.depths += 1
        return replace(sighting, depth_file=self._relative(path))

    def total(self) -> int:
        """How many pictures of this kind the workspace holds now."""
        return len(_pictures(self._workspace.sources(self._kind)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._provenance.__exit__(kind, error, traceback)


def _pictures(folder: Path) -> list[Path]:
    """What has a picture's name in `folder` and is no folder itself, sorted."""
    try:
        found = sorted(folder.iterdir()) if folder.exists() else []
        return [each for each in found if parse_picture(each.name) and not each.is_dir()]
    except OSError as error:
        raise StageError(f"cannot list {folder}: {error.strerror}") from error


def _sha256_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}; move it away") from error


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StageError(f"cannot delete {path}: {error.strerror}") from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
