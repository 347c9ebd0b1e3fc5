"""The stage `stats`: means, standard deviations and histograms of whole archives.

The sums are of integers, so they are exact and do not depend on who added what first. The one rule:
the work on a picture is its decoding; what comes after must not be noticed beside it.

Two deviations are given. `std` is over all pixels. `std_of_images` is the mean over the pictures of
each one's own unbiased deviation: what the original published, a smaller number.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from depthgen import images
from depthgen.archive import Archive, ArchiveError, files_of
from depthgen.errors import OptionsError, StageError
from depthgen.files import write_atomically
from depthgen.stage import (
    Manifest,
    Progress,
    Summary,
    archive_digest,
    no_progress,
    open_adding_stage,
)
from depthgen.workers import default_workers, ordered_map
from depthgen.workspace import DEPTH_INFO_MEMBER, Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# The archives there are figures for, and the command that makes each.
ARCHIVES = {
    "bg": "crop",
    "fg_bg": "composite",
    "fg_bg_mask": "composite",
    "depth_fg_bg": "depthmap",
}
HISTOGRAM_EVERY = 16

_CHUNK = 256
_PICTURES = (".jpg", ".png", ".npy", ".jpeg")
_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
_BITS = {"uint8": 8, "uint16": 16, "float32": 32}


@dataclass(frozen=True)
class StatsOptions:
    """What to measure. Raises `OptionsError` where a value makes no sense.

    archives: names out of `ARCHIVES`; None takes those that exist. suffix: "small" for the archives
    `<name>_small.zip`. workers: processes.
    """

    archives: tuple[str, ...] | None = None
    suffix: str = ""
    workers: int = field(default_factory=default_workers)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise OptionsError(f"--workers must be at least 1, not {self.workers}")
        for name in self.archives or ():
            if name not in ARCHIVES:
                raise OptionsError(f"no stats for {name!r}; choose from {', '.join(ARCHIVES)}")


@dataclass(frozen=True)
class ArchiveStats:
    """What is known of one archive; values in [0, 1], one a channel.

    digest: of the archive measured. bits: 8 or 16; 32 for float members, whose values are as they
    stand. pixels: of all pictures together. quantity: what depth values are. histogram: of every
    16th member, counts of (channels, 256) equal steps.
    """

    digest: str
    pictures: int
    pixels: int
    bits: int
    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    std_of_images: tuple[float, ...]
    histogram: tuple[tuple[int, ...], ...]
    quantity: str = ""


def read_stats(workspace: Workspace) -> dict[str, ArchiveStats]:
    """What the last run measured, by archive; empty if there was none. Raises `StageError`."""
    try:
        found = json.loads(workspace.stats.read_text("utf-8"))["archives"]
        return {name: ArchiveStats(**_tuples(values)) for name, values in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StageError(f"{workspace.stats} is damaged ({error}); delete it") from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
    return plain | {"histogram": tuple(tuple(row) for row in values["histogram"])}


def picture_path(workspace: Workspace) -> Path:
    """Where the histograms are drawn: `stats.png` beside `stats.json`."""
    return workspace.stats.with_suffix(".png")


def run(workspace: Workspace, options: StatsOptions, progress: Progress = no_progress) -> Summary:
    """Measure the archives, write `stats.json` and draw `stats.png`.

    An archive that has not changed since it was measured is not measured again; the figures of one
    that is gone or has changed are dropped.
    Raises `StageError` if there is none, `ImageError` for a member that cannot be read.
    """
    digests = _digests(workspace, options)
    settings = {"archives": sorted(digests)}
    outputs = (workspace.stats, picture_path(workspace))
    with open_adding_stage(workspace, "stats", settings, outputs) as stage:
        earlier = read_stats(workspace)
        known = _current(workspace, earlier, digests)
        fresh = {name for name in digests if _is_fresh(known.get(name), digests[name])}
        missing = {name: digest for name, digest in digests.items() if name not in fresh}
        measured = _measure_all(workspace, missing, options.workers, progress)
        both = known | measured
        if both != earlier or not all(path.exists() for path in outputs):
            # The picture first: once the figures are there, nothing is missing.
            write_atomically(outputs[1], draw(both))
            _write(workspace, both)
        stage.manifest.reads = {f"{name}.zip": digest for name, digest in digests.items()}
        summary = stage.finish({name: both[name].pictures for name in digests})
    return summary if measured else Summary("stats", summary.counts, outputs, already_done=True)


def _current(
    workspace: Workspace, known: Mapping[str, ArchiveStats], digests: Mapping[str, str]
) -> dict[str, ArchiveStats]:
    """The figures of archives that are still what was measured; `digests` knows some already."""
    found = {}
    for name, stats in known.items():
        try:
            digest = digests.get(name) or archive_digest(workspace, name, "stats")
        except (ArchiveError, StageError):  # it is gone, or cannot be opened any more
            continue
        if stats.digest == digest:
            found[name] = stats
    return found


def _is_fresh(known: ArchiveStats | None, digest: str) -> bool:
    return known is not None and known.digest == digest


def table(workspace: Workspace) -> str:
    """Figures of the archives that the last run was about, as text: a line a channel."""
    last = Manifest.read(workspace.manifest("stats"))
    names = last.settings.get("archives", ()) if last else ()
    lines = ["archive             | pictures | channel | mean   | std    | std of images"]
    for name, stats in read_stats(workspace).items():
        if name not in names:
            continue
        rows = zip(stats.channels, stats.mean, stats.std, stats.std_of_images, strict=True)
        for channel, mean, std, std_of_images in rows:
            lines.append(
                f"{name:19} | {stats.pictures:8} | {channel:7} | {mean:.4f} | {std:.4f} "
                f"| {std_of_images:.4f}"
            )
    return "\n".join(lines)


def _digests(workspace: Workspace, options: StatsOptions) -> dict[str, str]:
    """A digest of each archive to measure, by its name with the suffix."""
    tail = f"_{options.suffix}" if options.suffix else ""
    found = {}
    for name in options.archives or ARCHIVES:
        if files_of(workspace.archive(name + tail)) or options.archives is not None:
            made_by = f"resize --suffix {options.suffix}" if tail else ARCHIVES[name]
            found[name + tail] = archive_digest(workspace, name + tail, made_by)
    if not found:
        raise StageError(
            f"{workspace.root} has no {'' if not tail else tail[1:] + ' '}archive to measure; "
            f"run `depthgen {'resize' if tail else 'composite'}` first"
        )
    return found


def _measure_all(
    workspace: Workspace, digests: Mapping[str, str], workers: int, progress: Progress
) -> dict[str, ArchiveStats]:
    if not digests:
        return {}
    archives = {name: Archive.open(workspace.archive(name)) for name in digests}
    items = [
        (name, start, min(start + _CHUNK, len(archive)))
        for name, archive in archives.items()
        for start in range(0, len(archive), _CHUNK)
    ]
    totals = {name: _Total() for name in archives}
    done, total = 0, sum(map(len, archives.values()))
    work = Measure(archives)
    with ordered_map(work, items, max(1, min(workers, len(items))), _describe) as parts:
        for (name, start, stop), part in zip(items, parts, strict=True):
            totals[name].add(part, f"{workspace.archive(name)}")
            done += stop - start
            progress(done, total)
    return {
        name: totals[name].stats(str(workspace.archive(name)), digest, _quantity(archives[name]))
        for name, digest in digests.items()
    }


def _describe(item: tuple[str, int, int]) -> str:
    return f"members {item[1]} to {item[2] - 1} of {item[0]}"


def _quantity(archive: Archive) -> str:
    if DEPTH_INFO_MEMBER not in archive:
        return ""
    try:
        return str(json.loads(bytes(archive[DEPTH_INFO_MEMBER]))["quantity"])
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{archive.paths[0]}: {DEPTH_INFO_MEMBER} is damaged: {error}") from error


@dataclass(frozen=True)
class Part:
    """Figures of a few pictures: sums (C,) and sums of squares (C,) as exact integers where the
    pictures are, and `deviations` (C,), the sum of the pictures' own unbiased deviations.
    """

    pictures: int
    pixels: int
    dtype: str
    sums: NDArray[Any]
    squares: NDArray[Any]
    deviations: NDArray[np.float64]
    histogram: NDArray[np.int64]


class Measure:
    """The work on (archive, first member, end); None for a piece without a picture."""

    def __init__(self, archives: Mapping[str, Archive]) -> None:
        self._archives = archives

    def __call__(self, item: tuple[str, int, int]) -> Part | None:
        name, start, stop = item
        archive, moments = self._archives[name], images.Moments()
        depth, mode = name.startswith("depth"), "L" if "mask" in name else "RGB"
        rows: list[tuple[int, list[float], list[float]]] = []
        histogram: NDArray[np.int64] | None = None
        dtypes = set()
        for index in range(start, stop):
            member = archive.name(index)
            if not member.endswith(_PICTURES):
                continue
            if depth:
                pixels = images.decode_depth(archive[index], name=member)
            else:
                pixels = images.decode(archive[index], mode, name=member)  # type: ignore[arg-type]
            dtypes.add(pixels.dtype)
            rows.append((pixels.shape[0] * pixels.shape[1], *moments(pixels)))
            if index % HISTOGRAM_EVERY == 0:
                counts = images.histogram(_in_steps(pixels))
                histogram = counts if histogram is None else histogram + counts
        if not rows:
            return None
        if len(dtypes) > 1:
            raise StageError(f"{archive.paths[0]} mixes depths of {len(dtypes)} kinds")
        return _part(rows, dtypes.pop(), histogram)


def _in_steps(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Values in 256 equal steps."""
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype == np.float32:
        return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return pixels


