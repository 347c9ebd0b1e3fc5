"""Labelling with `layered`, in processes: over the backgrounds' own depth, or a network's.

The one rule: a unit is on the disk before the next one is counted as done.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from zlib import crc32

from depthgen import images
from depthgen.archive import Archive, Entry, files_of
from depthgen.depth.choose import weights_typed
from depthgen.depth.layered import LayeredLabeller
from depthgen.depth.plan import NETWORK_DEPTH, Forecast, outputs_for, shards_of
from depthgen.errors import StageError
from depthgen.produce import Part, produce
from depthgen.stage import archive_digest, refuse_other_runs
from depthgen.workspace import DEPTH_INFO_MEMBER, parse_member, parse_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from depthgen.depth.background_depth import BackgroundDepth
    from depthgen.depth.choose import Network
    from depthgen.depth.quantity import Quantity
    from depthgen.depth.run import DepthmapOptions
    from depthgen.stage import Progress
    from depthgen.workspace import Workspace

OWN_DEPTH = "bg_depth"
_FORECAST_S = 2.0

# (shard, first member, one past the last), or None for the member that says what the labels are.
Unit = tuple[int, int, int] | None


def plan_layered(
    workspace: Workspace,
    options: DepthmapOptions,
    network: Network | None,
    tell: Callable[[str], None],
) -> LayeredPlan:
    """network: what computes the backgrounds' depth first; None where they have their own.

    Raises `OptionsError` if that network's depth has no unit, and `StageError` if the first
    composite is of another size than its background: here, before older labels are deleted.
    """
    shards = shards_of(workspace, "fg_bg_mask")
    with Archive(shards[0]) as masks:
        name = masks.name(0)
        height, side = images.decode(masks[0], "L", name=name).shape
    _refuse_other_backgrounds(workspace, name, (side, height))
    settings: dict[str, Any] = {"model": "layered", "bits": options.bits}
    facts: dict[str, Any] = {}
    over, source, backgrounds = "", OWN_DEPTH, None
    if network is not None:
        from depthgen.depth.background_depth import load_background_network

        backgrounds = load_background_network(workspace, options, network, tell)
        over, source = backgrounds.estimator.model, NETWORK_DEPTH
        settings |= backgrounds.settings()
        facts |= weights_typed(network, options.weights)
    depth = workspace.archive(source)
    labeller = LayeredLabeller(depth, tuple(shards), options.bits, side, over)
    if backgrounds is None:
        replace(labeller)((0, 0, 1))  # a copy, for it keeps open what it has read
    return LayeredPlan(workspace, options, labeller, source, settings, backgrounds, facts)


def _refuse_other_backgrounds(workspace: Workspace, mask: str, size: tuple[int, int]) -> None:
    """Refuse composites that were made before the backgrounds were cropped to another size."""
    member = parse_member(mask)
    assert member is not None, "`prepare` has looked at the names"
    path = workspace.archive("bg")
    if not files_of(path):
        return  # depth without pictures is enough for labels
    with Archive.open(path) as backgrounds:
        for at, name in enumerate(backgrounds.names):
            if parse_picture(name) != ("bg", member.bg):
                continue
            width, height = images.size_of(backgrounds[at], name=name)
            if (width, height) != size:
                raise StageError(
                    f"{name} in {path} is {width} × {height} now and {mask} {size[0]} × {size[1]}; "
                    "make composites of these backgrounds with `depthgen composite --overwrite`"
                )
            return


@dataclass(frozen=True)
class LayeredPlan:
    """A `Plan`; `plan_layered` makes it."""

    workspace: Workspace
    options: DepthmapOptions
    labeller: LayeredLabeller
    source: str
    settings: Mapping[str, Any]
    backgrounds: BackgroundDepth | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quantity(self) -> Quantity:
        quantity = self.labeller.quantity()
        if self.backgrounds is None:
            return quantity
        network = self.backgrounds.estimator
        return replace(quantity, weights=network.digest, precision=network.precision)

    @property
    def outputs(self) -> list[Path]:
        return outputs_for(list(self.labeller.shards), "fg_bg_mask")

    def reads(self) -> Mapping[str, str]:
        made_by = "crop" if self.source == OWN_DEPTH else "depthmap"
        return {
            **self._reads_masks(),
            f"{self.source}.zip": archive_digest(self.workspace, self.source, made_by),
        }

    def _reads_masks(self) -> dict[str, str]:
        return {"fg_bg_mask.zip": archive_digest(self.workspace, "fg_bg_mask", "composite")}

    def text(self) -> str:
        return f"{self.quantity.model}, {self.options.workers} processes"

    def begin(self) -> None:
        """Let the network compute the backgrounds' depth, if there is one."""
        if self.backgrounds is None:
            return
        if not self.options.overwrite:
            # What the labels' own manifest refuses is told before the network takes its minutes.
            reads, outputs = self._reads_masks(), self.outputs
            refuse_other_runs(self.workspace, "depthmap", self.settings, reads, outputs)
        self.backgrounds.write({"bits": self.options.bits, **self.facts})

    def label(self, progress: Progress) -> int:
        pairs = zip(self.labeller.shards, self.outputs, strict=True)
        parts = [
            _part(number, shard, output, self.options.batch)
            for number, (shard, output) in enumerate(pairs)
        ]
        work = _Work(self.labeller, json.dumps(asdict(self.quantity), indent=2) + "\n")
        produce(parts, work, self.options.workers, _describe, progress, commit_each=True)
        return sum(sum(part.samples) for part in parts)

    def forecast(self) -> Forecast:
        samples = 0
        for shard in self.labeller.shards:
            with Archive(shard) as archive:
                samples += len(archive)
        if self.backgrounds is None:
            first, each = 0.0, _seconds_each(self.labeller)
        else:
            with TemporaryDirectory() as folder:
                depth = Path(folder) / "bg_depth.zip"
                first = self.backgrounds.sample(depth)
                each = _seconds_each(replace(self.labeller, depth=depth))
        return Forecast(samples, first + samples * each / self.options.workers)


def _seconds_each(labeller: LayeredLabeller) -> float:
    """Seconds a label in one process, from a few of the first background's."""
    with Archive(labeller.shards[0]) as archive:
        numbers = [member.bg for member in map(parse_member, archive.names) if member]
    first = numbers.count(numbers[0])
    began, done = time.perf_counter(), 0
    while done < first and time.perf_counter() - began < _FORECAST_S:
        stop = min(done + 50, first)
        labeller((0, done, stop))
        done = stop
    return (time.perf_counter() - began) / done


def _part(number: int, shard: Path, output: Path, batch: int) -> Part:
    with Archive(shard) as archive:
        count = len(archive)
    units: list[Unit] = [
        (number, start, min(start + batch, count)) for start in range(0, count, batch)
    ]
    samples = [stop - start for _, start, stop in filter(None, units)]
    if number:
        return Part([output], units, [samples], samples)
    # The first file says what all of them hold.
    return Part([output], [None, *units], [[1, *samples]], [0, *samples])


def _describe(unit: Unit) -> str:
    return f"samples {unit[1]} to {unit[2] - 1} of file {unit[0]}" if unit else "the label info"


@dataclass(frozen=True)
class _Work:
    labeller: LayeredLabeller
    info: str

    def __call__(self, unit: Unit) -> Sequence[Sequence[Entry]]:
        if unit is None:
            data = self.info.encode()
            return [[(DEPTH_INFO_MEMBER, data, crc32(data))]]
        return self.labeller(unit)
