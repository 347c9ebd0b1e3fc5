"""The order of samples, from the start and from the middle of an epoch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tests.vathos.trainings import load_slowly
from vathos.data_loader import DenseDepth
from vathos.data_loader.batches import Batches, BatchOrder
from vathos.errors import DataError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerContext


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    rows = np.arange(100, 150)
    order = BatchOrder(rows, 8, seed=1)
    first = order.epoch(0)
    assert sorted(first) == sorted(rows)
    assert np.array_equal(BatchOrder(rows, 8, seed=1).epoch(0), first)
    assert not np.array_equal(order.epoch(1), first)
    assert not np.array_equal(BatchOrder(rows, 8, seed=2).epoch(0), first)


def test_an_epoch_can_be_entered_at_any_batch() -> None:
    order = BatchOrder(np.arange(23), 5, seed=4)
    whole = list(order.iterate(2))
    assert [len(batch) for batch in whole] == [5, 5, 5, 5, 3]
    for start in range(6):
        rest = list(order.iterate(2, range(start, len(order))))
        assert [b.tolist() for b in rest] == [b.tolist() for b in whole[start:]]
    assert order.batch(2, 3).tolist() == whole[3].tolist()


def test_without_shuffling_the_rows_stay_in_order() -> None:
    order = BatchOrder(np.arange(5), 2, shuffle=False)
    assert [batch.tolist() for batch in order.iterate(9)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("rows", "batches"), [(10, 2), (4, 1), (3, 1)])
def test_drop_last_leaves_out_a_partial_batch_unless_it_is_the_only_one(
    rows: int, batches: int
) -> None:
    order = BatchOrder(np.arange(rows), 4, drop_last=True)
    assert len(order) == batches == len(list(order.iterate(0)))


def test_workers_and_the_training_process_give_the_same_batches(
    tiny_set: Callable[..., Any],
) -> None:
    made = tiny_set().write()
    subset = Subset(DenseDepth(made.folder, made.folder), range(11))
    here = Batches(subset, 4, seed=2)
    there = Batches(subset, 4, seed=2, workers=1)
    before = torch.get_rng_state()
    for epoch, numbers in ((0, None), (1, (1, 2)), (1, (2, 0))):
        pairs = zip(here.epoch(epoch, numbers), there.epoch(epoch, numbers), strict=True)
        for a, b in pairs:
            assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_of_items_is_stacked() -> None:
    dataset = TensorDataset(torch.arange(6))
    batches = Batches(Subset(dataset, [1, 3, 5]), 2, shuffle=False)
    stacked: list[Any] = list(batches.epoch(0))
    assert [batch[0].tolist() for batch in stacked] == [[1, 3], [5]]


class Dying(TensorDataset):
    """Row 3 takes the whole process with it, once it may."""

    def __init__(self, rows: int) -> None:
        super().__init__(torch.arange(rows))
        self.may_die = multiprocessing.Event()

    def __getitem__(self, row: int) -> Any:
        if row == 3:
            self.may_die.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(row)


def test_a_worker_that_dies_is_one_sentence_and_only_where_its_batch_is_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = _MultiProcessingDataLoaderIter
    soon = partialmethod(loader._try_get_data, timeout=0.1)  # else it looks every five seconds
    monkeypatch.setattr(loader, "_try_get_data", soon)
    others = set(multiprocessing.active_children())
    dataset = Dying(6)
    batches = Batches(Subset(dataset, range(6)), 3, shuffle=False, workers=1).epoch(0)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    dataset.may_die.set()
    assert worker.pid is not None
    # Seen to be dead, and left for the loader to find; nothing is raised.
    dead = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert dead is not None
    assert dead.si_status == signal.SIGKILL
    with pytest.raises(TrainingError, match=r"^a process that loads the data died[^\n]*$"):
        next(batches)


def test_workers_end_with_a_process_that_is_killed_whatever_they_are_doing(
    processes: ForkServerContext,
) -> None:
    here, there = processes.Pipe(duplex=False)
    parent = processes.Process(target=load_slowly, args=(there,))
    parent.start()
    there.close()  # now it is open in the parent and in its workers only
    assert {here.recv(), here.recv()} == {0, 1}
    parent.kill()
    assert here.poll(20), "they are still there"
    with pytest.raises(EOFError):
        here.recv()
    parent.join()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_is_the_same_sentence_from_a_worker(
    tiny_set: Callable[..., Any], workers: int
) -> None:
    made = tiny_set(depth_bits=32, spoil={5: float("nan")}).write()
    subset = Subset(DenseDepth(made.folder, made.folder), range(16))
    with pytest.raises(DataError, match=r"^[^\n]*depth_000005\.png has values from nan[^\n]*$"):
        list(Batches(subset, 4, shuffle=False, workers=workers).epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_uneven_last_batch_and_a_batch_larger_than_the_set_leave_nothing_out(
    tiny_set: Callable[..., Any], workers: int
) -> None:
    made = tiny_set().write()
    subset = Subset(DenseDepth(made.folder, made.folder), range(7))
    for size, sizes in ((3, [3, 3, 1]), (100, [7])):
        batches = Batches(subset, size, shuffle=False, workers=workers)
        assert [len(batch["bg"]) for batch in batches.epoch(0)] == sizes
