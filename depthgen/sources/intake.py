"""Taking pictures in: screened, numbered, copied as they are, written down.

Every source hands over `Candidate`s and knows no more than that. The one rule: a file is copied
first and written down after, and a copy that a kill left unwritten is found again by its bytes, so
that no picture is taken twice and no number is lost. Depth comes after its picture, and nothing is
deleted but what a depth map replaces.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from depthgen.closing import Closing
from depthgen.errors import StageError
from depthgen.files import delete, remove_leftovers, write_all_atomically, write_atomically
from depthgen.sources import screen as reasons
from depthgen.sources.candidate import Candidate, Judged, Offer, judge
from depthgen.sources.likeness import Likenesses
from depthgen.sources.provenance import ProvenanceWriter, Sighting, read_provenance
from depthgen.sources.screen import Limits, Verdict, depth_problem, screen
from depthgen.stage import timestamp
from depthgen.workspace import DEPTH_SUFFIXES, parse_picture, picture_stem

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from depthgen.workspace import Kind, Workspace

_log = logging.getLogger(__name__)
Duplicates = Literal["refuse", "note", "ignore"]


class Intake(Closing):
    """Takes the pictures of one kind into a workspace, whose lock the caller holds.

    duplicates: what to do with a picture whose bytes or looks are there already.
    `reasons` counts the refusals of this run, `kept` what stands from the candidates offered,
    `added` the new ones and `depths` the depth maps that came in. Raises `StageError` where the
    disk says no.
    """

    def __init__(
        self, workspace: Workspace, kind: Kind, limits: Limits, duplicates: Duplicates
    ) -> None:
        self._workspace, self._kind = workspace, kind
        self._limits, self._duplicates = limits, duplicates
        self._root = workspace.provenance.parent
        seen = [each for each in read_provenance(workspace.provenance) if each.kind == kind]
        # The last line about a picture is the one that holds.
        self._seen = {(each.origin, each.sha256): each for each in seen}
        self._by_origin = {each.origin: each for each in seen}
        self._first: dict[str, str] = {}
        self._alike = Likenesses()
        for each in self._seen.values():
            if self._stands(each):
                # None of those that were taken in before looks were compared.
                self._remember(each.sha256, each.phash or None, each.file)
        self._orphans, self._next = self._look_around({each.file for each in seen})
        self._provenance = ProvenanceWriter(workspace.provenance)
        self.kept = self.added = self.depths = 0
        self.reasons: Counter[str] = Counter()
        self.notes: list[str] = []

    def _look_around(self, known: set[str]) -> tuple[dict[str, tuple[Path, str]], int]:
        """Copies that no line tells of, by SHA-256, and the first number above all others."""
        orphans: dict[str, tuple[Path, str]] = {}
        highest = max((parsed[1] for name in known if (parsed := parse_picture(name))), default=-1)
        folder = self._workspace.sources(self._kind)
        remove_leftovers(folder)
        for path in _pictures(folder):
            parsed = parse_picture(path.name)
            assert parsed is not None, "_pictures gives nothing else"
            highest = max(highest, parsed[1])
            if self._relative(path) not in known:
                data = _read(path)
                phash = screen(data, self._kind, Limits(1)).phash
                orphans[hashlib.sha256(data).hexdigest()] = path, phash
        return orphans, highest + 1

    def _remember(self, sha256: str, phash: str | None, file: str) -> None:
        """Know a copy again, by its bytes and by its looks; None: it is to be looked at."""
        if self._duplicates == "ignore" or self._first.setdefault(sha256, file) != file:
            return
        if phash is None:
            phash = screen(_read(self._root / file), self._kind, Limits(1)).phash
        self._alike.add(phash, file)

    def _stands(self, sighting: Sighting) -> bool:
        return bool(sighting.file) and (self._root / sighting.file).exists()

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def holds(self, origin: str) -> bool:
        """Whether a picture of this origin was kept before and is still there."""
        earlier = self._by_origin.get(origin)
        return earlier is not None and self._stands(earlier)

    def settled(self, origin: str, overruled: Collection[str] = ()) -> str | None:
        """What was decided about an origin, if that still holds: a reason, or "" if it was kept.

        None if it was not seen, is to be tried again, or was refused by a limit that has changed.
        overruled: reasons that count no longer.
        """
        earlier = self._by_origin.get(origin)
        if earlier is None or earlier.verdict == "failed" or earlier.reason in overruled:
            return None
        if not earlier.reason:
            return "" if self._stands(earlier) else None
        limits, side = self._limits, min(earlier.width, earlier.height)
        changed = {
            reasons.TOO_SMALL: side >= limits.min_size,
            reasons.TOO_LARGE: earlier.bytes <= limits.max_bytes,
            reasons.DUPLICATE: not (self._root / earlier.duplicate_of).exists(),
            reasons.NEAR_DUPLICATE: not (self._root / earlier.duplicate_of).exists(),
        }
        return None if changed.get(earlier.reason) else earlier.reason

    def standing(self, source: str, keywords: Collection[str], license: str) -> int:
        """How many pictures of a source are there that one of these searches has found."""
        return sum(
            each.source == source
            and each.keyword in keywords
            and each.license == license
            and min(each.width, each.height) >= self._limits.min_size
            and self._stands(each)
            for each in self._by_origin.values()
        )

    def offer(self, candidate: Candidate) -> bool:
        """Judge a candidate and settle it."""
        return self.settle(judge(candidate, self._kind, self._limits))

    def settle(self, judged: Judged) -> bool:
        """Take one picture in, or refuse it; True if it stands, from this run or an earlier one."""
        return self.settle_all([judged])[0]

    def settle_all(self, batch: Sequence[Judged]) -> list[bool]:
        """Settle some at once: their files are synced first, then their lines, together."""
        files: list[tuple[Path, bytes]] = []
        decided = [self._settle(judged, files) for judged in batch]
        write_all_atomically(files)
        lines = [
            self._take_depth(line, judged.candidate.depth)
            if line.verdict == "kept" and judged.candidate.depth
            else line
            for judged, (_, line) in zip(batch, decided, strict=True)
            if line is not None
        ]
        self._provenance.add(*lines)
        for line in lines:
            self._know(line)
        return [stands for stands, _ in decided]

    def _settle(
        self, judged: Judged, files: list[tuple[Path, bytes]]
    ) -> tuple[bool, Sighting | None]:
        """Whether a picture stands, and what is to be written down, if that is news.

        files: takes what is to be written.
        """
        candidate = judged.candidate
        sighting = self._decide(judged)
        earlier = self._seen.get((candidate.origin, sighting.sha256))
        if earlier is not None and self._stands(earlier):
            self.kept += 1
            if candidate.depth is not None and not self._has_depth(earlier):
                self._add_depth(earlier, candidate.depth)
            return True, None
        if sighting.verdict == "kept":
            lost = self._root / earlier.file if earlier is not None and earlier.file else None
            path = lost or self._path_for(judged.verdict)
            files.append((path, judged.data))
            self.kept += 1
            self.added += 1
            return True, self._named(sighting, path)
        self.reasons[sighting.reason] += 1
        _log.info("%s is refused: %s", candidate.name, sighting.reason)
        # How many bytes it has decides whether it is asked for again.
        is_news = earlier is None or (
            (earlier.reason, earlier.bytes) != (sighting.reason, sighting.bytes)
        )
        return False, sighting if is_news else None

    def _know(self, sighting: Sighting) -> None:
        self._seen[sighting.origin, sighting.sha256] = sighting
        self._by_origin[sighting.origin] = sighting

    def _decide(self, judged: Judged) -> Sighting:
        candidate, verdict = judged.candidate, judged.verdict
        reason, duplicate_of = verdict.reason, ""
        if not reason:
            likeness, duplicate_of = self._find_twin(verdict)
            reason = likeness if duplicate_of and self._duplicates == "refuse" else ""
        passing = reason in reasons.PASSING
        return Sighting(
            kind=self._kind,
            source=candidate.source,
            origin=candidate.origin,
            name=candidate.name,
            time=timestamp(),
            sha256=verdict.sha256,
            width=verdict.width,
            height=verdict.height,
            bytes=judged.nbytes,
            verdict="failed" if passing else "refused" if reason else "kept",
            reason=reason,
            duplicate_of=duplicate_of,
            phash=verdict.phash,
            page_url=candidate.page_url,
            title=candidate.title,
            keyword=candidate.keyword,
            license=candidate.license,
            http_status=judged.http_status,
        )

    def _find_twin(self, verdict: Verdict) -> tuple[str, str]:
        """(in what way, which copy) there is already, the second empty if there is none."""
        if verdict.sha256 in self._first:
            return reasons.DUPLICATE, self._first[verdict.sha256]
        return reasons.NEAR_DUPLICATE, self._alike.nearest(verdict.phash) or ""

    def _path_for(self, verdict: Verdict) -> Path:
        """Where a picture goes: a copy that a kill left behind, or the next number."""
        orphan = self._orphans.pop(verdict.sha256, None) or self._pop_alike(verdict)
        if orphan is not None:
            return orphan[0]
        stem = picture_stem(self._kind, self._next)
        self._next += 1
        return self._workspace.sources(self._kind) / f"{stem}{verdict.suffix}"

    def _pop_alike(self, verdict: Verdict) -> tuple[Path, str] | None:
        """A copy left behind that looks the same: kept beside it, it would be a twin."""
        if self._duplicates != "refuse":
            return None
        for sha256, (path, phash) in self._orphans.items():
            alike = Likenesses()
            alike.add(phash, sha256)
            if path.suffix == verdict.suffix and alike.nearest(verdict.phash):
                return self._orphans.pop(sha256)
        return None

    def unclaimed(self) -> list[str]:
        """A sentence for each copy that no line tells of, and no candidate was."""
        return [
            f"{self._relative(path)} has no line in {self._workspace.provenance.name}: it was put "
            "there by hand, or left by a run that was killed"
            for path, _ in self._orphans.values()
        ]

    def _named(self, sighting: Sighting, path: Path) -> Sighting:
        """The sighting of a picture that is kept at `path`, and will be known again."""
        file = self._relative(path)
        if sighting.duplicate_of:
            how = "has the same bytes as" if sighting.sha256 in self._first else "looks the same as"
            self.notes.append(f"{file} ({sighting.name}) {how} {sighting.duplicate_of}")
        self._remember(sighting.sha256, sighting.phash, file)
        return replace(sighting, file=file)

    def _has_depth(self, sighting: Sighting) -> bool:
        return bool(sighting.depth_file) and (self._root / sighting.depth_file).exists()

    def _add_depth(self, earlier: Sighting, depth: Offer) -> None:
        """Take the depth of a picture that came without, or whose depth was lost."""
        sighting = self._take_depth(replace(earlier, depth_file="", depth_problem=""), depth)
        # A map that is as bad as it was is no news.
        if sighting != earlier:
            sighting = replace(sighting, time=timestamp())
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
        for other in DEPTH_SUFFIXES:
            if other != suffix:  # two maps of one picture are none
                delete(path.with_suffix(other))
        self.depths += 1
        return replace(sighting, depth_file=self._relative(path))

    def total(self) -> int:
        """How many pictures of this kind the workspace holds now."""
        return len(_pictures(self._workspace.sources(self._kind)))

    def close(self) -> None:
        self._provenance.close()


def _pictures(folder: Path) -> list[Path]:
    """What has a picture's name in `folder` and is no folder itself, sorted."""
    try:
        found = sorted(folder.iterdir()) if folder.exists() else []
        return [each for each in found if parse_picture(each.name) and not each.is_dir()]
    except OSError as error:
        raise StageError(f"cannot list {folder}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}; move it away") from error
