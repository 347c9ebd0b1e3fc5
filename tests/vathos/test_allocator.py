"""Memory that is freed is kept for the next step where there is room, and given back at the end,
by the page faults that the system counts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from statistics import median
from typing import TYPE_CHECKING

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
from vathos.utils.memory import reset_peak, resident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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

pytestmark = pytest.mark.skipif(allocator._glibc() is None, reason="glibc's allocator is not ours")


@pytest.fixture(autouse=True)
def as_by_default() -> Iterator[None]:
    give_back()
    reset_peak(CPU)  # what tests before this one took says nothing of what these will take
    yield
    give_back()


def faults() -> int:
    """Page faults of this process while a block is taken, written, and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def is_kept() -> bool:
    """Whether blocks take the place of those before them."""
    return median(faults() for _ in range(ROUNDS)) == 0


class Hungry(TinyNet):
    """A model that notes whether what each pass takes had been kept."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[int] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.faults.append(faults())
        return super().forward(x)


def test_a_freed_block_is_taken_again_until_it_is_given_back() -> None:
    assert faults() > PAGES
    keep_freed(CPU)
    assert is_kept()
    held = resident()
    give_back()
    assert resident() < held - BLOCK // 2
    assert faults() > PAGES


NO_ROOM = "allocator.available_share = allocator.resident = lambda: 0"
OTHER_DEVICE = "CPU = torch.device('meta')"


@pytest.mark.parametrize(
    ("program", "settings"),
    [
        (NO_ROOM, {}),
        (OTHER_DEVICE, {}),
        ("", {"MALLOC_ARENA_MAX": "2"}),
        ("", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}),
    ],
    ids=["no room", "no CPU", "set by a variable", "set by a tunable"],
)
def test_nothing_is_kept_without_room_or_where_it_is_not_ours_to_say(
    program: str, settings: dict[str, str]
) -> None:
    # In a process of its own, for what was ever kept leaves room in the heap.
    program = f"from tests.vathos.test_allocator import *\n{program}\nkeep_freed(CPU)\n"
    program += "assert not is_kept()\n"
    subprocess.run([sys.executable, "-c", program], env=os.environ | settings, check=True)


def test_training_takes_its_memory_once_and_gives_it_back(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    model = Hungry()
    make_trainer(model=model).start_train()
    # The first step shows what is needed, and the next ones take it for the rest.
    assert model.faults[0] > PAGES
    assert median(model.faults) == 0
    assert faults() > PAGES


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


def test_ways_to_compute_a_step_are_timed_with_memory_kept_as_in_training() -> None:
    found: list[int] = []
    time_passes(lambda: found.append(faults()), CPU)
    assert found[0] > PAGES
    assert median(found) == 0


def test_a_folder_of_pictures_takes_memory_once(tmp_path: Path) -> None:
    model = Hungry()
    predictor = Predictor(Network(model.eval(), "Hungry", (16, 16)))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    pairs = [Pair(f"{number}", tmp_path / "a.png", tmp_path / "a.png") for number in range(ROUNDS)]
    list(predict_pairs(predictor, pairs, tmp_path / "out"))
    assert model.faults[0] > PAGES
    assert median(model.faults) == 0
    assert faults() > PAGES


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
    assert median(found) == 0
    assert faults() > PAGES
