"""The check of a whole workspace.

The one rule: what the manifests promise is compared with what the archives hold, each sample by its
index and never by its position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from depthgen.archive import Archive, ArchiveError, files_of
from depthgen.errors import OptionsError, StageError
from depthgen.stage import Manifest, Progress, command_of, no_progress
from depthgen.status import count_sources, new_pictures
from depthgen.verify.members import PICTURES, SAMPLES, Checker, Look, Target
from depthgen.verify.report import VerifyReport
from depthgen.workers import default_workers, ordered_map
from depthgen.workspace import Layout, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

_CHUNK = 256
_FEW = 5
_UNKNOWN = (-1, -1)
_MADE_BY = {
    "bg": "crop",
    "bg_depth": "crop",
    "fg": "mask",
    "fg_mask": "mask",
    "fg_bg": "composite",
    "fg_bg_mask": "composite",
    "depth_fg_bg": "depthmap",
}
_RESIZED = re.compile(r"(fg_bg_mask|depth_fg_bg|fg_bg|bg)_((?!bg$|mask$|depth$)[a-z0-9]+)$")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class VerifyOptions:
    """`workers`: processes. Raises `OptionsError`."""

    workers: int = field(default_factory=default_workers)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise OptionsError(f"--workers must be at least 1, not {self.workers}")


def run(
    workspace: Workspace, options: VerifyOptions, progress: Progress = no_progress
) -> VerifyReport:
    """Check every archive of the workspace; what is wrong is in the report.

    Raises `StageError` only if there is nothing to check.
    """
    report = VerifyReport()
    names = sorted({_SHARD.sub("", path.stem) for path in workspace.root.glob("*.zip")}, key=_order)
    unfinished = sorted(workspace.root.glob("*.zip.partial"))
    if not unfinished and not any(_base(name) for name in names):
        raise StageError(f"{workspace.root} has no archive to verify; run `depthgen mask` first")
    for path in unfinished:
        report.add(path.name, "", "it is unfinished; run the stage that makes it again")
    manifests = _manifests(workspace, report)
    layout, side = _layout(manifests.get("composite")), _side(manifests)
    targets = _targets(workspace, names, manifests, side, report)
    _check_manifests(manifests, targets, set(names), report)
    looks = _look(targets, Checker(targets, layout, side), options.workers, progress, report)
    _check_pairs(targets, looks, layout, _promised(targets, manifests), report)
    _note_new_pictures(workspace, manifests, report)
    return report


def _order(name: str) -> tuple[int, str]:
    base = _base(name)
    return (list(_MADE_BY).index(base) if base else len(_MADE_BY), name)


def _base(name: str) -> str | None:
    """`fg_bg` for `fg_bg` and `fg_bg_small`; None for an archive that is not ours."""
    if name in _MADE_BY:
        return name
    match = _RESIZED.fullmatch(name)
    return match[1] if match else None


def _manifests(workspace: Workspace, report: VerifyReport) -> dict[str, Manifest]:
    found = {}
    for path in sorted(workspace.manifest("any").parent.glob("*.json")):
        try:
            manifest = Manifest.read(path)
        except StageError as error:
            report.add(path.name, "", str(error))
            continue
        if manifest is not None:
            found[path.stem] = manifest
    return found


def _layout(composite: Manifest | None) -> Layout | None:
    """What composite's manifest says was made; None if it does not."""
    values: Any = composite.facts.get("layout", composite.facts) if composite else {}
    try:
        return Layout(
            **{name: int(values[name]) for name in ("n_bg", "n_fg", "placements", "flips")}
        )
    except (KeyError, TypeError, ValueError):
        return None


def _side(manifests: Mapping[str, Manifest]) -> int | None:
    crop, composite = manifests.get("crop"), manifests.get("composite")
    side = composite.facts.get("side") if composite else None
    side = side or (crop.settings.get("size") if crop else None)
    return side if isinstance(side, int) else None


