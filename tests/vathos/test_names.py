"""The names that the original documented: each is still there, and is of the kind it was."""

from __future__ import annotations

import importlib
import inspect
import itertools
from typing import Any

import pytest

CLASSES = {
    "vathos.model": ["ResUNet", "ResUNeXt"],
    "vathos.model.resunet": ["ResDoubleConv", "ResDownBlock", "ResUNet", "ResUpBlock"],
    "vathos.model.resunext": ["ResDoubleConv", "ResDownBlock", "ResUNeXt", "ResUpBlock"],
    "vathos.model.loss": [
        "BCEDiceLoss",
        "BCETverskyLoss",
        "BCEWithLogitsLoss",
        "BerHuLoss",
        "DiceLoss",
        "GradLoss",
        "RMSELoss",
        "RMSEwSSIMLoss",
        "SSIMLoss",
        "TverskyLoss",
    ],
    "vathos.data_loader": ["DenseDepth"],
    "vathos.trainer": ["BaseTrainer", "GPUTrainer", "TPUTrainer"],
    "vathos.runner": ["Runner"],
}
FUNCTIONS = {
    "vathos.model.loss": ["iou", "rmse"],
    "vathos.trainer.base_trainer": ["optimizer_to", "scheduler_to"],
    "vathos.utils": [
        "get_instance",
        "get_instance_v2",
        "load_config",
        "setup_device",
        "setup_logger",
        "setup_param_groups",
    ],
}
METHODS = {
    "vathos.data_loader.DenseDepth": [
        "apply_on_batch",
        "extractall",
        "plot4_batch",
        "plot_results",
        "plot_sample",
    ],
    "vathos.runner.Runner": ["setup_train", "start_train"],
    "vathos.trainer.GPUTrainer": ["start_train", "test_epoch", "train_epoch"],
}
# The arguments that the original documented, in its order; ours may have more after them.
ARGUMENTS = {
    "vathos.model.resunet.ResDoubleConv": ["in_channels", "out_channels"],
    "vathos.model.resunet.ResDownBlock": ["in_channels", "out_channels"],
    "vathos.model.resunet.ResUpBlock": [
        "in_channels",
        "out_channels",
        "skip_channels",
        "dense_channels",
    ],
    "vathos.model.resunext.ResUpBlock": [
        "in_channels",
        "out_channels",
        "skip_channels",
        "dense_channels",
    ],
    "vathos.model.loss.TverskyLoss": ["alpha", "beta"],
    "vathos.model.loss.RMSELoss": ["eps"],
    "vathos.model.loss.BerHuLoss": ["threshold"],
    "vathos.model.loss.iou": ["outputs", "labels"],
    "vathos.model.loss.rmse": ["outputs", "labels"],
    "vathos.data_loader.DenseDepth": [
        "root",
        "source_zipfolder",
        "train",
        "transform",
        "target_transform",
    ],
    "vathos.data_loader.DenseDepth.apply_on_batch": ["batch", "apply_func"],
    "vathos.data_loader.DenseDepth.plot_sample": ["sample"],
    "vathos.data_loader.DenseDepth.plot4_batch": ["batch"],
    "vathos.data_loader.DenseDepth.plot_results": ["batch"],
    "vathos.trainer.BaseTrainer": [
        "model",
        "loss_fns",
        "optimizer",
        "config",
        "train_subset",
        "test_subset",
        "state_dict",
    ],
    "vathos.trainer.base_trainer.optimizer_to": ["optim", "device"],
    "vathos.trainer.base_trainer.scheduler_to": ["sched", "device"],
    "vathos.runner.Runner": ["config"],
    "vathos.utils.load_config": ["filename"],
    "vathos.utils.setup_device": ["model", "target_device"],
    "vathos.utils.setup_param_groups": ["model", "config"],
    "vathos.utils.get_instance": ["module", "name", "config", "args"],
    "vathos.utils.get_instance_v2": ["module", "ctor_name", "args", "kwargs"],
    "vathos.utils.setup_logger": ["name"],
}


def find(path: str) -> Any:
    """What the path names: modules in lower case, then perhaps a class, then a name."""
    modules = list(itertools.takewhile(lambda part: part[0].islower(), path.split(".")[:-1]))
    found: Any = importlib.import_module(".".join(modules))
    for name in path.split(".")[len(modules) :]:
        found = getattr(found, name)
    return found


def paths(names: dict[str, list[str]]) -> list[str]:
    return [f"{owner}.{name}" for owner, found in names.items() for name in found]


@pytest.mark.parametrize("path", paths(CLASSES))
def test_the_class_is_importable_under_its_name(path: str) -> None:
    assert inspect.isclass(find(path))


@pytest.mark.parametrize("path", paths(FUNCTIONS))
def test_the_function_is_importable_under_its_name(path: str) -> None:
    assert inspect.isfunction(find(path))


@pytest.mark.parametrize("path", paths(METHODS))
def test_the_class_has_the_method(path: str) -> None:
    assert callable(find(path))


@pytest.mark.parametrize("path", ARGUMENTS)
def test_the_arguments_are_those_documented_in_their_order(path: str) -> None:
    arguments = list(inspect.signature(find(path)).parameters)
    assert arguments[: len(ARGUMENTS[path])] == ARGUMENTS[path]


@pytest.fixture(autouse=True)
def _networks_have_names() -> None:
    """Those of the tests have none here."""


@pytest.mark.parametrize("module", ["vathos.model", "vathos.model.loss"])
def test_what_a_configuration_looks_up_is_what_the_package_says_it_has(module: str) -> None:
    found = importlib.import_module(module)
    classes = {name for name, value in vars(found).items() if inspect.isclass(value)}
    assert classes == {name for name in found.__all__ if inspect.isclass(getattr(found, name))}
    assert set(CLASSES[module]) <= classes
