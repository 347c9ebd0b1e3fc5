"""Training through PyTorch/XLA, on its CPU device; `make test-tpu` runs this.

The oracle is the same run on the CPU by `GPUTrainer`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from tests.vathos.trainings import PlainNet, TinyNet
from vathos.data_loader import DenseDepth
from vathos.data_loader.augmentation import DepthLightAug
from vathos.errors import DataError
from vathos.model import ResUNet
from vathos.model import loss as L
from vathos.trainer import GPUTrainer, TPUTrainer
from vathos.trainer.checkpoint import MODEL_CHECKPOINT, TRAIN_CHECKPOINT, load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.vathos.conftest import TinySet
    from vathos.trainer import BaseTrainer, Progress

torch_xla: Any = pytest.importorskip(
    "torch_xla", reason="PyTorch/XLA has an environment of its own: `make test-tpu`"
)
os.environ["PJRT_DEVICE"] = "CPU"
torch_xla.device()  # before the first backward pass: autograd counts the devices there are then
xla: Any = import_module("torch_xla.debug.metrics")

# Each step is compiled, which takes seconds.
pytestmark = pytest.mark.slow

KINDS: dict[str, type[BaseTrainer]] = {"CPU": GPUTrainer, "TPU": TPUTrainer}


# Where the learning rate is so low that float32 rounds 1 - lr x weight decay to 1, as OneCycleLR's
# is at its very end by default, XLA compiles the step once more.
SLOW_END = {"final_div_factor": 10}


class NoBias(TinyNet):
    """As ResUNet, no bias before BatchNorm: there its gradient is rounding alone, and Adam follows
    that as if it were a slope."""

    def __init__(self) -> None:
        super().__init__()
        self.body[0] = nn.Conv2d(6, 4, 3, padding=1, bias=False)


@pytest.fixture
def dataset(tiny_set: Callable[..., TinySet]) -> DenseDepth:
    made = tiny_set().write()
    return DenseDepth(made.folder, made.folder)


@pytest.fixture
def train(dataset: DenseDepth, tmp_path: Path) -> Callable[..., list[float]]:
    """Trains on a device and returns each step's mean loss since the epoch began."""

    def run(
        device: str,
        net: type[nn.Module] = TinyNet,
        *,
        name: str = "",
        go_on: str = "",
        precision: str = "float32",
        augmentation: nn.Module | None = None,
        stop: int | None = None,
        **training: Any,
    ) -> list[float]:
        torch.manual_seed(0)
        model = net()
        config = {
            "name": name or device,
            "chkpt_dir": str(tmp_path),
            "device": device,
            "precision": precision,
            "dataset": {"loader_args": {"batch_size": 4}},
            "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.01, **SLOW_END}},
            "training": {"epochs": 3, "log_every": 1, "channels_last": False, **training},
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
        subsets = Subset(dataset, range(12)), Subset(dataset, range(5, 14))
        state = load_checkpoint(tmp_path / go_on / TRAIN_CHECKPOINT) if go_on else None
        losses: list[float] = []

        def listen(progress: Progress) -> None:
            if progress.phase == "train" and not progress.done:
                losses.append(progress.metrics["loss"])
                if progress.step == stop:
                    raise KeyboardInterrupt

        criteria = L.BCEDiceLoss(), L.RMSELoss()
        trainer = KINDS[device](
            *(model, criteria, optimizer, config, *subsets, state, listen, augmentation)
        )
        if stop is None:
            trainer.start_train()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.start_train()
        return losses

    return run


def test_resunet_learns_as_on_the_cpu(train: Callable[..., list[float]]) -> None:
    # Float32 sums in another order differ by some 1e-7, and each step of training doubles that.
    wanted = train("CPU", ResUNet, epochs=2, name="resunet_cpu")
    found = train("TPU", ResUNet, epochs=2, name="resunet_tpu")
    assert found[:3] == pytest.approx(wanted[:3], rel=1e-4)
    assert found == pytest.approx(wanted, rel=1e-2)


def test_a_small_network_learns_the_same_to_the_last_step(
    train: Callable[..., list[float]],
) -> None:
    wanted = train("CPU", clip_norm=0.5, ema=0.9)
    assert wanted[-1] < 0.97 * wanted[0]
    assert train("TPU", clip_norm=0.5, ema=0.9) == pytest.approx(wanted, rel=1e-5)


def test_float64_is_float64(train: Callable[..., list[float]]) -> None:
    assert train("TPU", PlainNet) == pytest.approx(train("CPU", PlainNet), rel=1e-10)


def test_accumulated_batches_and_an_augmentation_are_those_of_the_cpu(
    train: Callable[..., list[float]],
) -> None:
    augmentation = DepthLightAug(jpeg=0.3)
    wanted = train("CPU", accumulate=2, augmentation=augmentation)
    found = train("TPU", accumulate=2, augmentation=augmentation)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_bfloat16_is_what_auto_means(train: Callable[..., list[float]]) -> None:
    exact = train("CPU", steps=3)
    found = train("TPU", precision="auto", steps=3, name="auto")
    assert found == train("TPU", precision="bf16", steps=3, name="bf16")
    assert found == pytest.approx(exact, rel=0.02)
    assert found != pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("first", "second"), [("TPU", "CPU"), ("CPU", "TPU")])
def test_another_device_goes_on_with_the_checkpoint(
    train: Callable[..., list[float]], tmp_path: Path, first: str, second: str
) -> None:
    whole = train("CPU", NoBias, name="whole")
    begun = train(first, NoBias, name="begun", stop=5)
    rest = train(second, NoBias, name="rest", go_on="begun")
    assert [*begun, *rest] == pytest.approx(whole, rel=1e-5)
    ended, wanted = (load_checkpoint(tmp_path / n / MODEL_CHECKPOINT) for n in ("rest", "whole"))
    assert ended["step"] == wanted["step"]
    assert ended["metrics"]["loss"] == pytest.approx(wanted["metrics"]["loss"], rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "ema": 0.9, "clip_norm": 0.5}])
def test_after_the_second_epoch_nothing_is_compiled(
    train: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    compiled: list[int] = []
    tested = TPUTrainer.test_epoch

    def count(self: TPUTrainer, epoch: int) -> dict[str, float]:
        compiled.append(xla.counter_value("UncachedCompile"))
        return tested(self, epoch)

    monkeypatch.setattr(TPUTrainer, "test_epoch", count)
    train("TPU", epochs=5, log_every=2, **options)
    compiled.append(xla.counter_value("UncachedCompile"))
    assert compiled[0] > 0
    assert compiled[2:] == compiled[2:3] * 4, compiled


def test_a_step_asks_the_device_for_nothing(
    train: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    step = TPUTrainer._train_step

    def count(self: TPUTrainer, *arguments: Any) -> None:
        before = _transfers()
        step(self, *arguments)
        asked.append(_transfers() - before)

    monkeypatch.setattr(TPUTrainer, "_train_step", count)
    train("TPU", clip_norm=0.5, ema=0.9)
    assert asked == [0] * 9


def _transfers() -> int:
    data = xla.metric_data("TransferFromDeviceTime")
    return 0 if data is None else int(data[0])


def test_an_error_of_the_data_is_raised_as_it_is(
    train: Callable[..., list[float]], dataset: DenseDepth, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = dataset.load_batch

    def fail_in_the_end(rows: Any) -> Any:
        if 11 in rows:
            raise DataError("sample 11 is damaged")
        return load(rows)

    monkeypatch.setattr(dataset, "load_batch", fail_in_the_end)
    with pytest.raises(DataError, match="sample 11 is damaged"):
        train("TPU")
