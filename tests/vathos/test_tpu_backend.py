"""What of training on a TPU can be run without one, and without its libraries."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from tests.vathos.trainings import TinyNet
from vathos.data_loader import DenseDepth
from vathos.data_loader.augmentation import DepthLightAug
from vathos.errors import ConfigError
from vathos.model import loss as L
from vathos.trainer import GPUTrainer, Processes, TPUTrainer, tpu_backend, tpu_trainer
from vathos.trainer.moves import model_to
from vathos.trainer.tpu_backend import TorchTPU, find_backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.vathos.conftest import TinySet
    from vathos.trainer import BaseTrainer


class TorchTPUOnTheCPU(TorchTPU):
    """TorchTPU but for the device."""

    autocast_type = "cpu"

    def device(self) -> torch.device:
        return torch.device("cpu")


@pytest.fixture
def final_weights(
    tiny_set: Callable[..., TinySet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Trains with a trainer and returns the weights."""
    monkeypatch.setattr(tpu_trainer, "find_backend", TorchTPUOnTheCPU)
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)

    def run(
        kind: type[BaseTrainer], augmentation: nn.Module | None, precision: str, **keys: Any
    ) -> Any:
        torch.manual_seed(0)
        model = TinyNet()
        config = {
            "name": kind.__name__,
            "chkpt_dir": str(tmp_path),
            "device": "CPU",
            "precision": precision,
            "dataset": {"loader_args": {"batch_size": 4}},
            "training": {"epochs": 2, "accumulate": 2, "clip_norm": 1.0, "channels_last": False},
            **keys,
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=False)
        subsets = Subset(dataset, range(12)), Subset(dataset, range(5, 14))
        criteria = L.BCEDiceLoss(), L.RMSELoss()
        kind(model, criteria, optimizer, config, *subsets, augmentation=augmentation).start_train()
        return model.state_dict()

    return run


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("augmentation", [None, DepthLightAug()])
def test_the_trainer_for_a_tpu_trains_as_the_other(
    final_weights: Callable[..., dict[str, Any]], augmentation: nn.Module | None, precision: str
) -> None:
    wanted = final_weights(GPUTrainer, augmentation, precision)
    found = final_weights(TPUTrainer, augmentation, precision)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_the_optimizer_goes_on_with_parameters_that_moving_replaced() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # as a TPU's tensors want it
    try:
        model_to(model, optimizer, torch.device("meta"))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert list(model.parameters()) == optimizer.param_groups[0]["params"]
    assert list(optimizer.state) == list(model.parameters())


def test_without_a_library_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tpu_backend, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'depthgen-vathos\[tpu\]'"):
        find_backend()


def test_torchtpu_is_taken_first_and_says_when_there_is_no_tpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tpu_backend, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch_tpu", ModuleType("torch_tpu"))
    backend = find_backend()
    assert isinstance(backend, TorchTPU)
    for found in (None, SimpleNamespace(type="cuda")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda found=found: found)
        with pytest.raises(ConfigError, match="TorchTPU finds none here"):
            backend.device()


def test_several_processes_are_refused(
    final_weights: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes, "size", 2)
    with pytest.raises(ConfigError, match="without torchrun"):
        final_weights(TPUTrainer, None, "float32")


@pytest.mark.parametrize("key", ["compile", "channels_last"])
def test_what_changes_nothing_on_a_tpu_is_a_warning(
    final_weights: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture, key: str
) -> None:
    caplog.set_level(logging.WARNING, "vathos")  # an earlier test may have asked for more
    final_weights(TPUTrainer, None, "float32", training={"steps": 1})
    assert caplog.messages == []
    final_weights(TPUTrainer, None, "float32", training={"steps": 1, key: True})
    (line,) = caplog.messages
    assert line.startswith(f"training.{key} ")


def test_keeping_samples_on_a_tpu_is_refused(
    final_weights: Callable[..., dict[str, Any]],
) -> None:
    with pytest.raises(ConfigError, match=r"^dataset\.cache: device would [^\n]*$"):
        final_weights(TPUTrainer, None, "float32", dataset={"cache": "device"})