def _targets(
    workspace: Workspace,
    names: Iterable[str],
    manifests: Mapping[str, Manifest],
    side: int | None,
    report: VerifyReport,
) -> dict[str, Target]:
    """The archives that can be opened; the others are findings."""
    targets = {}
    for name in names:
        base = _base(name)
        if base is None:
            continue
        path = workspace.archive(name)
        try:
            paths = files_of(path)
            with Archive(*paths) as archive:
                report.counts[name] = len(archive)
        except ArchiveError as error:
            report.add(name, "", str(error))
            continue
        expected = None if base in ("fg", "fg_mask") else side
        if name != base:
            resized = manifests.get(_resized_by(name))
            expected = resized.settings.get("size") if resized else None
        targets[name] = Target(name, base, tuple(paths), expected)
    return targets


def _resized_by(name: str) -> str:
    """The stage that makes `fg_bg_small`: `resize_fg_bg_small`."""
    return f"resize_{name}"


def _check_manifests(
    manifests: Mapping[str, Manifest],
    targets: Mapping[str, Target],
    names: set[str],
    report: VerifyReport,
) -> None:
    for name, stage in _MADE_BY.items():
        done = stage in manifests and manifests[stage].state == "done"
        promised = name != "bg_depth" or (done and "bg_depth" in manifests[stage].counts)
        if done and promised and name not in names:
            report.add(name, "", f"it is gone; run `depthgen {stage}` again")
    digests: dict[str, str] = {}
    for stage, manifest in manifests.items():
        # What was taken in or measured last is no promise about an archive.
        if stage.startswith(("crawl", "render", "stats")):
            continue
        if manifest.state != "done":
            report.add(f"manifests/{stage}.json", "", "the stage is unfinished; run it again")
        for read, digest in manifest.reads.items():
            name = read.removesuffix(".zip")
            if name not in targets:
                continue
            if name not in digests:
                with Archive(*targets[name].paths) as archive:
                    digests[name] = archive.digest()
            if digests[name] != digest:
                problem = (
                    f"`{command_of(stage)}` read another {read}; run it again with --overwrite"
                )
                report.add(f"manifests/{stage}.json", "", problem)


def _look(
    targets: Mapping[str, Target],
    work: Checker,
    workers: int,
    progress: Progress,
    report: VerifyReport,
) -> dict[str, Look]:
    """Every member of every archive, in pieces."""
    items = [
        (name, start, min(start + _CHUNK, report.counts[name]))
        for name in targets
        for start in range(0, report.counts[name], _CHUNK)
    ]
    parts: dict[str, list[Look]] = {name: [] for name in targets}
    done, total = 0, sum(report.counts.values())
    with ordered_map(work, items, max(1, min(workers, len(items))), _describe) as looks:
        for (name, start, stop), look in zip(items, looks, strict=True):
            for member, problem in look.problems:
                report.add(name, member, problem)
            parts[name].append(look)
            done += stop - start
            progress(done, total)
    return {
        name: Look(
            rows=np.concatenate([look.rows for look in each] or [Look().rows]),
            tables=[bg for look in each for bg in look.tables],
        )
        for name, each in parts.items()
    }


def _describe(item: tuple[str, int, int]) -> str:
    return f"members {item[1]} to {item[2] - 1} of {item[0]}"


def _promised(targets: Mapping[str, Target], manifests: Mapping[str, Manifest]) -> dict[str, int]:
    """How many members a finished stage says it put into an archive of pictures."""
    found = {}
    for name, target in targets.items():
        made_by = _MADE_BY[target.base] if name == target.base else _resized_by(name)
        manifest = manifests.get(made_by)
        if target.base not in PICTURES or manifest is None or manifest.state != "done":
            continue
        count: Any = manifest.counts.get(name)
        if isinstance(count, int) and count >= 0:
            found[name] = count
    return found


