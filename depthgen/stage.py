"""What every stage shares: the workspace's lock, the manifest, progress and summary.

A manifest says what a stage was told, what it read and what came of it. It is on the disk before
the first member is written. The one rule: a stage goes on with an unfinished archive, or trusts a
finished one, only if it was made with the same settings from the same input.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from depthgen.archive import Archive, ArchiveError
from depthgen.errors import StageError
from depthgen.files import delete, write_atomically
from depthgen.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from depthgen.workspace import Workspace

# Called with (samples done, samples in all), now and then.
Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)
_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg")


def no_progress(done: int, total: int) -> None:
    """The progress callback of one who does not want to know."""


@dataclass(frozen=True)
class Summary:
    """What a stage did. `counts` names what it made; `notes` are findings, a sentence each."""

    stage: str
    counts: Mapping[str, int]
    outputs: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    already_done: bool = False


@dataclass
class Manifest:
    """A stage's record, `manifests/<stage>.json`."""

    stage: str
    settings: dict[str, Any]
    reads: dict[str, str]
    state: str = "running"
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: str = ""

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """The manifest at `path`, or None. Raises `StageError` if it is damaged."""
        try:
            manifest = cls(**json.loads(path.read_text("utf-8")))
            manifest._check()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise StageError(f"{path} is not a manifest ({error}); move it away") from error
        return manifest

    def _check(self) -> None:
        """Raise `TypeError` if a field is of another type than it is written with."""
        blank = Manifest("", {}, {})
        for name, value in vars(self).items():
            wanted = type(getattr(blank, name))
            if not isinstance(value, wanted):
                raise TypeError(f"{name} is no {wanted.__name__}")

    def write(self, path: Path) -> None:
        """Replace the file at `path` in one step."""
        # Escaped: a file name in a note or a setting need not be valid UTF-8.
        text = json.dumps(vars(self), indent=2)
        write_atomically(path, (text + "\n").encode("utf-8"))


