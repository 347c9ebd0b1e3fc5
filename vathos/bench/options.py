"""What is asked of `depthgen bench`.

The one rule: what cannot be measured as asked is refused before anything runs, in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from vathos import model as models
from vathos.errors import UsageError
from vathos.model.resunet import SIZE_MULTIPLE
from vathos.utils.instances import InstanceError, find_constructor

__all__ = ["DEFAULT_SIZE", "BenchOptions", "read_batch_sizes", "read_models"]

DEFAULT_SIZE = 96
DOUBLED = tuple(16 * 2**n for n in range(13))
MOST_STEPS = 1000  # the rows of all their samples are drawn beforehand


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, beside what the configuration says.

    batch_sizes: in this order; () doubles from 16 until one does not fit. models: names; () is the
    configuration's. size: the side in pixels; None is `dataset.size`, else that of the archives, or
    96 for drawn pictures. device: auto, GPU or CPU; None is the configuration's. steps: timed at
    each batch size. drawn: pictures drawn at random (True), those of the archives (False), or the
    latter where there are any (None).

    Raises `UsageError`.
    """

    batch_sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    models: tuple[str, ...] = ()
    size: int | None = None
    device: Literal["auto", "GPU", "CPU"] | None = None
    steps: int = 20
    drawn: bool | None = None

    def __post_init__(self) -> None:
        if not all(1 <= each <= DOUBLED[-1] for each in self.batch_sizes):
            raise UsageError(
                f"--batch-sizes are numbers from 1 to {DOUBLED[-1]}, such as 16,32,64, or max"
            )
        if not 1 <= self.steps <= MOST_STEPS:
            raise UsageError(f"--steps is {self.steps}, but must be from 1 to {MOST_STEPS}")
        size = DEFAULT_SIZE if self.size is None else self.size
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            near = max(1, round(size / SIZE_MULTIPLE)) * SIZE_MULTIPLE
            raise UsageError(
                f"--size is {size}, but the network needs a multiple of {SIZE_MULTIPLE}; take "
                f"{near}"
            )
        for name in self.models:
            _check_model(name)

    @property
    def doubles(self) -> bool:
        """True if the largest batch size is looked for."""
        return not self.batch_sizes

    def sizes(self) -> tuple[int, ...]:
        """The batch sizes to try, in order."""
        return self.batch_sizes or DOUBLED


def read_batch_sizes(text: str) -> tuple[int, ...]:
    """`16,32,64` as numbers; `max` is (). Raises `UsageError`."""
    if text == "max":
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"--batch-sizes {text!r} is neither max nor numbers above 0, such as 16,32,64"
        )
    return tuple(map(int, parts))


def read_models(text: str | None) -> tuple[str, ...]:
    """`ResUNet,ResUNeXt` as names; None is (). Raises `UsageError`."""
    names = () if text is None else tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"--models {text!r} has an empty name; write ResUNet,ResUNeXt")
    return names


def _check_model(name: str) -> None:
    try:
        if issubclass(find_constructor(models, name), nn.Module):
            return
        raise InstanceError(f"{name} is no torch.nn.Module", "type")
    except InstanceError as error:
        raise UsageError(f"--models: {error}") from error
