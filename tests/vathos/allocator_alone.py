"""Memory that is freed is kept for the next step where there is room, and given back at the end,
by the page faults that the system counts.

Run by `test_allocator.py` in a process of its own: where an allocation failed before, as in tests
of what does not fit, glibc maps each large block of that thread by itself, whatever it is told.
"""

from __future__ import annotations

import multiprocessing
import resource
from functools import wraps
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.vathos.checkpoints import save_run
from tests.vathos.trainings import TinyNet
from vathos.evaluate import EvaluateOptions, evaluate
from vathos.predict import Pair, Predictor, predict_pairs
from vathos.predict.predictor import Network
from vathos.trainer.tuning import time_passes
from vathos.utils import allocator, give_back, keep_freed
from vathos.utils.memory import resident

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.vathos.conftest import TinySet
    from vathos.trainer import GPUTrainer, Progress

CPU = torch.device("cpu")
MEGABYTE = 2**20
BLOCK = 64 * MEGABYTE  # more than glibc ever keeps by itself
PAGES = BLOCK // resource.getpagesize() // 2  # half of them: a system may give several at once
# The heap grows for some rounds: an aligned block needs a little more than itself, so it does not
# fit where the last one was, and what is small and lasts may lie in between.
ROUNDS = 12


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """In a process of its own, for what was ever kept leaves room in the heap."""

    @wraps(test)
    def forked(**fixtures: Any) -> None:
        process = multiprocessing.get_context("fork").Process(target=test, kwargs=fixtures)
        process.start()
        process.join()
        assert process.exitcode == 0

    return forked


def faults() -> int:
    """Page faults of this process while a block is taken, written, and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def is_kept() -> bool:
    """Whether blocks take the place of those before them."""
    return median(faults() for _ in range(ROUNDS)) < PAGES


class Hungry(TinyNet):
    """A model that notes whether what each pass takes had been kept."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[int] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.faults.append(faults())
        return super().forward(x)


@alone
def test_a_freed_block_is_taken_again_until_it_is_given_back() -> None:
    assert faults() > PAGES
    keep_freed(CPU)
    assert is_kept()
    held = resident()
    give_back()
    assert resident() < held - BLOCK // 2
    assert faults() > PAGES


@alone
def test_nothing_is_kept_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "available_share", lambda: 0)
    monkeypatch.setattr(allocator, "resident", lambda: 0)
    keep_freed(CPU)
    assert not is_kept()


@alone
def test_nothing_is_kept_for_another_device() -> None:
    keep_freed(torch.device("meta"))
    assert not is_kept()


@alone
def test_training_takes_its_memory_once_and_gives_it_back(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    model = Hungry()
    make_trainer(model=model).start_train()
    # The first step shows what is needed, and the next ones take it for the rest.
    assert model.faults[0] > PAGES
    assert median(model.faults) < PAGES
    assert faults() > PAGES


@alone
def test_training_that_ends_early_gives_its_memory_back(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    kept = []

    def stop(progress: Progress) -> None:
        kept.append(is_kept())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(on_progress=stop).start_train()
    assert kept == [True]
    assert faults() > PAGES


@alone
def test_ways_to_compute_a_step_are_timed_with_memory_kept_as_in_training() -> None:
    found: list[bool] = []
    time_passes(lambda: found.append(is_kept()), CPU)
    assert not found[0]
    assert found[-1]


@alone
def test_a_folder_of_pictures_takes_memory_once(tmp_path: Path) -> None:
    model = Hungry()
    predictor = Predictor(Network(model.eval(), "Hungry", (16, 16)))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    pairs = [Pair(f"{number}", tmp_path / "a.png", tmp_path / "a.png") for number in range(ROUNDS)]
    list(predict_pairs(predictor, pairs, tmp_path / "out"))
    assert model.faults[0] > PAGES
    assert median(model.faults) < PAGES
    assert faults() > PAGES


@alone
def test_an_evaluation_takes_memory_once(
    tiny_set: Callable[..., TinySet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(tiny_set(n_fg=3).write().folder, tmp_path / "runs" / "a", by="both")
    found, logits = [], Predictor.logits

    def hungry(self: Predictor, pair: Tensor) -> tuple[Tensor, Tensor]:
        found.append(faults())
        return logits(self, pair)

    monkeypatch.setattr(Predictor, "logits", hungry)
    evaluate(run, EvaluateOptions(batch_size=1))
    assert found[0] > PAGES
    assert median(found) < PAGES
    assert faults() > PAGES
