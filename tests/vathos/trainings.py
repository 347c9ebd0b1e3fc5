"""Networks and runs small enough to be trained in a second, for the tests of training."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch._dynamo  # else each forked process imports it for its first optimiser
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

import vathos.model
from vathos.data_loader.batches import Batches
from vathos.model import loss as L
from vathos.runner import Runner
from vathos.trainer import GPUTrainer, Progress, base_trainer, checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from vathos.data_loader import DenseDepth

EPOCHS = 3
STEPS_PER_EPOCH = 3


class TinyNet(nn.Module):
    """The smallest model with the interface of the real one, BatchNorm included."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        depth, mask = self.head(self.body(x)).split(1, dim=1)
        return depth, mask


class OtherNet(TinyNet):
    """Another model by name."""


class DropNet(TinyNet):
    """One that draws random numbers at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.body.append(nn.Dropout2d(0.2))


class PlainNet(nn.Module):
    """One without BatchNorm, which computes in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1))
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        depth, mask = self.body(x.double()).split(1, dim=1)
        return depth, mask


def name_networks(patch: pytest.MonkeyPatch) -> None:
    """Let configurations and checkpoints name the networks above."""
    for network in (TinyNet, OtherNet, DropNet, PlainNet):
        patch.setattr(vathos.model, network.__name__, network, raising=False)


def build_trainer(
    folder: Path,
    dataset: DenseDepth,
    run: str = "run",
    state: dict[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    model: nn.Module | None = None,
    config: dict[str, Any] | None = None,
    losses: tuple[nn.Module, nn.Module] | None = None,
    samples: int = 12,
    **training: Any,
) -> GPUTrainer:
    """A trainer of `model` in `folder/run`; keywords not named here go to `training`."""
    torch.manual_seed(0)
    model = model or TinyNet()
    whole = {
        "name": run,
        "chkpt_dir": str(folder),
        "device": "CPU",
        "precision": "float32",
        "dataset": {"loader_args": {"batch_size": 4}},
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1}},
        "training": {"epochs": EPOCHS, "log_every": 2, **training},
        **(config or {}),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = losses or (L.BCEDiceLoss(), L.RMSELoss())
    subsets = Subset(dataset, range(samples)), Subset(dataset, range(5, 16))
    return GPUTrainer(model, losses, optimizer, whole, *subsets, state, on_progress)


class Killed(BaseException):
    """Stands for the end of a process: nothing that training catches."""


def stop_at(
    phase: str, step: int, error: type[BaseException] = KeyboardInterrupt
) -> Callable[[Progress], None]:
    """A callback that presses Ctrl-C when it is first told of this step."""

    def callback(progress: Progress) -> None:
        if progress.phase == phase and progress.step == step:
            raise error

    return callback


def read_record(folder: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, without the seconds that an epoch took."""
    with (folder / "metrics.csv").open() as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's points by tag, as (step, value), by step; pictures have the size of their file.

    Sorted, for records that were begun within one second follow each other by process number.
    """
    # Not above, where processes that train would have it before the trainer asks for its like.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    record.Reload()
    tags = record.Tags()
    curves = {
        tag: sorted((e.step, e.value) for e in record.Scalars(tag)) for tag in tags["scalars"]
    }
    for tag in tags["images"]:
        curves[tag] = sorted((e.step, len(e.encoded_image_string)) for e in record.Images(tag))
    return curves


def train_and_die(config: dict[str, Any], moment: tuple[str, int] | None) -> None:
    """What a process of the tests does: train as configured, and be killed at a moment.

    (train, 5): after step 5; (tested, 2): after the test of epoch 2; (recorded, 2): before the
    checkpoints of epoch 2; (half saved, 2): between them; (saved, 2): after them.
    """
    multiprocessing.set_start_method("fork", force=True)  # for the loading processes
    torch.set_num_threads(1)
    name_networks(pytest.MonkeyPatch())

    def die(*now: object) -> None:
        if now == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_progress(progress: Progress) -> None:
        if progress.phase == "train" and not progress.done:
            die("train", progress.step)
        if progress.phase == "test" and progress.done:
            die("tested", progress.epoch + 1)

    save_pair, save_checkpoint = checkpoint.save_pair, checkpoint.save_checkpoint

    def save_and_die(
        folder: Path, model: dict[str, Any], training: dict[str, Any], also: Sequence[str] = ()
    ) -> None:
        at_border = training["batch"] == 0
        epoch = training["epoch"] if at_border else 0
        die("recorded", epoch)

        def write(state: dict[str, Any], path: Path) -> None:
            save_checkpoint(state, path)
            die("half saved", epoch)

        checkpoint.save_checkpoint = write
        save_pair(folder, model, training, also)
        die("saved", epoch)

    base_trainer.save_pair = save_and_die  # type: ignore[attr-defined]
    Runner(config, on_progress).start_train()


class Slow(Dataset[int]):
    """Makes one sample a minute, and tells when it begins."""

    def __init__(self, here: Connection) -> None:
        self.here = here

    def __getitem__(self, row: int) -> int:
        self.here.send(row)
        time.sleep(60)
        return row


def load_slowly(here: Connection) -> None:
    """What a process of the tests does: wait for batches that two processes make."""
    multiprocessing.set_start_method("fork", force=True)
    list(Batches(Subset(Slow(here), range(2)), 1, shuffle=False, workers=2).epoch(0))
