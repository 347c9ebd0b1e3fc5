"""Training on a GPU (CUDA or MPS) or on the CPU.

The one rule: this module decides where and how precisely, never what; the loop is `BaseTrainer`'s.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from vathos.trainer.base_trainer import BaseTrainer
from vathos.utils.device import choose_precision, setup_device

if TYPE_CHECKING:
    from torch import Tensor

    from vathos.data_loader.dense_depth import Batch

__all__ = ["GPUTrainer"]


class GPUTrainer(BaseTrainer):
    """Trains on the configured device, in bfloat16 where asked for or where `auto` finds it native.

    Arguments as for `BaseTrainer`.

    >>> trainer = GPUTrainer(model, loss_fns, optimizer, config, train_subset, test_subset)
    >>> metrics = trainer.start_train()
    """

    def setup(self) -> torch.device:
        device, self.device_ids = setup_device(self.model, self.config.device)
        self.precision = choose_precision(self.config.precision, device)
        if self.config.training.channels_last and device.type != "mps":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return device

    def place(self, batch: Batch) -> Batch:
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
