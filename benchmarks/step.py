"""How fast a training step is: precision, memory order and compiling, of both networks.

    python -m benchmarks.step [--device cuda] [--sides 64 96] [--batch 16] [--no-compile]

One batch held on the device; forward, losses, backward and a fused AdamW. The ways take turns, and
each counts with its best round; the first line of a table is what the others are compared with, the
line marked * is what `auto` takes without measuring. ResUNeXt's convolutions in groups stand in
their own table, for they gain by other things. The last column is what the first three steps take,
compiling included.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from benchmarks.machine import machine
from vathos import model as models
from vathos.model.loss import BCEDiceLoss, RMSELoss
from vathos.trainer.moves import fuse
from vathos.trainer.tuning import StepSettings, arrange
from vathos.utils.allocator import keep_freed
from vathos.utils.device import choose_precision, synchronise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_ROUNDS = 3
_WARM_UP = 3
_SECONDS = 2.0  # of one way in one round
_DEPTH_WEIGHT = 2.0


@dataclass
class Step:
    """A network of its own, trained on one batch in one way."""

    name: str
    settings: StepSettings
    device: torch.device

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        model = getattr(models, self.name)().to(self.device)
        self._network = arrange(model, self.settings, self.device)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        fuse(self._optimizer, self.device)
        self._losses = BCEDiceLoss(), RMSELoss()

    def __call__(self, pictures: Tensor, mask: Tensor, depth: Tensor) -> None:
        kind = self.settings.autocast
        pictures = pictures.contiguous(memory_format=self.settings.memory_order)
        with torch.autocast(self.device.type, dtype=kind, enabled=kind is not None):
            depth_logits, mask_logits = self._network(pictures)
        seg_loss, depth_loss = self._losses
        loss = seg_loss(mask_logits, mask) + _DEPTH_WEIGHT * depth_loss(depth_logits, depth)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


def draw(side: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (N, 6, side, side), mask and depth (N, 1, side, side), of noise."""
    pictures = torch.rand(batch, 6, side, side, device=device)
    return pictures, pictures[:, :1].round(), pictures[:, 1:2].clone()


def seconds(step: Step, batch: tuple[Tensor, Tensor, Tensor], least: float) -> float:
    """Seconds of one step, over as many as take `least` seconds."""
    synchronise(step.device)
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < least:
        step(*batch)
        synchronise(step.device)
        count += 1
    return spent / count


def compare(name: str, side: int, count: int, ways: Sequence[StepSettings], device: str) -> None:
    """Print a line for each way to train the network `name`."""
    place = torch.device(device)
    batch = draw(side, count, place)
    kind = choose_precision("auto", place)
    steps = [Step(name, way, place) for way in ways]
    first = []
    for step in steps:
        began = time.perf_counter()
        for _ in range(_WARM_UP):
            step(*batch)
        synchronise(place)
        first.append(time.perf_counter() - began)
        keep_freed(place)  # as in training
    best = [float("inf")] * len(steps)
    for _ in range(_ROUNDS):
        for number, step in enumerate(steps):
            best[number] = min(best[number], seconds(step, batch, _SECONDS))
    print(f"\n{name}, {side} px, {count} at a time")
    for way, took, start in zip(ways, best, first, strict=True):
        usual = way.autocast is kind and way.channels_last and not way.compile
        print(f"{way!s:34}{'*' if usual else ' '} | {1000 * took:8.1f} ms ", end="| ")
        print(f"{count / took:8.1f} samples/s | {best[0] / took:5.2f} x | {start:6.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sides", type=int, nargs="+", default=[64])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--models", nargs="+", default=["ResUNet", "ResUNeXt"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    print(machine("torch"))
    if options.device != "cpu":
        print(torch.cuda.get_device_name(options.device))
    ways = [
        StepSettings(precision, order, compile=False)
        for precision, order in itertools.product(("float32", "bf16"), (False, True))
    ]
    if options.compile:
        ways += [replace(way, compile=True) for way in ways if way.channels_last]
    for name, side in itertools.product(options.models, options.sides):
        compare(name, side, options.batch, ways, options.device)


if __name__ == "__main__":
    main()
