"""The batches that a configuration describes: for training, for testing, and for the picture grid.

The one rule: training takes full batches only, for a last batch of a few samples would spoil
BatchNorm's statistics, and the next epoch's order is another; testing leaves nothing out.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Subset

from vathos.data_loader.batches import Batches
from vathos.data_loader.split import thin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vathos.data_loader.dense_depth import Batch
    from vathos.utils.schema import Config

__all__ = ["make_batches", "shown_rows", "stored_batch"]

log = logging.getLogger(__name__)

IMAGE_SAMPLES = 8


def make_batches(config: Config, train: Subset[Any], test: Subset[Any]) -> tuple[Batches, Batches]:
    """(training batches, test batches), the latter of at most `training.test_samples` samples.

    A batch larger than the training set holds all of it.
    """
    args = config.dataset.loader_args
    if args.batch_size > len(train):
        log.warning(
            "dataset.loader_args.batch_size is %d, but there are %d training samples; each step "
            "takes all of them",
            *(args.batch_size, len(train)),
        )
    limit = config.training.test_samples
    if limit is not None:
        rows = thin(np.asarray(test.indices, dtype=np.int64), limit, config.seed)
        test = Subset(test.dataset, rows.tolist())
    make = partial(Batches, workers=_workers(args.num_workers), pin_memory=args.pin_memory)
    return (
        make(train, args.batch_size, seed=config.seed, shuffle=args.shuffle, drop_last=True),
        make(test, args.batch_size, shuffle=False),
    )


def _workers(wanted: int) -> int:
    """No more processes than processors; how many decode changes no result."""
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    if wanted > processors:
        log.warning(
            "dataset.loader_args.num_workers is %d, but there are %d processors; %d processes load",
            *(wanted, processors, processors),
        )
    return min(wanted, processors)


def shown_rows(test_batches: Batches) -> list[int]:
    """The rows of the picture grid: the same test samples each time, spread over the test set."""
    rows = test_batches.order.rows
    at = np.linspace(0, len(rows) - 1, min(IMAGE_SAMPLES, len(rows))).astype(int)
    return [int(row) for row in rows[at]]


def stored_batch(dataset: Any, rows: Sequence[int]) -> Batch:
    """These rows of a data set as it stores them, loaded here and now."""
    return next(Batches(Subset(dataset, rows), len(rows), shuffle=False).epoch(0))
