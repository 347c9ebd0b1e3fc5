"""Labelling with a network: loaded, measured, and remembered.

The one rule: what `auto` has found stands in the manifest; a run that goes on does not measure
again, for another forward batch could round a pixel the other way.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from depthgen.archive import Archive
from depthgen.depth.choose import weights_typed
from depthgen.depth.forward import NotFiniteError
from depthgen.depth.pipeline import Labelling, not_finite, read_pictures, samples_of
from depthgen.depth.plan import Forecast, outputs_for, shards_of
from depthgen.depth.quantity import FAR_M, Quantity
from depthgen.depth.tune import choose_batch, choose_precision, measure_full_scale
from depthgen.errors import OptionsError, StageError
from depthgen.stage import Manifest, archive_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from depthgen.depth.choose import Network
    from depthgen.depth.estimator import Estimator
    from depthgen.depth.pipeline import Sample
    from depthgen.depth.run import DepthmapOptions
    from depthgen.stage import Progress
    from depthgen.workspace import Workspace

# Pictures that scale, precision and batch are measured on.
_MEASURED_ON = {"cpu": 6, "cuda": 32, "mps": 16}
_FORECAST_S = 3.0
# PyTorch allocates on more: `meta` holds no values, and `cpu:3` is no other CPU.
_DEVICES = re.compile(r"cpu|mps|cuda(:\d+)?", re.ASCII)


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one. Raises `OptionsError`."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    refused = OptionsError(
        f"--device {name} is not to be had here; use cpu, or see `depthgen doctor`"
    )
    if not _DEVICES.fullmatch(name):
        raise refused
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise refused from error
    return device


def plan_network(
    workspace: Workspace,
    options: DepthmapOptions,
    network: Network,
    tell: Callable[[str], None],
) -> NetworkPlan:
    """Load the network and measure what is left open, on a few of the composites."""
    if options.precision != "auto" and not network.has_precisions:
        raise OptionsError(f"--model {network.model} computes as its file says; no --precision")
    device = device_of(options.device)
    for sentence in network.announce():
        tell(sentence)
    shards = shards_of(workspace, "fg_bg")
    names, pictures = _some_pictures(shards, _MEASURED_ON.get(device.type, 6))
    earlier = _decided(workspace, options, network)
    try:
        estimator, notes = _load(network, options, device, pictures, earlier)
        batch = options.forward_batch or earlier.get("forward_batch") or 0
        scale = earlier.get("full_scale") or measure_full_scale(estimator, pictures, batch)
        if not batch:
            batch, rates = choose_batch(estimator, scale, pictures)
            notes["forward_batches"] = {
                str(each.batch): round(each.per_second, 2) for each in rates
            }
    except NotFiniteError as error:
        name = names[error.position % len(names)]
        raise not_finite(error, name, kept=False) from error
    quantity = Quantity(
        quantity=estimator.quantity,
        scale_m=FAR_M if estimator.quantity == "depth_m" else None,
        bits=options.bits,
        model=estimator.model,
        size=pictures.shape[2],
        full_scale=scale,
        weights=estimator.digest,
        precision=estimator.precision,
    )
    labelling = Labelling(estimator, quantity, batch, options.batch, options.workers)
    notes |= weights_typed(network, options.weights)
    return NetworkPlan(workspace, shards, labelling, network.asked, network.given, notes)


def _decided(workspace: Workspace, options: DepthmapOptions, network: Network) -> Mapping[str, Any]:
    """What an earlier run that is to be gone on with has found; nothing if it is to be redone, or
    if it was another network's."""
    manifest = None if options.overwrite else Manifest.read(workspace.manifest("depthmap"))
    if manifest is None or manifest.settings.get("model") != network.asked:
        return {}
    return manifest.settings


def _load(
    network: Network,
    options: DepthmapOptions,
    device: torch.device,
    pictures: NDArray[np.uint8],
    earlier: Mapping[str, Any],
) -> tuple[Estimator, dict[str, Any]]:
    """The estimator in the precision asked for, decided before or measured now; the figures."""
    wanted: Any = options.precision if options.precision != "auto" else earlier.get("precision")
    if not network.has_precisions:
        return network.load(device, "float32"), {}
    if wanted:
        return network.load(device, wanted), {}
    estimator, compared = choose_precision(
        lambda precision: network.load(device, precision), device, pictures
    )
    return estimator, {
        "precisions": {
            each.precision: {
                "within_one_level": round(each.within_one, 5),
                "within_two_levels": round(each.within_two, 5),
                "seconds_a_picture": round(each.seconds, 4),
            }
            for each in compared
        }
    }


def _some_pictures(shards: list[Path], count: int) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and (count, H, W, 3) pictures of composites, evenly spread over the first file."""
    with Archive(shards[0]) as archive:
        samples = samples_of(archive)
        if not samples:
            raise StageError(f"{shards[0]} holds no composites; run `depthgen composite` first")
        chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)
        some = [samples[at] for at in chosen]
        return [archive.name(each.position) for each in some], read_pictures(archive, some)


@dataclass(frozen=True)
class NetworkPlan:
    """A `Plan`; `plan_network` makes it."""

    workspace: Workspace
    shards: list[Path]
    labelling: Labelling
    asked: str
    given: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def quantity(self) -> Quantity:
        return self.labelling.quantity

    @property
    def settings(self) -> Mapping[str, Any]:
        quantity = self.quantity
        return {
            "model": self.asked,
            "bits": quantity.bits,
            "weights": quantity.weights,
            "given": dict(self.given),
            "precision": quantity.precision,
            "full_scale": quantity.full_scale,
            "forward_batch": self.labelling.forward_batch,
        }

    @property
    def outputs(self) -> list[Path]:
        return outputs_for(self.shards, "fg_bg")

    def reads(self) -> Mapping[str, str]:
        return {"fg_bg.zip": archive_digest(self.workspace, "fg_bg", "composite")}

    def text(self) -> str:
        estimator, batch = self.labelling.estimator, self.labelling.forward_batch
        pictures = "picture" if batch == 1 else "pictures"
        return (
            f"{estimator.model} on {estimator.device}, {estimator.precision}, "
            f"{batch} {pictures} at a time"
        )

    def begin(self) -> None:
        """Nothing: the network reads the composites alone."""

    def label(self, progress: Progress) -> int:
        return self.labelling.write(self.shards, self.outputs, progress)

    def forecast(self) -> Forecast:
        counts = []
        for shard in self.shards:
            with Archive(shard) as archive:
                counts.append(len(samples_of(archive)))
        with Archive(self.shards[0]) as archive:
            samples = samples_of(archive)
            # The first batch chooses kernels, the second says how many make a few seconds.
            for _ in range(2):
                some = samples[: self.labelling.forward_batch]
                seconds = self._seconds(archive, some)
            batches = max(2, int(_FORECAST_S / seconds))
            some = samples[: batches * self.labelling.forward_batch]
            each = self._seconds(archive, some) / len(some)
        return Forecast(sum(counts), sum(counts) * each)

    def _seconds(self, archive: Archive, samples: list[Sample]) -> float:
        """How long some samples take, from the first byte read to the last label encoded."""
        began = time.perf_counter()
        for _ in self.labelling.label(archive, samples):
            pass
        return time.perf_counter() - began
