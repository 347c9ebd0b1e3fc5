"""How far two label archives of the same composites agree: one network's with another's, or with
exact depth.

The one rule: samples are paired by what their names say, and nothing is compared that has another
unit; where a label is known up to scale and shift only, that is all that is fitted.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from depthgen.archive import Archive, files_of
from depthgen.depth.agreement_sums import MEASURES, REGIONS, Comparison, Measure, Sums, compare
from depthgen.depth.quantity import Quantity
from depthgen.errors import OptionsError, StageError
from depthgen.files import write_atomically
from depthgen.stage import Progress, no_progress
from depthgen.workers import default_workers, ordered_map
from depthgen.workspace import DEPTH_INFO_MEMBER, Member, parse_member, sample_member

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_CHUNK = 64
_DRAWN_IN_HISTOGRAM = 2000
_ROOTS = ("rmse", "ssi_rmse")


@dataclass(frozen=True)
class AgreementOptions:
    """How to compare. Raises `OptionsError` where a value makes no sense.

    picture: where to draw samples and the histogram, a PNG; None draws nothing. worst: how many of
    the worst samples are named and drawn. workers: processes.
    """

    picture: Path | None = None
    worst: int = 3
    workers: int = field(default_factory=default_workers)

    def __post_init__(self) -> None:
        for name, value in (("worst", self.worst), ("workers", self.workers)):
            if value < 1:
                raise OptionsError(f"--{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Figures:
    """Of one region, over all its pixels; the second label, b, is the truth, the first is a.

    share: of all pixels. absrel: mean |a − b| / b. rmse: in metres. log10: mean of
    |log10 a − log10 b|. delta1 to delta3: share with max(a / b, b / a) < 1.25, 1.25², 1.25³
    (Eigen et al. 2014). ssi_rmse: root mean square of s · a + t − b, with s and t by least squares
    for each picture (Ranftl et al. 2020), in the unit of the comparison. NaN where there is nothing
    to measure.
    """

    share: float
    absrel: float
    rmse: float
    log10: float
    delta1: float
    delta2: float
    delta3: float
    ssi_rmse: float


@dataclass(frozen=True)
class Scored:
    """A sample by its label's name, and its score: AbsRel, or the fitted RMSE without a unit."""

    name: str
    score: float


