"""Several processes that train one network: what they do together, and what ends them."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.vathos.ranks import train_together
from tests.vathos.trainings import read_record
from vathos.errors import CheckpointError, ConfigError, UsageError
from vathos.runner import Runner
from vathos.trainer.checkpoint import load_checkpoint
from vathos.trainer.plan import Plan, plan_run
from vathos.trainer.processes import Processes, current
from vathos.utils.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerContext

    from tests.vathos.ranks import Rank

ROOT = Path(__file__).parents[2]


class Share(Processes):
    """One of several processes, which never meet."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.fixture
def config(tiny_set: Callable[..., Any], tmp_path: Path) -> dict[str, Any]:
    """A run of 12 batches of 2 an epoch, tested on three, the last of one sample."""
    made = tiny_set(n_bg=8).write()
    return {
        "name": "run",
        "chkpt_dir": str(tmp_path),
        "device": "CPU",
        "precision": "float32",
        "model": "TinyNet",
        "dataset": {
            "root": str(made.folder),
            "cache": "none",  # each row that is trained on is asked for
            "loader_args": {"batch_size": 2},
        },
        "training": {"epochs": 2, "log_every": 1, "test_samples": 5, "ema": 0.9},
    }


@pytest.fixture
def together(
    processes: ForkServerContext, tmp_path: Path, config: dict[str, Any]
) -> Callable[..., list[Rank]]:
    """Trains `config`, with changes, in a number of processes."""

    def start(size: int, fault: tuple[str, int, int] | None = None, **changes: Any) -> list[Rank]:
        training = {**config["training"], **changes.pop("training", {})}
        whole = {**config, **changes, "training": training}
        return train_together(processes, tmp_path / "files", whole, size, fault)

    return start


