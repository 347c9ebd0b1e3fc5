"""Batches in an order that depends on (seed, epoch) alone.

The one rule: what batch k of epoch e holds is known without drawing the batches before it, so a run
can be continued in the middle of an epoch, with any number of worker processes. What goes wrong in
a worker is raised here, where its batch is awaited, in the words of one process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from depthgen.archive import ArchiveError
from depthgen.images import ImageError
from vathos.errors import TrainingError, VathosError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vathos.data_loader.cache import Cache
    from vathos.data_loader.dense_depth import Batch

__all__ = ["BatchOrder", "Batches"]


class BatchOrder:
    """The rows of each batch of each epoch.

    rows: dataset rows to draw from. drop_last leaves out a last batch that is not full, unless it
    is the only one: BatchNorm cannot train on a batch of one.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        whole, rest = divmod(len(self.rows), batch_size)
        self.batches = whole + (1 if rest and not (drop_last and whole) else 0)

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """All rows in the order of this epoch."""
        if not self.shuffle:
            return self.rows
        # NumPy promises Philox's raw bits across versions, unlike its shuffle.
        draw = np.random.Philox(key=[self.seed, epoch]).random_raw(len(self.rows))
        return self.rows[np.argsort(draw, kind="stable")]

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """The rows of batch `step` of this epoch."""
        return self.epoch(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def iterate(
        self, epoch: int, numbers: Sequence[int] | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """The rows of all batches, or of those of these numbers."""
        order = self.epoch(epoch)
        for number in range(self.batches) if numbers is None else numbers:
            yield order[number * self.batch_size : (number + 1) * self.batch_size]


class Batches:
    """Batches of a subset, as the dataset stores them: `for batch in batches.epoch(3)`.

    A dataset with `load_batch(rows)` is asked for whole batches, any other for its items, which are
    then stacked. `workers` processes decode ahead; they live as long as this object, and no longer
    than the process that has it, even if that is killed. An error of the data is raised as it is; a
    worker that dies, which the system does to it where memory is short, is a `TrainingError`.
    """

    def __init__(
        self,
        subset: Subset[Any],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.order = BatchOrder(
            np.asarray(subset.indices),
            batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
        )
        self.dataset: Any = subset.dataset
        self._dataset = _ByBatch(subset.dataset)
        self._queue = _Queue()
        self._cache: Cache | None = None
        self._loader: DataLoader[Batch] | None = None
        self._workers = workers
        self._pin_memory = pin_memory and torch.cuda.is_available()

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, numbers: Sequence[int] | None = None) -> Iterator[Batch]:
        """The batches of this epoch, or of them those of these numbers: what is left of it, or the
        share of one process of several."""
        plan = list(self.order.iterate(epoch, numbers))
        return self._load(plan) if self._cache is None else self._through(self._cache, plan)

    def keep_in(self, cache: Cache) -> None:
        """From now on, decode a sample at its first visit and take it from `cache` at the next."""
        self._cache = cache
        # Of what is copied at once, only the way to a device gains from pinned memory.
        self._pin_memory &= cache.device.type == "cuda"

    def _through(self, cache: Cache, plan: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        # An epoch visits a row once, so what it will miss is known here, however far ahead the
        # workers decode.
        missing = [rows[~cache.has(rows)] for rows in plan]
        needed = [rows for rows in missing if len(rows)]
        if not needed:
            self._loader = None  # and its processes end
        loaded = self._load(needed)
        for rows, absent, at in zip(plan, missing, cache.places(plan), strict=True):
            if len(absent):
                cache.put(absent, next(loaded))
            damaged = cache.damaged(rows)
            if len(damaged):
                cache.put(damaged, self._dataset.load(damaged))
            yield cache.take(at)

    def _load(self, plan: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        if not plan or not (self._workers or self._pin_memory):
            return map(self._dataset.load, plan)
        if self._loader is None:
            self._loader = DataLoader(
                self._dataset,
                batch_size=None,
                sampler=self._queue,
                num_workers=self._workers,
                persistent_workers=self._workers > 0,
                pin_memory=self._pin_memory,
                worker_init_fn=_bind_to_the_parent,
                # Its own generator: the workers' seeds must not be drawn from the training's.
                generator=torch.Generator().manual_seed(self.order.seed % 2**63),
            )
        self._queue.plan = plan
        return self._await(self._loader)

    def _await(self, loader: DataLoader[Batch]) -> Iterator[Batch]:
        batches = _start_workers(loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                raise TrainingError(
                    "a process that loads the data died, as it does where memory is short; the "
                    "same command goes on, with a lower dataset.loader_args.num_workers if need be"
                ) from error
            if isinstance(batch, _Failure):
                raise batch.kind(batch.sentence)
            yield batch


def _start_workers(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """The loader's iterator, without its handler of SIGCHLD.

    That raises wherever training stands when a worker dies, in the middle of a step too. Without
    it the death is found when the next batch is awaited, some seconds later.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
    return batches


def _bind_to_the_parent(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, and `timeout` signals the whole group; the
    # parent still needs its workers to finish the step and save.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    # Of a parent that is killed torch's worker knows nothing while it makes a batch or hands it
    # over, nor ever if it was not yet ready; and whoever reads its standard output waits for it.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _ByBatch(Dataset[Any]):
    """A dataset whose "index" is an array of rows."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        self.load_batch = getattr(dataset, "load_batch", None)

    def load(self, rows: NDArray[np.int64]) -> Batch:
        if self.load_batch is not None:
            return self.load_batch(rows)
        return default_collate([self.dataset[int(row)] for row in rows])

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch | _Failure:
        try:
            return self.load(rows)
        except (VathosError, ArchiveError, ImageError) as error:
            return _Failure(type(error), str(error))


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker: raised there, torch would add the worker's traceback to
    its sentence. Not the error itself, which would then hold, by its traceback, what holds it."""

    kind: type[Exception]
    sentence: str


class _Queue:
    """What the loader's workers are given next."""

    def __init__(self) -> None:
        self.plan: Sequence[NDArray[np.int64]] = ()

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)
