"""What has been done in a workspace, what is missing, and what to type next.

The one rule: status only reads, and takes no lock, so that it can be asked while a stage runs.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from depthgen.archive import Archive, ArchiveError, files_of
from depthgen.archive.format import LOCAL, LOCAL_SIGNATURE, decode_name
from depthgen.errors import StageError
from depthgen.lock import holder
from depthgen.retype import command, retype
from depthgen.stage import Manifest
from depthgen.workspace import Workspace, parse_member, parse_picture

if TYPE_CHECKING:
    from collections.abc import Mapping

State = Literal["missing", "unfinished", "done", "stale", "damaged"]

_TAIL_BYTES = 4 << 20
# In the order of the chain: stage, its archives.
_CHAIN = (
    ("mask", ("fg", "fg_mask")),
    ("crop", ("bg",)),
    ("composite", ("fg_bg", "fg_bg_mask")),
    ("depthmap", ("depth_fg_bg",)),
    ("stats", ()),
)
_CONFIG = Path("configs/small.yaml")
# What is made of the pictures in sources: stage, kind.
_TAKES = {"mask": "fg", "crop": "bg"}


@dataclass(frozen=True)
class StageStatus:
    """One stage. progress: how far an unfinished archive is; note: what is wrong, if anything.

    settings, facts: as its manifest has them.
    """

    stage: str
    state: State
    counts: dict[str, int] = field(default_factory=dict)
    finished: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class WorkspaceStatus:
    """The whole workspace. sources: pictures there are, by kind. lock: who works in it now."""

    root: str
    sources: dict[str, int]
    stages: tuple[StageStatus, ...]
    runs: tuple[str, ...]
    lock: str
    next_command: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """Lines for a person."""
        sources = ", ".join(f"{count} {kind}" for kind, count in self.sources.items())
        lines = [f"{self.root}: {sources} in sources"]
        for each in self.stages:
            details = [f"{name} {count}" for name, count in each.counts.items()]
            details += [f"{name} {progress}" for name, progress in each.progress.items()]
            details += [part for part in (each.finished, each.note) if part]
            lines.append(f"  {each.stage:24} {each.state:10} {', '.join(details)}".rstrip())
        if self.runs:
            lines.append(f"  {'train':24} {'runs':10} {', '.join(self.runs)}")
        if self.lock:
            lines.append(f"in use by {self.lock}")
        more = ""
        if self.next_command.endswith("--from DIR"):
            more = f", or `{command(Path(self.root))} render`"
        if "CONFIG" in self.next_command:
            more = ' (see the manual, "Training")'
        lines.append(f"next: `{self.next_command}`{more}")
        return "\n".join(lines)


def status(workspace: Workspace) -> WorkspaceStatus:
    """Look at a workspace; one that does not exist is an empty one."""
    sources = count_sources(workspace)
    stages = tuple(_with_news(stage, sources) for stage in _stages(workspace))
    runs = workspace.runs
    return WorkspaceStatus(
        root=str(workspace.root),
        sources=sources,
        stages=stages,
        runs=tuple(sorted(path.name for path in runs.iterdir() if path.is_dir()))
        if runs.is_dir()
        else (),
        lock=_lock(workspace.lock),
        next_command=_next(workspace, sources, stages),
    )


def _pictures(folder: Path) -> int:
    return sum(
        parse_picture(path.name) is not None and not path.is_dir() for path in folder.glob("*")
    )


def new_pictures(stage: str, counts: Mapping[str, int], sources: Mapping[str, int]) -> str:
    """What has come into sources since a stage made its archives; empty if nothing has.

    Pictures that were taken away are no news: an archive stays whole without its sources.
    """
    kind = _TAKES.get(stage, "")
    made = counts.get(kind)
    if not isinstance(made, int):
        return ""
    if (new := sources[kind] - made) > 0:
        return f"{new} new {'picture' if new == 1 else 'pictures'}"
    # crop makes depth only where every background has one.
    if kind == "bg" and "bg_depth" not in counts and sources["bg_depth"] >= made > 0:
        return "depth for every background is new"
    return ""


def count_sources(workspace: Workspace) -> dict[str, int]:
    """The pictures in sources, by kind."""
    return {kind: _pictures(workspace.sources(kind)) for kind in ("bg", "fg", "bg_depth")}


def _with_news(stage: StageStatus, sources: Mapping[str, int]) -> StageStatus:
    news = new_pictures(stage.stage, stage.counts, sources) if stage.state == "done" else ""
    return replace(stage, state="stale", note=news) if news else stage


def _stages(workspace: Workspace) -> list[StageStatus]:
    """The stages of the chain, and others that have left a manifest."""
    digests: dict[str, str | None] = {}
    chain = [_stage(workspace, name, archives, digests) for name, archives in _CHAIN]
    known = {name for name, _ in _CHAIN}
    others = sorted(
        path.stem
        for path in workspace.manifest("any").parent.glob("*.json")
        if path.stem not in known
    )
    before = [name for name in others if name.startswith(("crawl", "render"))]
    after = [name for name in others if name not in before]
    return [
        *(_stage(workspace, name, (), digests) for name in before),
        *chain,
        *(_stage(workspace, name, _resized(name), digests) for name in after),
    ]


def _resized(stage: str) -> tuple[str, ...]:
    return (stage.removeprefix("resize_"),) if stage.startswith("resize_") else ()


def _stage(
    workspace: Workspace, name: str, archives: tuple[str, ...], digests: dict[str, str | None]
) -> StageStatus:
    try:
        manifest = Manifest.read(workspace.manifest(name))
    except StageError as error:
        return StageStatus(name, "damaged", note=str(error))
    if manifest is None:
        return StageStatus(name, "missing")
    state: State = "done" if manifest.state == "done" else "unfinished"
    note = ""
    # crop makes depth only where every background has one.
    archives += ("bg_depth",) if name == "crop" and "bg_depth" in manifest.counts else ()
    gone = [f"{each}.zip" for each in archives if not _is_there(workspace, each)]
    if name == "stats" and not workspace.stats.exists():
        gone.append(workspace.stats.name)
    broken = [
        f"{each}.zip" for each in archives if _digest(workspace, f"{each}.zip", digests) is None
    ]
    changed = [
        read
        for read, digest in manifest.reads.items()
        if read.endswith(".zip") and _digest(workspace, read, digests) not in (None, digest)
    ]
    if state == "done" and gone:
        state, note = "unfinished", f"{', '.join(gone)} is gone"
    elif state == "done" and broken:
        state, note = "damaged", f"{', '.join(broken)} cannot be read"
    elif changed:
        state, note = "stale", f"{', '.join(changed)} has changed since"
    return StageStatus(
        stage=name,
        state=state,
        counts=manifest.counts,
        finished=manifest.finished,
        settings=manifest.settings,
        facts=manifest.facts,
        progress=_progress(workspace, archives, manifest) if state == "unfinished" else {},
        note=note,
    )


def _is_there(workspace: Workspace, name: str) -> bool:
    """Whether an archive is there, and none of its shards is missing."""
    try:
        return bool(files_of(workspace.archive(name)))
    except ArchiveError:
        return False


def _digest(workspace: Workspace, read: str, digests: dict[str, str | None]) -> str | None:
    """The digest of an archive as it is now; None if it cannot be opened."""
    if read not in digests:
        try:
            with Archive.open(workspace.archive(read.removesuffix(".zip"))) as archive:
                digests[read] = archive.digest()
        except ArchiveError:
            digests[read] = None
    return digests[read]


def _progress(
    workspace: Workspace, archives: tuple[str, ...], manifest: Manifest
) -> dict[str, str]:
    """For each partial file: the last sample in it, out of how many, and its size."""
    found = {}
    for name in archives:
        path = workspace.archive(name)
        partials = [*path.parent.glob(f"{name}.zip.partial")]
        partials += path.parent.glob(f"{name}-*-of-*.zip.partial")
        for partial in sorted(partials):
            try:
                megabytes = partial.stat().st_size / 1e6
                number = last_number(partial)
            except FileNotFoundError:  # its stage has just finished it
                continue
            total = _total(manifest) if number is not None else None
            parts = [] if number is None else [f"at number {number}"]
            parts += [f"of {total}"] if total else []
            found[partial.name] = " ".join((*parts, f"({megabytes:.1f} MB)"))
    return found


def _total(manifest: Manifest) -> int | None:
    """How many samples composite is to make, as far as its settings say."""
    settings = manifest.settings
    try:
        pairs = int(settings["bg"]) * int(settings["fg"])
        return pairs * int(settings["placements"]) * (2 if settings["flip"] else 1)
    except (KeyError, TypeError, ValueError):
        return None


def last_number(partial: Path) -> int | None:
    """The sample index or picture number of the last member that begins in the file's tail.

    A whole scan would read gigabytes; members are written in order, so the last name says it all.
    """
    with partial.open("rb") as stream:
        stream.seek(max(0, partial.stat().st_size - _TAIL_BYTES))
        tail = stream.read()
    for match in reversed([*re.finditer(re.escape(LOCAL_SIGNATURE), tail)]):
        header = tail[match.start() : match.start() + LOCAL.size]
        if len(header) < LOCAL.size:
            continue
        flags, size = (LOCAL.unpack(header)[at] for at in (2, 9))
        start = match.start() + LOCAL.size
        name = decode_name(tail[start : start + size], flags)
        sample, picture = parse_member(name), parse_picture(name)
        if sample is not None:
            return sample.index
        if picture is not None and len(name) == size:
            return picture[1]
    return None


def _lock(path: Path) -> str:
    """Who holds the workspace's lock, in words; empty if nobody does."""
    found = holder(path)
    return f"process {found[0]} on {found[1]}" if found else ""