@dataclass
class Run:
    """One run of a stage: its manifest, and where that is kept."""

    workspace: Workspace
    manifest: Manifest
    outputs: tuple[Path, ...]

    @property
    def done(self) -> bool:
        """Whether an earlier run finished it."""
        return self.manifest.state == "done"

    def keep(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write down facts that a run which is stopped must not lose; gives all that are known."""
        self.manifest.facts |= facts
        self.manifest.write(self.workspace.manifest(self.manifest.stage))
        return self.manifest.facts

    def finish(self, counts: Mapping[str, int], notes: Sequence[str] = (), **facts: Any) -> Summary:
        """Write down that the stage is done; `facts` is what else its readers need to know."""
        manifest = self.manifest
        manifest.state, manifest.counts, manifest.notes = "done", dict(counts), list(notes)
        manifest.facts, manifest.finished = facts, timestamp()
        manifest.write(self.workspace.manifest(manifest.stage))
        return Summary(manifest.stage, counts, self.outputs, tuple(notes))

    def stop(self, counts: Mapping[str, int], notes: Sequence[str] = ()) -> None:
        """Write down how far it came: it is not done, and is to be gone on with."""
        self.manifest.counts, self.manifest.notes = dict(counts), list(notes)
        self.manifest.write(self.workspace.manifest(self.manifest.stage))

    def summary(self) -> Summary:
        """What the earlier run did."""
        manifest = self.manifest
        return Summary(
            manifest.stage, manifest.counts, self.outputs, tuple(manifest.notes), already_done=True
        )


@contextmanager
def open_stage(
    workspace: Workspace,
    stage: str,
    settings: Mapping[str, Any],
    reads: Callable[[], Mapping[str, str]],
    outputs: Sequence[Path],
    overwrite: bool = False,
) -> Iterator[Run]:
    """Hold the workspace's lock and check the stage against its manifest.

    settings: every option that changes the outputs, as JSON takes it. reads: gives a digest of each
    input, by name. outputs: the archives (or their shards) that the stage makes. overwrite: delete
    what an earlier run made, and start anew.
    Raises `StageError` if an earlier run was told otherwise, or read something else.
    """
    with hold_lock(workspace.lock):
        settings = json.loads(json.dumps(settings))
        wanted = Manifest(stage, dict(settings), dict(reads()), started=timestamp())
        wanted.versions = _versions()
        path = workspace.manifest(stage)
        if overwrite:
            for each in (path, *_traces(outputs)):
                delete(each)
        earlier = Manifest.read(path)
        if earlier is None:
            _refuse_strangers(stage, outputs)
            wanted.write(path)
            earlier = wanted
        else:
            _refuse_differences(earlier, wanted, path)
            if earlier.state == "done" and not _all_there(wanted.stage, outputs):
                earlier.state = "running"
            if earlier.state == "running":
                _note_versions(earlier, wanted.versions)
                earlier.write(path)
        yield Run(workspace, earlier, tuple(outputs))


def refuse_other_runs(
    workspace: Workspace,
    stage: str,
    settings: Mapping[str, Any],
    reads: Mapping[str, str],
    outputs: Sequence[Path],
) -> None:
    """Refuse what `open_stage` will refuse, for a stage that has slow work to do before it.

    reads: digests of the inputs that are there by now; the others are not compared.
    Raises `StageError` as `open_stage` does without `overwrite`.
    """
    path = workspace.manifest(stage)
    earlier = Manifest.read(path)
    if earlier is None:
        _refuse_strangers(stage, outputs)
        return
    wanted = Manifest(stage, json.loads(json.dumps(settings)), dict(earlier.reads) | dict(reads))
    _refuse_differences(earlier, wanted, path)


@contextmanager
def open_adding_stage(
    workspace: Workspace, stage: str, settings: Mapping[str, Any], outputs: Sequence[Path] = ()
) -> Iterator[Run]:
    """Hold the lock for a stage that only adds, or replaces its one result whole.

    Such a stage goes by what it finds, not by its manifest, so this refuses no difference: the
    manifest tells of the last run. Raises `StageError` if another process holds the lock.
    """
    with hold_lock(workspace.lock):
        manifest = Manifest(stage, json.loads(json.dumps(settings)), {}, started=timestamp())
        manifest.versions = _versions()
        manifest.write(workspace.manifest(stage))
        yield Run(workspace, manifest, tuple(outputs))


def command_of(stage: str) -> str:
    """The command that runs a stage: `resize` for `resize_bg_small`."""
    return stage.split("_")[0]


def _all_there(stage: str, outputs: Sequence[Path]) -> bool:
    """Whether every output exists. Raises `StageError` for an archive that no longer opens."""
    for output in outputs:
        if output.suffix == ".zip" and output.exists():
            try:
                Archive(output).close()
            except ArchiveError as error:
                raise StageError(
                    f"{error}; `{command_of(stage)}` had finished it, make it anew with --overwrite"
                ) from error
    return all(output.exists() for output in outputs)


def _refuse_strangers(stage: str, outputs: Sequence[Path]) -> None:
    for path in _traces(outputs):
        raise StageError(
            f"{path} is there, but no manifest says that `{command_of(stage)}` made it; move it "
            "away, or replace it with --overwrite"
        )


def _refuse_differences(earlier: Manifest, wanted: Manifest, path: Path) -> None:
    changed = [
        f"{name} was {earlier.settings.get(name)!r}, now {wanted.settings.get(name)!r}"
        for name in sorted(earlier.settings.keys() | wanted.settings.keys())
        if earlier.settings.get(name) != wanted.settings.get(name)
    ]
    both = earlier.reads.keys() & wanted.reads.keys()
    changed += [f"{name} is not read now" for name in sorted(earlier.reads.keys() - both)]
    changed += [f"{name} was not read then" for name in sorted(wanted.reads.keys() - both)]
    changed += [
        f"{name} has changed since"
        for name in sorted(both)
        if earlier.reads[name] != wanted.reads[name]
    ]
    if changed:
        raise StageError(
            f"`{command_of(wanted.stage)}` ran before with other input ({path}): "
            f"{'; '.join(changed)}. Run it as before, or start anew with --overwrite"
        )


def _note_versions(earlier: Manifest, now: Mapping[str, str]) -> None:
    """Write down what goes on with the work of other library versions, and say so."""
    for library, new in now.items():
        known = earlier.versions.get(library, "unknown")
        if new not in known.split(", "):
            earlier.versions[library] = f"{known}, {new}"
            _log.warning(
                "%s began with %s %s and goes on with %s; pixels stay the same, bytes may not",
                *(earlier.stage, library, known, new),
            )


def _traces(outputs: Sequence[Path]) -> list[Path]:
    """Everything an earlier run may have left for these outputs, shards of other sets included."""
    traces: list[Path] = []
    for output in outputs:
        stem, suffix = re.sub(r"-\d{5}-of-\d{5}$", "", output.stem), output.suffix
        ours = re.compile(
            rf"{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?{re.escape(suffix)}(\.partial)?"
        )
        if output.parent.is_dir():
            traces += [path for path in output.parent.iterdir() if ours.fullmatch(path.name)]
    return sorted(set(traces))


def require_archive(workspace: Workspace, name: str, made_by: str) -> Path:
    """The path of an archive that a stage reads; `made_by` is the command that makes it.

    Raises `StageError` if neither it nor shards of it are there.
    """
    path = workspace.archive(name)
    if not path.exists() and not list(path.parent.glob(f"{path.stem}-*-of-*.zip")):
        raise StageError(f"{path} is missing; run `depthgen {made_by}` first")
    return path


def archive_digest(workspace: Workspace, name: str, made_by: str) -> str:
    """The digest of an archive that a stage reads."""
    with Archive.open(require_archive(workspace, name, made_by)) as archive:
        return archive.digest()


def sound_member(archive: Archive, index: int, made_by: str) -> memoryview:
    """A member of an archive that a stage reads, compared with its CRC-32.

    A picture with a flipped bit may still decode, and what is made of it would be taken for sound.
    Raises `StageError` if the member is damaged; `made_by` is the command that makes the archive.
    """
    if not archive.crc_is_right(index):
        raise StageError(
            f"{archive.paths[0]}: {archive.name(index)} is damaged, for its CRC-32 is wrong; put "
            f"back a good copy of the archive, or make it anew with `depthgen {made_by} "
            "--overwrite`"
        )
    return archive[index]


def files_digest(paths: Sequence[Path]) -> str:
    """SHA-256 (hex) over the names and contents of some files. Raises `StageError`."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise StageError(f"cannot read {path}: {error.strerror}; mend or remove it") from error
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    """The libraries whose versions decide the exact bytes."""
    found = {"zlib": zlib.ZLIB_RUNTIME_VERSION}
    for library in ("depthgen-vathos", *_LIBRARIES):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found


def timestamp() -> str:
    """The time, UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
