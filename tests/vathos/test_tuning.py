"""Precision, memory order and compiling by measuring, with clocks of our own."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vathos.errors import ConfigError
from vathos.trainer import tuning
from vathos.trainer.tuning import STEP_FILE, StepSettings, Tuner
from vathos.utils.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")
LONG = tuning.MEASURED_FROM_PASSES


class Timing:
    """A clock that says what it is told: a second, less what each property saves."""

    def __init__(
        self, bf16: float = 0.0, channels_last: float = 0.0, compiled: float = 0.0
    ) -> None:
        self.saves = {"bf16": bf16, "channels-last": channels_last, "compiled": compiled}
        self.asked: list[str] = []
        self.broken = ""
        self.says = "no compiler"

    def __call__(self, settings: StepSettings) -> float:
        self.asked.append(str(settings))
        if self.broken and self.broken in str(settings):
            raise RuntimeError(f"{self.says}\nand a long story")
        return 1.0 - sum(saved for word, saved in self.saves.items() if word in str(settings))


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tuner]:
    """A maker of tuners on a machine with bf16, by their wishes, with a run folder of their own."""
    monkeypatch.setattr("vathos.utils.device._has_bf16", lambda device: True)

    def make(timing: Timing, precision: str = "auto", **training: Any) -> Tuner:
        config = {"chkpt_dir": str(tmp_path), "precision": precision, "training": training}
        return Tuner(parse_config(config), CPU, timing)

    return make


def test_a_short_run_takes_the_rule_and_measures_nothing(tuner: Callable[..., Tuner]) -> None:
    timing = Timing(bf16=-1)
    assert str(tuner(timing).choose(LONG - 1)) == "bf16 channels-last"
    assert timing.asked == []


@pytest.mark.parametrize(
    ("saves", "chosen"),
    [
        ({"bf16": 0.3, "channels_last": 0.3}, "bf16 channels-last"),
        ({"bf16": -0.3, "channels_last": 0.3}, "float32 channels-last"),
        ({"bf16": 0.3, "channels_last": -0.3}, "bf16 contiguous"),
        ({"bf16": 0.3, "compiled": 0.3}, "bf16 channels-last compiled"),
        ({"bf16": 0.3, "compiled": -0.3}, "bf16 channels-last"),
        ({"bf16": -0.04, "channels_last": -0.004, "compiled": 0.04}, "bf16 channels-last"),
    ],
)
def test_a_long_run_takes_what_was_fastest_by_far(
    tuner: Callable[..., Tuner], saves: dict[str, float], chosen: str
) -> None:
    assert str(tuner(Timing(**saves)).choose(LONG)) == chosen


def test_what_a_person_set_is_not_compared(tuner: Callable[..., Tuner]) -> None:
    timing = Timing(bf16=-0.5, channels_last=0.5)
    found = tuner(timing, "bf16", channels_last=False, compile=False).choose(LONG)
    assert str(found) == "bf16 contiguous"
    assert timing.asked == []


def test_a_run_of_minutes_is_not_compiled(tuner: Callable[..., Tuner]) -> None:
    timing = Timing(bf16=0.9, compiled=0.09)
    passes = int(tuning.COMPILED_FROM_S / 0.1) - 1
    assert str(tuner(timing).choose(passes)) == "bf16 channels-last"
    assert not any("compiled" in way for way in timing.asked)


@pytest.mark.parametrize("wish", ["auto", True])
def test_what_cannot_be_compiled_here_is_told_and_trained_all_the_same(
    tuner: Callable[..., Tuner], wish: Any, caplog: pytest.LogCaptureFixture
) -> None:
    timing = Timing(compiled=0.5)
    timing.broken = "compiled"
    assert str(tuner(timing, compile=wish).choose(LONG)) == "bf16 channels-last"
    assert "no compiler" in caplog.text
    assert "long story" not in caplog.text


def test_a_way_that_has_no_room_is_left_out(tuner: Callable[..., Tuner]) -> None:
    timing = Timing(bf16=-0.5)
    timing.broken = "float32"
    assert str(tuner(timing, compile=False).choose(LONG)) == "bf16 channels-last"


def test_where_no_way_has_room_that_is_what_is_raised_and_each_is_named_once(
    tuner: Callable[..., Tuner], caplog: pytest.LogCaptureFixture
) -> None:
    timing = Timing()
    timing.broken, timing.says = "c", "CUDA out of memory. Tried to allocate 9 GiB"
    with pytest.raises(torch.OutOfMemoryError):
        tuner(timing, compile=False).choose(LONG)
    assert len(timing.asked) == len(caplog.messages) == 4
    assert all(line.endswith("out of memory") for line in caplog.messages)


def test_compiling_that_is_asked_for_is_tried_in_a_short_run_too(
    tuner: Callable[..., Tuner],
) -> None:
    timing = Timing(compiled=-1)
    assert tuner(timing, compile=True).choose(1).compile
    assert timing.asked == ["bf16 channels-last compiled"]


def test_a_run_goes_on_as_it_began_without_measuring_again(
    tuner: Callable[..., Tuner], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    began = tuner(Timing(bf16=-0.3, channels_last=0.1), compile=False).choose(LONG)
    assert "float32 channels-last" in caplog.text
    other = Timing(bf16=0.5)
    assert tuner(other, compile=False).choose(LONG) == began
    assert other.asked == []
    record = json.loads((tmp_path / "vathos" / STEP_FILE).read_text())
    assert record["seconds"]["float32 channels-last"] == pytest.approx(0.9)


@pytest.mark.parametrize("change", ["device", "wish", "damage"])
def test_another_device_or_wish_or_a_damaged_record_is_measured_anew(
    tuner: Callable[..., Tuner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    tuner(Timing(channels_last=0.1), compile=False).choose(LONG)
    timing, wishes = Timing(channels_last=-0.5), {"compile": False}
    if change == "device":
        monkeypatch.setattr(tuning, "device_name", lambda device: "another")
    elif change == "wish":
        wishes = {"compile": "auto"}  # type: ignore[dict-item]
    else:
        (tmp_path / "vathos" / STEP_FILE).write_text('{"asked": ')
    assert not tuner(timing, **wishes).choose(LONG).channels_last


@pytest.mark.parametrize("key", ["channels_last", "compile"])
@pytest.mark.parametrize("value", ["always", 2, None])
def test_a_switch_is_auto_true_or_false(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{key} is .*'auto', True or False"):
        parse_config({"training": {key: value}})