def _note_new_pictures(
    workspace: Workspace, manifests: Mapping[str, Manifest], report: VerifyReport
) -> None:
    """The archives are whole, but a user who has just crawled expects the new pictures in them."""
    sources = count_sources(workspace)
    for stage, manifest in manifests.items():
        news = new_pictures(stage, manifest.counts, sources) if manifest.state == "done" else ""
        if news:
            report.notes.append(
                f"{news} in sources since `{stage}` ran; `depthgen {stage} --overwrite` takes them"
            )


def _check_pairs(
    targets: Mapping[str, Target],
    looks: Mapping[str, Look],
    layout: Layout | None,
    promised: Mapping[str, int],
    report: VerifyReport,
) -> None:
    for name, target in targets.items():
        rows = looks[name].rows
        if target.base in PICTURES:
            count = promised.get(name, int(rows[:, 0].max(initial=-1)) + 1)
            _check_numbers(name, rows[:, 0], count, "pictures", report)
        elif layout is not None:
            _check_numbers(name, rows[:, 0], layout.samples, "samples", report)
            _check_makers(name, rows, layout, report)
        if target.base == "fg_bg" and layout is not None:
            tables = np.array(looks[name].tables, np.int64)
            _check_numbers(name, tables, layout.n_bg, "tables of backgrounds", report)
    if layout is None:
        _check_alike([name for name in targets if targets[name].base in SAMPLES], looks, report)
    if {"fg", "fg_mask"} <= targets.keys():
        _check_masks(looks["fg"].rows, looks["fg_mask"].rows, report)


def _check_numbers(
    name: str, numbers: NDArray[np.int64], count: int, what: str, report: VerifyReport
) -> None:
    """Each number from 0 to count − 1 occurs once, and no other."""
    strange = numbers[(numbers < 0) | (numbers >= count)]
    times = np.bincount(numbers[(numbers >= 0) & (numbers < count)], minlength=count)
    for wrong, verb in (
        (np.flatnonzero(times == 0), "lacks"),
        (np.flatnonzero(times > 1), "doubles"),
        (np.unique(strange), f"has, beyond the {count} there should be,"),
    ):
        if wrong.size:
            report.add(name, "", f"it {verb} {wrong.size} {what} ({_few(wrong)})")


def _few(numbers: NDArray[np.int64]) -> str:
    return ", ".join(map(str, numbers[:_FEW].tolist())) + (", …" if numbers.size > _FEW else "")


def _check_makers(name: str, rows: NDArray[np.int64], layout: Layout, report: VerifyReport) -> None:
    """A sample's index says which background and cut-out its name must have."""
    index, bg, fg = rows[:, 0], rows[:, 1], rows[:, 2]
    wrong = (bg != index // layout.per_background) | (
        fg != index % layout.per_background // layout.per_pair
    )
    if wrong.any():
        report.add(
            name,
            "",
            f"{wrong.sum()} samples have another background or cut-out in their name than their "
            f"index says ({_few(index[wrong])})",
        )


def _check_alike(names: list[str], looks: Mapping[str, Look], report: VerifyReport) -> None:
    """Without a manifest: the archives must at least hold the same samples."""
    if not names:
        return
    first = {tuple(row) for row in looks[names[0]].rows[:, :3].tolist()}
    for name in names[1:]:
        other = {tuple(row) for row in looks[name].rows[:, :3].tolist()}
        different = np.array(sorted(index for index, _, _ in first ^ other), np.int64)
        if different.size:
            problem = f"{different.size} samples are not in both it and {names[0]}"
            report.add(name, "", f"{problem} ({_few(different)})")


def _check_masks(
    cutouts: NDArray[np.int64], masks: NDArray[np.int64], report: VerifyReport
) -> None:
    """Every cut-out has a mask of its own size."""
    shapes, others = (
        {number: (height, width) for number, _, _, height, width in rows.tolist()}
        for rows in (cutouts, masks)
    )
    wrong = [
        number for number in shapes.keys() | others if shapes.get(number) != others.get(number)
    ]
    if wrong:
        few = _few(np.array(sorted(wrong), np.int64))
        report.add("fg_mask", "", f"{len(wrong)} cut-outs have no mask of their size ({few})")
