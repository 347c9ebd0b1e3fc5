"""What a kind of device decides about a training step.

The one rule: where, how precisely and together with whom, never what; the loop is `BaseTrainer`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from vathos.trainer.moves import optimizer_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from vathos.data_loader.dense_depth import Batch
    from vathos.trainer.processes import Processes
    from vathos.utils.config import Config

__all__ = ["OnDevice"]


class OnDevice(ABC):
    """The base of a trainer.

    `model` is what is trained, tested and kept; `network` is what training calls: the model, or
    something around it. Every `check_every` steps the processes tell each other of signals.
    """

    config: Config
    processes: Processes
    model: nn.Module
    network: nn.Module
    optimizer: Optimizer
    device: torch.device
    check_every = 1

    @property
    def memory_order(self) -> torch.memory_format:
        """That of the pictures which the network is given."""
        return torch.contiguous_format

    @abstractmethod
    def setup(self) -> torch.device:
        """Move the model where it trains and return that device."""

    def settle(self, passes: int) -> None:
        """Decide how to compute the steps of a run of so many forward passes in each process.

        Several processes leave it with the weights of the one that writes, and with a `network`
        that averages gradients, unless `update` does that.
        """
        optimizer_to(self.optimizer, self.device)

    def spare(self) -> int:
        """Bytes that a step leaves free on the device; 0 where that is the host's memory, or where
        nobody tells. Called once, after `settle`, by every process."""
        return 0

    def feed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches as `place` takes them; a device may have them sent ahead of their step."""
        return batches

    @abstractmethod
    def place(self, batch: Batch) -> Batch:
        """The batch on the device."""

    @abstractmethod
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the parameters'."""

    def unsynchronised(self) -> AbstractContextManager[Any]:
        """Around a forward and a backward pass after which gradients are not averaged yet."""
        return nullcontext()

    @abstractmethod
    def update(self) -> Tensor | None:
        """`clip`, one optimiser step, and no gradient left; returns what `clip` does."""

    def clip(self) -> Tensor | None:
        """Bound the gradient's norm by `training.clip_norm`, and return what it was; None if it is
        not bounded."""
        limit = self.config.training.clip_norm
        if limit is None:
            return None
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
