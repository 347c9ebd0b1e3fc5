"""What is measured before labelling begins: scale, precision, and how many pictures at a time.

All on a few of the workspace's own pictures. The one rule: it is measured once; the manifest keeps
what was found, and a run that goes on takes it from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from depthgen.depth.forward import Forward
from depthgen.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from depthgen.depth.estimator import Estimator, PrecisionName

# Labels of a faster precision may differ from float32's by one grey level in a hundredth of the
# pixels, and by two in a thousandth.
_WITHIN_ONE, _WITHIN_TWO = 0.99, 0.999
# Pictures that the scale is measured on at once: how many fit is not known yet.
_AT_ONCE = 4
# The largest value of a sample is not the largest of all.
_HEADROOM = 1.1
_WORTH = 1.03
_SECONDS_FOR_BATCHES = 20.0
_LARGEST = {"cpu": 16, "cuda": 256, "mps": 64}
_PRECISIONS: dict[str, tuple[PrecisionName, ...]] = {
    "cpu": ("bf16",),
    "cuda": ("bf16", "fp16"),
    "mps": ("fp16",),
}


@dataclass(frozen=True)
class Comparison:
    """A precision's labels beside float32's: shares of pixels, and seconds a picture."""

    precision: PrecisionName
    within_one: float
    within_two: float
    seconds: float

    @property
    def is_faithful(self) -> bool:
        return self.within_one >= _WITHIN_ONE and self.within_two >= _WITHIN_TWO


def measure_full_scale(
    estimator: Estimator, pictures: NDArray[np.uint8], forward_batch: int = 0
) -> float:
    """The value that the label 1 stands for: the network's own, or one for the whole archive.

    pictures: (N, H, W, 3). forward_batch: the most that may go through the network at once, for it
    may take no more; 0 leaves it open. Raises `StageError` if the network gives nothing above 0.
    """
    if estimator.full_scale is not None:
        return estimator.full_scale
    forward = Forward(estimator, 1.0, bits=32, limit=min(_AT_ONCE, forward_batch or _AT_ONCE))
    largest = max(float(values.max()) for values in forward.values(pictures))
    if not 0 < largest < float("inf"):
        raise StageError(
            f"{estimator.model} gives {largest:g} at most on a sample of the pictures; it is no "
            "network for depth, or its weights are damaged"
        )
    return largest * _HEADROOM


def choose_precision(
    load: Callable[[PrecisionName], Estimator], device: torch.device, pictures: NDArray[np.uint8]
) -> tuple[Estimator, list[Comparison]]:
    """The fastest estimator whose labels are float32's, nearly; and how each compared."""
    best = load("float32")
    scale = measure_full_scale(best, pictures)
    reference, seconds = _timed_labels(best, scale, pictures)
    compared = [Comparison("float32", 1.0, 1.0, seconds)]
    for precision in _PRECISIONS.get(device.type, ()):
        other = load(precision)
        try:
            labels, seconds = _timed_labels(other, scale, pictures)
        except (RuntimeError, StageError):  # no such kernels here, or it overflows
            continue
        difference = abs(labels - reference)
        compared.append(
            Comparison(
                precision,
                float((difference <= 1).mean()),
                float((difference <= 2).mean()),
                seconds,
            )
        )
        if compared[-1].is_faithful and seconds < min(
            each.seconds for each in compared[:-1] if each.is_faithful
        ):
            best = other
    return best, compared


def _timed_labels(
    estimator: Estimator, scale: float, pictures: NDArray[np.uint8]
) -> tuple[NDArray[np.int16], float]:
    forward = Forward(estimator, scale, bits=8, limit=len(pictures))
    forward.labels(pictures[:1])  # the first call chooses kernels
    began = time.perf_counter()
    labels = forward.labels(pictures)
    return labels.astype("int16"), (time.perf_counter() - began) / len(pictures)


@dataclass(frozen=True)
class Rate:
    """Pictures a second, with so many of them at a time."""

    batch: int
    per_second: float


def choose_batch(
    estimator: Estimator, scale: float, pictures: NDArray[np.uint8]
) -> tuple[int, list[Rate]]:
    """The smallest batch that is as fast as any, within a few per cent; and what was measured."""
    rates: list[Rate] = []
    began, size = time.perf_counter(), 1
    while size <= _LARGEST.get(estimator.device.type, 16):
        batch = pictures[torch.arange(size).numpy() % len(pictures)]
        try:
            rates.append(Rate(size, measure_rate(estimator, scale, batch)))
        except torch.OutOfMemoryError:
            break
        # Twice the batch without a gain, twice: there will be none.
        if rates[-1].batch >= 4 * _enough(rates).batch:
            break
        if time.perf_counter() - began > _SECONDS_FOR_BATCHES:
            break
        size *= 2
    return _enough(rates).batch, rates


def _enough(rates: Sequence[Rate]) -> Rate:
    fastest = max(rate.per_second for rate in rates)
    return next(rate for rate in rates if rate.per_second * _WORTH >= fastest)


def measure_rate(estimator: Estimator, scale: float, batch: NDArray[np.uint8]) -> float:
    """Pictures a second of the forward pass, labels on the host included."""
    # One picture has no half: where it does not fit, that is told.
    forward = Forward(estimator, scale, bits=8, limit=len(batch), halve=len(batch) == 1)
    forward.labels(batch)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        forward.labels(batch)
        times.append(time.perf_counter() - began)
    return len(batch) / min(times)
