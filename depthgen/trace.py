"""From a picture's number, or a sample made of two of them, back to where they came from.

The one rule: a picture is known by its bytes first and by its name second, so that one that was
renamed in the sources is still traced to its origin.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from depthgen.errors import StageError
from depthgen.sources.provenance import Sighting, read_provenance
from depthgen.stage import Manifest
from depthgen.workspace import Layout, parse_member, parse_picture, picture_stem

if TYPE_CHECKING:
    from pathlib import Path

    from depthgen.workspace import Kind, Workspace

_STEM = re.compile(r"(bg|fg)_?([0-9]+)\Z")


@dataclass(frozen=True)
class Trace:
    """One picture. stem: `fg_012`; sighting: its line in the provenance; note: what is amiss."""

    stem: str
    sighting: Sighting
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"picture": self.stem, "note": self.note} | asdict(self.sighting)

    def text(self) -> str:
        """Lines for a person: what has no value is left out."""
        seen = self.sighting
        search = f"{seen.source} {seen.keyword!r}" if seen.keyword else seen.source
        status = f", status {seen.http_status}" if seen.http_status else ""
        rows = (
            ("page", seen.page_url),
            ("title", seen.title),
            ("found by", search + (f", licence filter {seen.license}" if seen.license else "")),
            ("seen", f"{seen.time}{status}"),
            ("size", f"{seen.width} × {seen.height} pixels, {seen.bytes:,} bytes"),
            ("sha256", seen.sha256),
            ("like", seen.duplicate_of),
            ("depth", seen.depth_origin),
            ("note", self.note),
        )
        lines = [f"{self.stem}: {seen.origin}"]
        return "\n".join(lines + [f"  {name:9}{value}" for name, value in rows if value])


def trace(workspace: Workspace, what: str) -> list[Trace]:
    """Where a picture comes from, or both pictures of a sample.

    what: `fg_012`, a member's name such as `fg_bg/bg_007/fg_012_bg_007_028500.jpg`, or a sample's
    number. Raises `StageError` if there is no such picture, or nothing is known of it.
    """
    lines = [each for each in read_provenance(workspace.provenance) if each.file]
    return [_trace(workspace, kind, number, lines) for kind, number in _pictures(workspace, what)]


def _pictures(workspace: Workspace, what: str) -> list[tuple[Kind, int]]:
    member, picture, stem = parse_member(what), parse_picture(what), _STEM.match(what)
    if member is None and re.search(r"fg_[0-9]+_bg_[0-9]+", what):
        member = parse_member(f"{what}.jpg")  # typed without its suffix
    if member is not None:
        return [("fg", member.fg), ("bg", member.bg)]
    if picture is not None:
        return [("fg" if picture[0] == "fg" else "bg", picture[1])]
    if stem is not None:
        return [("fg" if stem[1] == "fg" else "bg", int(stem[2]))]
    if what.isdecimal():
        sample = _layout(workspace, int(what)).sample(int(what))
        return [("fg", sample.fg), ("bg", sample.bg)]
    raise StageError(
        f"{what!r} names no picture; trace fg_012, bg_007, a sample's member or its number"
    )


def _layout(workspace: Workspace, index: int) -> Layout:
    manifest = Manifest.read(workspace.manifest("composite"))
    try:
        layout = Layout(**manifest.facts["layout"]) if manifest else None
    except (KeyError, TypeError):
        layout = None
    if layout is None:
        raise StageError("no sample has a number yet; run `depthgen composite` first")
    if index >= layout.samples:
        raise StageError(
            f"there are {layout.samples} samples; the last one is number "
            f"{layout.samples - 1}, not {index}"
        )
    return layout


def _trace(workspace: Workspace, kind: Kind, number: int, lines: list[Sighting]) -> Trace:
    stem = picture_stem(kind, number)
    by_name = [each for each in lines if each.file.startswith(f"{kind}/{stem}.")]
    path = next(iter(sorted(workspace.sources(kind).glob(f"{stem}.*"))), None)
    if path is None:
        if by_name:
            return Trace(stem, by_name[-1], "the original is no longer in the sources")
        raise StageError(
            f"there is no picture {stem} in {workspace.sources(kind)}; see `depthgen status`"
        )
    sha256 = _sha256(path)
    same = [each for each in lines if each.kind == kind and each.sha256 == sha256]
    for each in reversed(by_name):
        if each in same:
            return Trace(stem, each)
    if same:
        return Trace(stem, same[-1], f"it was {same[-1].file} when it was taken in")
    if by_name:
        return Trace(stem, by_name[-1], "its bytes have changed since")
    raise StageError(
        f"{path} has no line in {workspace.provenance}: it was put there by hand, or left by a "
        "crawl that was killed"
    )


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}") from error
