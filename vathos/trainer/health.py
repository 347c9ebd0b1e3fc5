"""Losses and weights that are no numbers, and batches too small or too large, named to the person.

The one rule: looking for them makes no step wait; the device is asked where it is asked anyway, at
the log interval and before a checkpoint, so that none with bad weights replaces a good one.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from vathos.errors import TrainingError
from vathos.trainer.checkpoint import TRAIN_CHECKPOINT
from vathos.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from vathos.data_loader.batches import Batches
    from vathos.utils.schema import Config

__all__ = ["Health", "large_batches_named", "small_batch_error"]

ONE_VALUE = "more than 1 value per channel"


class Health:
    """Watches the losses of a run; batches are numbered from the beginning of the run."""

    def __init__(self, device: torch.device, folder: Path, batches: Batches) -> None:
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._checkpoint = folder / TRAIN_CHECKPOINT
        self._batches = batches
        self._name = getattr(batches.dataset, "sample_name", str)

    def add(self, loss: Tensor, batch: int) -> None:
        """Note a loss that is not a number; does not wait for the device."""
        bad = (self._first_bad < 0) & ~torch.isfinite(loss.detach())
        self._first_bad = torch.where(bad, batch, self._first_bad)

    def check(self) -> None:
        """Raise `TrainingError` if any loss so far was not a number; waits for the device."""
        first = int(self._first_bad)
        if first < 0:
            return
        epoch, batch = divmod(first, len(self._batches))
        row = int(self._batches.order.batch(epoch, batch)[0])
        raise TrainingError(
            f"the loss is not a number in epoch {epoch + 1}, batch {batch + 1}, which begins with "
            f"{self._name(row)}; {self.advice()}"
        )

    def check_weights(self, model: nn.Module, step: int) -> None:
        """Raise `TrainingError` if the losses or the weights are not numbers; waits."""
        self.check()
        values = [value for value in model.state_dict().values() if value.is_floating_point()]
        if values and not torch.stack([value.isfinite().all() for value in values]).all():
            raise TrainingError(
                f"the weights are not numbers after step {step}, though the losses were; "
                f"{self.advice()}"
            )

    def check_test(self, loss: float, epoch: int) -> None:
        """Raise `TrainingError` if the loss of a test is not a number."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"the test loss of epoch {epoch + 1} is not a number; {self.advice()}"
            )

    def advice(self) -> str:
        """What to do next."""
        kept = f"{self._checkpoint} is good; " if self._checkpoint.exists() else ""
        return (
            f"{kept}look at that batch, or lower the learning rate, under another name or with "
            "--fresh"
        )


def small_batch_error(error: ValueError, pictures: Tensor) -> Exception:
    """`error`, or the sentence that belongs to it if BatchNorm met one number a channel."""
    if ONE_VALUE not in str(error):
        return error
    count, _, height, width = pictures.shape
    return TrainingError(
        f"BatchNorm cannot train on a batch of {count} of {height} x {width}, for in the middle of "
        "the network that is one number a channel; raise dataset.loader_args.batch_size, or train "
        "on larger pictures, under another name or with --fresh"
    )


@contextmanager
def large_batches_named(config: Config) -> Iterator[None]:
    """Raise `TrainingError` in place of an error for want of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kept = config.dataset.cache != "none"
        without = ", or try dataset.cache: none, with which this run goes on" if kept else ""
        raise TrainingError(
            "the memory has no room for a step of dataset.loader_args.batch_size "
            f"{config.dataset.loader_args.batch_size}; lower it, under another name or with "
            f"--fresh{without}"
        ) from error