def _part(
    rows: Sequence[tuple[int, list[float], list[float]]],
    dtype: np.dtype[Any],
    histogram: NDArray[np.int64] | None,
) -> Part:
    pixels = np.array([row[0] for row in rows], np.float64)[:, None]
    sums = np.array([row[1] for row in rows], np.float64)
    squares = np.array([row[2] for row in rows], np.float64)
    spread = np.maximum(squares - sums * sums / pixels, 0)
    deviations = np.sqrt(spread / np.maximum(pixels - 1, 1)).sum(0)
    if np.issubdtype(dtype, np.integer):
        sums, squares = sums.astype(np.int64), squares.astype(np.int64)
    if histogram is None:
        histogram = np.zeros((sums.shape[1], 256), np.int64)
    return Part(
        len(rows), int(pixels.sum()), dtype.name, sums.sum(0), squares.sum(0), deviations, histogram
    )


class _Total:
    """Adds parts up, integers as Python's, which do not overflow."""

    def __init__(self) -> None:
        self.dtype = ""
        self.pictures = self.pixels = 0
        self.sums: list[float] = []
        self.squares: list[float] = []
        self.deviations: NDArray[np.float64] | float = 0.0
        self.histogram: NDArray[np.int64] | int = 0

    def add(self, part: Part | None, path: str) -> None:
        if part is None:
            return
        if self.dtype not in ("", part.dtype):
            raise StageError(f"{path} mixes {self.dtype} and {part.dtype}; make it anew")
        self.dtype = part.dtype
        self.pictures += part.pictures
        self.pixels += part.pixels
        zeros: list[float] = [0] * len(part.sums)
        self.sums = _added(self.sums or zeros, part.sums)
        self.squares = _added(self.squares or zeros, part.squares)
        self.deviations = self.deviations + part.deviations
        self.histogram = self.histogram + part.histogram

    def stats(self, path: str, digest: str, quantity: str) -> ArchiveStats:
        if not self.pictures:
            raise StageError(f"{path} holds no picture; make it anew with --overwrite")
        bits, count = _BITS[self.dtype], self.pixels
        scale = 1.0 if bits == 32 else float(2**bits - 1)
        # count² · variance, in integers: no two large numbers nearly cancel after rounding.
        spreads = [
            max(count * square - total * total, 0)
            for total, square in zip(self.sums, self.squares, strict=True)
        ]
        return ArchiveStats(
            digest=digest,
            pictures=self.pictures,
            pixels=count,
            bits=bits,
            channels=_CHANNELS[len(self.sums)],
            mean=tuple(total / count / scale for total in self.sums),
            std=tuple(math.sqrt(spread / count**2) / scale for spread in spreads),
            std_of_images=tuple(np.asarray(self.deviations / self.pictures / scale).tolist()),
            histogram=tuple(tuple(row) for row in np.asarray(self.histogram).tolist()),
            quantity=quantity,
        )