@dataclass(frozen=True)
class Agreement:
    """What came of it. regions: figures by region; median, worst: samples to look at."""

    first: Quantity
    second: Quantity
    samples: int
    unit: str
    note: str
    regions: dict[str, Figures]
    median: Scored
    worst: tuple[Scored, ...]

    def table(self) -> str:
        """The figures as text: a line a region."""
        lines = [
            f"{self.samples} samples; {_described(self.first)} against {_described(self.second)}",
            "region  | pixels | AbsRel | RMSE m | log10  | δ<1.25 | δ<1.25² | δ<1.25³ "
            f"| fitted RMSE, {self.unit}",
        ]
        for name, each in self.regions.items():
            cells = (f"{each.share:6.1%}", *map(_four, (each.absrel, each.rmse, each.log10)))
            deltas = (_percent(each.delta1, 6), _percent(each.delta2, 7), _percent(each.delta3, 7))
            lines.append(" | ".join((f"{name:7}", *cells, *deltas, _four(each.ssi_rmse))))
        lines += [self.note] if self.note else []
        score = "fitted RMSE" if self.note else "AbsRel"
        lines.append(f"median sample {self.median.name}: {score} {self.median.score:.4f}")
        lines += [f"worst sample  {each.name}: {each.score:.4f}" for each in self.worst]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON takes it; null where there is nothing to measure."""
        content = asdict(self)
        for region in content["regions"].values():
            region.update({key: None for key, value in region.items() if math.isnan(value)})
        return content


def _described(quantity: Quantity) -> str:
    kind = "float32" if quantity.bits == 32 else f"{quantity.bits} bits"
    return f"{quantity.model} ({quantity.quantity}, {kind})"


def _four(value: float) -> str:
    return "     –" if math.isnan(value) else f"{value:6.4f}"


def _percent(value: float, width: int) -> str:
    return f"{'–':>{width}}" if math.isnan(value) else f"{value:{width}.1%}"


def run(
    first: Path,
    second: Path,
    masks: Path | None,
    options: AgreementOptions,
    progress: Progress = no_progress,
) -> Agreement:
    """Compare the labels in `first` with the truth in `second`, pixel by pixel.

    masks: fg_bg_mask.zip of the same composites; None measures pictures as a whole.
    Any of them may be a set of shards. Raises `StageError` if one is missing, does not say what
    its numbers are, or holds other samples or other sizes; `ImageError` for a damaged member.
    """
    archives = (_open(first, "depthmap"), _open(second, "depthmap"))
    mask_archive = _open(masks, "composite") if masks is not None else None
    quantities = (_quantity(archives[0]), _quantity(archives[1]))
    comparison = compare(*quantities)
    rows, members = _paired(archives, mask_archive)
    work = Measure(archives, mask_archive, comparison, max(1, len(rows) // _DRAWN_IN_HISTOGRAM))
    total = _measured(work, rows, members, options.workers, progress)
    order = np.argsort(-total.scores, kind="stable")
    shown = [int(order[len(order) // 2]), *order[: options.worst].tolist()]
    scored = [Scored(archives[0].name(int(rows[k, 0])), float(total.scores[k])) for k in shown]
    names = REGIONS if mask_archive is not None else ("all",)
    agreement = Agreement(
        *quantities,
        samples=len(rows),
        unit=comparison.unit,
        note=comparison.note,
        regions={name: _figures(total, REGIONS[name], comparison) for name in names},
        median=scored[0],
        worst=tuple(scored[1:]),
    )
    if options.picture is not None:
        from depthgen.depth.agreement_picture import draw  # late: it loads matplotlib

        pairs = [(int(rows[k, 0]), int(rows[k, 1])) for k in shown]
        write_atomically(options.picture, draw(agreement, archives, pairs, comparison, total))
    return agreement


def _open(path: Path, made_by: str) -> Archive:
    if not files_of(path):
        raise StageError(f"{path} is missing; run `depthgen {made_by}` first, or give another path")
    return Archive.open(path)


def _quantity(archive: Archive) -> Quantity:
    """What the archive's numbers are; members of a later version's are passed over."""
    path = archive.paths[0]
    if DEPTH_INFO_MEMBER not in archive:
        raise StageError(
            f"{path} has no {DEPTH_INFO_MEMBER}, so its numbers may mean anything; label its "
            "composites with `depthgen depthmap`"
        )
    try:
        found = json.loads(bytes(archive[DEPTH_INFO_MEMBER]))
        known = {each.name for each in fields(Quantity)}
        quantity = Quantity(**{key: value for key, value in found.items() if key in known})
        if quantity.quantity == "depth_m" and not float(quantity.scale_m or 0) > 0:
            raise ValueError(f"depth_m with a scale_m of {quantity.scale_m}")
    except (ValueError, TypeError, AttributeError) as error:
        raise StageError(
            f"{path}: {DEPTH_INFO_MEMBER} is damaged ({error}); make the labels anew with "
            "`depthgen depthmap --overwrite`"
        ) from error
    return quantity


def _paired(
    archives: tuple[Archive, Archive], masks: Archive | None
) -> tuple[NDArray[np.int64], list[Member]]:
    """Indices (n, 3) of first, second and mask (0 without masks), by sample, and the samples."""
    firsts, seconds = _samples(archives[0]), _samples(archives[1])
    if firsts.keys() != seconds.keys():
        lone = min(firsts.keys() ^ seconds.keys(), key=lambda member: member.index)
        having, lacking = archives if lone in firsts else archives[::-1]
        raise StageError(
            f"{sample_member('depth_fg_bg', lone, '')} is in {having.paths[0]} and not in "
            f"{lacking.paths[0]}: they hold labels of other composites; run `depthgen depthmap` "
            "for both on the same fg_bg.zip"
        )
    whites = _samples(masks) if masks is not None else dict.fromkeys(firsts, 0)
    members = sorted(firsts, key=lambda member: member.index)
    bare = next((member for member in members if member not in whites), None)
    if masks is not None and bare is not None:
        raise StageError(
            f"{masks.paths[0]} has no {sample_member('fg_bg_mask', bare, '')}; give the masks that "
            "`depthgen composite` made with these composites"
        )
    rows = [(firsts[member], seconds[member], whites[member]) for member in members]
    return np.array(rows, np.int64).reshape(-1, 3), members


def _samples(archive: Archive) -> dict[Member, int]:
    found: dict[Member, int] = {}
    for index, name in enumerate(archive.names):
        member = parse_member(name)
        if member is not None and found.setdefault(member, index) != index:
            raise StageError(f"{archive.paths[0]} has two members of the sample {name}; keep one")
    if not found:
        raise StageError(f"{archive.paths[0]} holds no sample; give an archive of samples")
    return found


def _measured(
    work: Measure,
    rows: NDArray[np.int64],
    members: list[Member],
    workers: int,
    progress: Progress,
) -> Sums:
    """All samples' sums; parts are added in order, so that workers do not change a bit."""
    items = [(rows[start : start + _CHUNK], start) for start in range(0, len(rows), _CHUNK)]

    def describe(item: tuple[NDArray[np.int64], int]) -> str:
        last = members[item[1] + len(item[0]) - 1]
        return f"samples {members[item[1]].index} to {last.index}"

    def told(parts: Iterator[Sums]) -> Iterator[Sums]:
        done = 0
        for part in parts:
            done += len(part.scores)
            progress(done, len(rows))
            yield part

    with ordered_map(work, items, max(1, min(workers, len(items))), describe) as parts:
        found = list(told(parts))
    return Sums(
        np.sum([part.pixels for part in found], axis=0),
        np.sum([part.sums for part in found], axis=0),
        np.concatenate([part.scores for part in found]),
        np.sum([part.histogram for part in found], axis=0),
    )


def _figures(total: Sums, zones: tuple[int, ...], comparison: Comparison) -> Figures:
    pixels = int(total.pixels[list(zones)].sum())
    share = pixels / int(total.pixels.sum())
    found = dict.fromkeys(MEASURES, math.nan)
    for row, measure in enumerate(MEASURES):
        if pixels and (comparison.metric or measure == "ssi_rmse"):
            mean = float(total.sums[row, list(zones)].sum()) / pixels
            found[measure] = math.sqrt(mean) if measure in _ROOTS else mean
    return Figures(share, **found)