def _next(workspace: Workspace, sources: Mapping[str, int], stages: tuple[StageStatus, ...]) -> str:
    """The first command of the chain that is not done, with the options it was begun with."""
    root, by_name = workspace.root, {each.stage: each for each in stages}
    crawl = f"{command(root)} crawl --source folder"
    if "done" not in (by_name["mask"].state, by_name["crop"].state):
        for each in stages:
            if each.state == "unfinished" and each.stage.startswith(("crawl", "render")):
                return retype(root, each.stage, each.settings)
    for stage, _ in _CHAIN:
        now = by_name[stage]
        if stage == "depthmap":
            now = _labels(now, by_name.get("depthmap_backgrounds"))
        if now.state == "done":
            continue
        kind = _TAKES.get(stage)
        if kind and not sources[kind]:
            return f"{crawl} --kind {kind} --from DIR"
        # stats measures what has changed without being told to.
        anew = now.state in ("stale", "damaged") and stage != "stats"
        settings = now.settings
        if "weights_typed" in now.facts:  # no setting, for where weights lie decides nothing
            settings = {**settings, "weights_typed": now.facts["weights_typed"]}
        all_there_are = by_name["crop"].counts.get("bg"), by_name["mask"].counts.get("fg")
        if stage == "composite" and (anew or _uses(settings) == all_there_are):
            # Made anew, it takes the pictures in that have come since.
            settings = {name: each for name, each in settings.items() if name not in ("bg", "fg")}
        return retype(root, stage, settings, anew)
    return f"{command(root)} train {_CONFIG if _CONFIG.is_file() else 'CONFIG.yaml'}"


def _labels(labels: StageStatus, backgrounds: StageStatus | None) -> StageStatus:
    """`depthmap`, or what it was to become where its network was stopped on the backgrounds.

    Those come before the labels have a manifest, and have one of their own. Labels of other
    settings are still there if the run that was stopped had --overwrite.
    """
    if backgrounds is None or backgrounds.state == "damaged":
        return labels
    if labels.state != "missing" and backgrounds.state != "unfinished":
        return labels
    bits = backgrounds.facts.get("bits", 8)
    settings = {"model": "layered", "bits": bits, **backgrounds.settings}
    goes_on = labels.state == "missing" or labels.settings == settings
    stale = "stale" in (labels.state, backgrounds.state) or not goes_on
    state: State = "stale" if stale else "unfinished"
    return replace(backgrounds, state=state, settings=settings)


def _uses(settings: Mapping[str, Any]) -> tuple[Any, Any]:
    return settings.get("bg"), settings.get("fg")