def _added(totals: Sequence[float], more: NDArray[Any]) -> list[float]:
    return [total + each for total, each in zip(totals, more.tolist(), strict=True)]


def _write(workspace: Workspace, stats: Mapping[str, ArchiveStats]) -> None:
    content = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "histogram_every": HISTOGRAM_EVERY,
        "archives": {name: asdict(each) for name, each in stats.items()},
    }
    write_atomically(workspace.stats, (json.dumps(content, indent=1) + "\n").encode("utf-8"))


def draw(stats: Mapping[str, ArchiveStats]) -> bytes:
    """The histograms of all archives as one PNG."""
    import io

    from matplotlib.figure import Figure  # late: it takes longer to load than small data to measure

    figure = Figure(figsize=(9, 2.2 * len(stats)), layout="constrained")
    axes = figure.subplots(len(stats), squeeze=False)[:, 0]
    steps = np.arange(256) / 255
    for axis, (name, each) in zip(axes, stats.items(), strict=True):
        for channel, counts in zip(each.channels, each.histogram, strict=True):
            share = np.array(counts) / max(1, sum(counts))
            axis.step(steps, share, where="mid", color="black" if channel == "grey" else channel)
        means = ", ".join(f"{value:.4f}" for value in each.mean)
        axis.set_title(f"{name}: {each.pictures} pictures, mean {means}", fontsize=9, loc="left")
        axis.set_yscale("log")
        axis.set_xlim(-0.02, 1.02)  # the bars of a mask lie at the very ends
        axis.set_ylabel("share of pixels", fontsize=8)
    axes[-1].set_xlabel("value")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
