"""Objects built by name, devices and loggers."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
from torch import nn

from vathos.errors import ConfigError
from vathos.utils import (
    device,
    get_instance,
    get_instance_v2,
    setup_device,
    setup_logger,
    setup_param_groups,
)
from vathos.utils.device import choose_precision


def test_get_instance_builds_a_section_of_the_configuration() -> None:
    config = {"optimizer": {"type": "SGD", "args": {"lr": 0.5}}}
    optimizer = get_instance(torch.optim, "optimizer", config, nn.Linear(1, 1).parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_get_instance_takes_a_bare_name() -> None:
    assert isinstance(get_instance(nn, "act", {"act": "ReLU"}), nn.ReLU)


def test_get_instance_v2_builds_by_constructor_name() -> None:
    layer = get_instance_v2(nn, "Linear", 2, out_features=3)
    assert layer.weight.shape == (3, 2)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"torch\.optim has no Adamw; did you mean AdamW\?"):
        get_instance_v2(torch.optim, "Adamw", [])


def test_where_none_is_near_only_what_the_module_offers_is_listed() -> None:
    with pytest.raises(ConfigError, match=r"there are ChainedScheduler, .*, StepLR$") as caught:
        get_instance_v2(torch.optim.lr_scheduler, "Foo")
    assert not {"Tensor", "Counter", "partial"} & set(re.findall(r"\w+", str(caught.value)))


def test_an_unknown_argument_offers_the_nearest() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"OneCycleLR takes no argument max_lrr; .* max_lr\?"):
        get_instance_v2(torch.optim.lr_scheduler, "OneCycleLR", optimizer, max_lrr=0.1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SGD", {"lr": -1.0}),
        ("AdamW", {"betas": [0.9]}),
        ("AdamW", {"betas": 0.9}),
        ("AdamW", {"fused": True, "foreach": True}),
    ],
)
def test_a_bad_value_is_a_config_error(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be built with .*: ."):
        get_instance_v2(torch.optim, name, nn.Linear(1, 1).parameters(), **arguments)


def test_a_missing_section_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no section optimizer"):
        get_instance(torch.optim, "optimizer", {})


def test_batch_norm_does_not_decay_and_no_parameter_is_lost() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    groups = setup_param_groups(model, {"optimizer": {"type": "AdamW"}})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_setup_device_returns_device_then_ids() -> None:
    found, ids = setup_device(nn.Linear(1, 1), "CPU")
    assert found == torch.device("cpu")
    assert ids == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("target", ["GPU", 0])
def test_a_gpu_that_is_not_there_is_a_warning(
    target: int | str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    found, _ = setup_device(nn.Linear(1, 1), target)
    assert found.type == "cpu"
    assert "running on the CPU" in caplog.text


def test_a_tpu_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match="use GPU, CPU or auto"):
        setup_device(nn.Linear(1, 1), "TPU")


@pytest.mark.parametrize("native", [True, False])
def test_precision_is_what_is_asked_for_and_bf16_by_itself_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(device, "_has_bf16", lambda _: native)
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) is None
    assert choose_precision("bf16", cpu) is torch.bfloat16
    assert choose_precision("auto", cpu) is (torch.bfloat16 if native else None)


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_a_processor_has_bf16_where_torch_names_the_instruction(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    found = choose_precision("auto", torch.device("cpu"))
    assert found is (torch.bfloat16 if native else None)


def test_setup_logger_adds_one_handler_however_often_it_is_called() -> None:
    logger = setup_logger("vathos.test_logger")
    assert setup_logger("vathos.test_logger") is logger
    assert len(logger.handlers) == 1
    assert not any(h in logging.getLogger().handlers for h in logger.handlers)