@pytest.mark.parametrize(("model", "tolerance"), [("TinyNet", 1e-4), ("PlainNet", 1e-10)])
def test_two_processes_take_the_steps_of_one_that_accumulates(
    together: Callable[..., list[Rank]],
    config: dict[str, Any],
    tmp_path: Path,
    model: str,
    tolerance: float,
) -> None:
    (alone,) = together(1, model=model, name="alone", training={"accumulate": 2})
    ranks = together(2, model=model)
    assert [rank.code for rank in (alone, *ranks)] == [0, 0, 0]
    both = dict(ranks[0].losses) | dict(ranks[1].losses)
    first = dict(alone.losses[:10])  # five steps; float32 drifts from there
    expected = dict(alone.losses) if model == "PlainNet" else first
    assert {n: both[n] for n in expected} == pytest.approx(expected, rel=tolerance)
    # No sample twice in an epoch, and the same ones as alone.
    rows = [rank.rows for rank in ranks]
    dealt = [rows[0][n // 2] if n % 2 == 0 else rows[1][n // 2] for n in range(len(alone.rows))]
    assert dealt == alone.rows
    epoch = [row for batch in dealt[: len(dealt) // 2] for row in batch]
    assert len(set(epoch)) == len(epoch)
    # One writer, whose network is nobody's wrapper.
    assert [int(row["epoch"]) for row in read_record(tmp_path / "run")] == [0, 1]
    kept = load_checkpoint(tmp_path / "run" / "model_checkpoint.pt")
    assert not any(name.startswith("module.") for name in kept["model"])
    if model == "TinyNet":
        assert kept["metrics"] == pytest.approx(_tested_alone(config), rel=1e-12)


def _tested_alone(config: dict[str, Any]) -> dict[str, float]:
    """What one process measures of a run's network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: sums of float32 depend on it
    try:
        runner = Runner(config)
        runner.setup_train()
        assert runner.trainer is not None
        assert len(runner.trainer.test_batches) % 2 == 1  # two processes have unequal shares
        return runner.trainer.test_epoch(1)
    finally:
        torch.set_num_threads(threads)


def test_a_signal_to_one_process_stops_all_at_one_step_and_the_run_goes_on_to_the_bit(
    together: Callable[..., list[Rank]], tmp_path: Path
) -> None:
    assert [rank.code for rank in together(2, model="DropNet", name="whole")] == [0, 0]
    stopped = together(2, ("SIGTERM", 1, 4), model="DropNet")
    assert [rank.code for rank in stopped] == [130, 130]
    assert [len(rank.losses) for rank in stopped] == [4, 4]
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    assert (state["step"], state["batch"]) == (4, 8)
    draws = [rng["torch"] for rng in state["rng"]]
    assert not torch.equal(*draws)
    assert [rank.code for rank in together(2, model="DropNet")] == [0, 0]
    whole, parts = (
        load_checkpoint(tmp_path / name / "train_checkpoint.pt") for name in ("whole", "run")
    )
    assert all(torch.equal(value, parts["model"][key]) for key, value in whole["model"].items())
    assert read_record(tmp_path / "run") == read_record(tmp_path / "whole")


def test_a_run_of_two_processes_goes_on_in_one_with_the_same_steps(
    together: Callable[..., list[Rank]], tmp_path: Path
) -> None:
    schedule = {"type": "OneCycleLR", "args": {"max_lr": 0.01}}
    settings: dict[str, Any] = {"model": "PlainNet", "lr_scheduler": schedule}
    together(2, name="whole", **settings)
    together(2, ("SIGTERM", 0, 8), **settings)
    (last,) = together(1, **settings)
    assert last.code == 0
    whole, parts = (
        load_checkpoint(tmp_path / name / "train_checkpoint.pt") for name in ("whole", "run")
    )
    assert parts["step"] == whole["step"] == 12
    for key, value in whole["model"].items():
        torch.testing.assert_close(parts["model"][key], value, rtol=1e-10, atol=1e-12)
    for left, right in zip(
        read_record(tmp_path / "run"), read_record(tmp_path / "whole"), strict=True
    ):
        assert float(left["train_loss"]) == pytest.approx(float(right["train_loss"]), rel=1e-6)


@pytest.mark.parametrize(
    ("fault", "codes", "sentence"),
    [
        (("data", 1, 2), [1, 1], "the picture cannot be read; make the archive again"),
        (("nan", 1, 3), [1, 1], "the loss is not a number in epoch 1, batch 6"),
        (("SIGKILL", 0, 3), [-9, 1], "another process of this run vanished"),
        (("SIGKILL", 1, 3), [1, -9], "another process of this run vanished"),
    ],
)
def test_what_ends_one_process_ends_all_with_one_sentence(
    together: Callable[..., list[Rank]],
    fault: tuple[str, int, int],
    codes: list[int],
    sentence: str,
) -> None:
    ranks = together(2, fault)
    assert [rank.code for rank in ranks] == codes
    errors = [line for rank in ranks for line in rank.said.splitlines() if "INFO" not in line]
    assert len(errors) == 1, errors
    assert sentence in errors[0]


def test_a_configuration_refused_by_one_process_ends_all_with_one_sentence(
    together: Callable[..., list[Rank]],
) -> None:
    together(2, training={"epochs": 1})
    changed = together(2, seed=7)  # which the one that writes finds
    assert [rank.code for rank in changed] == [1, 1]
    assert sum("and it is now" in rank.said for rank in changed) == 1
    wrong = together(2, model="NoSuchNet")  # which all find
    assert [rank.code for rank in wrong] == [1, 1]
    assert sum("NoSuchNet" in rank.said for rank in wrong) == 1


def test_the_shares_of_the_processes_are_the_epoch_and_no_batch_is_in_two() -> None:
    training = parse_config({"training": {"epochs": 2, "accumulate": 2}}).training
    for begun_by in (1, 2, 3):
        for batches in range(begun_by, 20):
            plan = plan_run(training, batches, begun_by)
            used = batches - batches % begun_by
            assert plan.steps == 2 * math.ceil(used / (2 * begun_by))
            for size in range(1, begun_by + 1):
                plan.check(size)
                shares = [plan.rest(0, 0, Share(rank, size)) for rank in range(size)]
                assert all(step.mine for share in shares for step in share)
                taken = [n for share in shares for step in share for n in step.mine]
                assert sorted(taken) == list(range(used))
                # What is one step for some is the same step for all.
                spans = [[(step.first, step.end) for step in share] for share in shares]
                assert spans.count(spans[0]) == size


def test_a_step_needs_a_batch_for_each_process() -> None:
    training = parse_config({"training": {"epochs": 1}}).training
    with pytest.raises(ConfigError, match=r"3 full batches an epoch, and there are 4 processes"):
        plan_run(training, 3, 4)
    with pytest.raises(CheckpointError, match=r"begun by 2 processes .* too few for 3 processes"):
        Plan(processes=2, batches=8, per_step=2, epochs=1, steps=4).check(3)


def test_started_by_torchrun_a_program_that_joins_nobody_is_refused(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^[^\n]*with vathos.trainer.joined\(\):[^\n]*$"):
        current()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    with pytest.raises(UsageError, match="throw the run away again"):
        Runner(config, fresh=True)


@pytest.mark.slow
def test_torchrun_restarts_after_a_kill_and_the_run_ends_with_its_steps(
    config: dict[str, Any], tmp_path: Path
) -> None:
    training = {"steps": 12, "checkpoint_every": 3, "log_every": 2, "test_samples": 4}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({**config, "model": "ResUNet", "training": training}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", "-m", "vathos.train", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "run"
    deadline = time.monotonic() + 120
    while not (folder / "train_checkpoint.pt").exists():
        assert started.poll() is None, started.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # The lock names the process that writes, which is the one to kill.
    os.kill(int((folder / "lock").read_text().split()[0]), signal.SIGKILL)
    said = started.communicate(timeout=120)[1]
    assert started.returncode == 0, said
    assert said.count("another process of this run vanished") <= 1
    assert load_checkpoint(folder / "train_checkpoint.pt")["step"] == 12
    assert [row["epoch"] for row in read_record(folder)] == ["0", "1"]
    # A finished run started again by the command for people: one of two shows its figures.
    command = [*torchrun, "-m", "cli", "train", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("ResUNet, trained") == 1
