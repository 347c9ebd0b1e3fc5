"""Continuing a run: stopped or killed anywhere, it ends as if it had not been."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.vathos.trainings import (
    EPOCHS,
    STEPS_PER_EPOCH,
    Killed,
    OtherNet,
    TinyNet,
    read_curves,
    read_record,
    stop_at,
    train_and_die,
)
from vathos.errors import CheckpointError
from vathos.trainer.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

    from torch import Tensor

    from vathos.trainer import GPUTrainer


def assert_same(left: Any, right: Any, place: str = "") -> None:
    """Equal to the last bit, tensors and all."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), place
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for key in left:
            assert_same(left[key], right[key], f"{place}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), place
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{place}.{number}")
    else:
        assert left == right, place


def run_process(
    processes: ForkServerContext, config: dict[str, Any], moment: tuple[str, int] | None = None
) -> None:
    process = processes.Process(target=train_and_die, args=(config, moment))
    process.start()
    process.join()
    assert process.exitcode == (0 if moment is None else -signal.SIGKILL), moment


def everything(name: str, folder: Path, workers: int) -> dict[str, Any]:
    """A configuration that uses all that a checkpoint has to hold."""
    return {
        "name": name,
        "chkpt_dir": str(folder / "runs"),
        "device": "CPU",
        "precision": "float32",
        "model": "DropNet",
        "augmentation": "DepthLightAug",
        "dataset": {
            "root": str(folder / "archives"),
            "loader_args": {"batch_size": 2, "num_workers": workers},
        },
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1}},
        "training": {
            "epochs": 3,
            "log_every": 1,
            "checkpoint_every": 2,
            "accumulate": 5,
            "clip_norm": 1.0,
            "ema": 0.9,
            "patience": 3,
            "keep_every": 2,
        },
    }


def assert_same_runs(left: Path, right: Path) -> None:
    names = {path.name for path in left.glob("*.pt")}
    assert names == {path.name for path in right.glob("*.pt")}
    assert "model_checkpoint_epoch0002.pt" in names
    for name in names:
        assert_same(load_checkpoint(left / name), load_checkpoint(right / name), name)
    assert read_record(left) == read_record(right)
    assert read_curves(left) == read_curves(right)


FIRST_EPOCH = [("train", 1), ("train", 3), ("tested", 1), ("recorded", 1)]
LATER = [("train", 5), ("half saved", 2), ("saved", 2), ("half saved", 3), ("saved", 3)]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_for_bit_like_one_that_was_not(
    tiny_set: Callable[..., Any], tmp_path: Path, processes: ForkServerContext
) -> None:
    tiny_set(n_bg=8).write()
    run_process(processes, everything("whole", tmp_path, 0))
    # Within the first epoch, within a later one, and between two.
    few = [("train", 3), ("train", 5), ("saved", 2)]
    for workers, moments in ((0, FIRST_EPOCH + LATER), (2, few)):
        killed = everything(f"killed{workers}", tmp_path, workers)
        for moment in moments:
            run_process(processes, killed, moment)
        run_process(processes, killed)
        folder = tmp_path / "runs" / f"killed{workers}"
        assert_same_runs(tmp_path / "runs" / "whole", folder)
        assert [row["epoch"] for row in read_record(folder)] == ["0", "1", "2"]
        steps = [step for step, _ in read_curves(folder)["LR/lr_value"]]
        assert steps == list(range(1, 10))


def seed_epochs(start: int, epochs: int) -> range:
    """What the original runs after a resume."""
    return range(start, epochs - start)


def test_a_resumed_run_goes_to_the_configured_epoch_where_the_original_stops_short(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(epochs=5, on_progress=stop_at("train", 10)).start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    assert state["epoch"] == 3
    assert not list(seed_epochs(3, 5))
    trainer = make_trainer(epochs=5, state=state)
    trainer.start_train()
    assert (trainer.state.epoch, trainer.state.step) == (5, 5 * STEPS_PER_EPOCH)


@pytest.mark.parametrize(
    ("phase", "step"), [("train", 1), ("train", 3), ("train", 5), ("test", 2), ("test", 3)]
)
def test_a_run_stopped_anywhere_continues_bit_for_bit(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, phase: str, step: int
) -> None:
    whole = make_trainer("whole", log_every=1)
    expected = whole.start_train()
    stopped = make_trainer("stopped", log_every=1, on_progress=stop_at(phase, step))
    with pytest.raises(KeyboardInterrupt):
        stopped.start_train()
    state = load_checkpoint(tmp_path / "stopped" / "train_checkpoint.pt")
    resumed = make_trainer("stopped", state, log_every=1)
    assert resumed.start_train() == expected
    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    record = read_record(tmp_path / "stopped")
    assert record == read_record(tmp_path / "whole")
    assert len(record) == EPOCHS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_step_waits_for_its_end_saves_and_is_raised_as_ctrl_c(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, number: signal.Signals
) -> None:
    class Signalled(TinyNet):
        calls = 0

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.calls += self.training
            if self.calls == 2:
                os.kill(os.getpid(), number)
            return super().forward(x)

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)  # as the command line does
    try:
        handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(KeyboardInterrupt):
            make_trainer(model=Signalled()).start_train()
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        signal.signal(signal.SIGTERM, before)
    assert load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")["step"] == 2


def test_checkpoint_every_bounds_what_a_kill_costs(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    killed = stop_at("train", 6, Killed)
    with pytest.raises(Killed):
        make_trainer(on_progress=killed, checkpoint_every=5).start_train()
    assert load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")["step"] == 5


def test_a_step_that_was_not_told_of_before_a_kill_counts_after_it(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    expected = make_trainer("whole", log_every=2).start_train()
    options = {"log_every": 2, "checkpoint_every": 1}
    with pytest.raises(Killed):
        make_trainer("killed", on_progress=stop_at("train", 2, Killed), **options).start_train()
    state = load_checkpoint(tmp_path / "killed" / "train_checkpoint.pt")
    assert state["step"] == 1
    assert make_trainer("killed", state, **options).start_train() == expected
    assert read_record(tmp_path / "killed") == read_record(tmp_path / "whole")


def test_a_half_written_checkpoint_or_one_of_another_model_is_refused(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(epochs=1).start_train()
    path = tmp_path / "run" / "train_checkpoint.pt"
    state = load_checkpoint(path)
    with pytest.raises(CheckpointError, match="checkpoint of TinyNet, not of OtherNet"):
        make_trainer(state=state, model=OtherNet())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing.pt")


def test_random_numbers_of_another_build_are_a_sentence(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(epochs=1).start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    state["rng"][0]["torch"] = state["rng"][0]["torch"][:100]
    with pytest.raises(CheckpointError, match="the training checkpoint does not fit this run"):
        make_trainer(state=state)


def test_a_checkpoint_below_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint({}, tmp_path / "file" / "run" / "train_checkpoint.pt")
