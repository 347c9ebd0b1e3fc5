"""Training on a GPU (CUDA or MPS) or on the CPU.

The one rule: this module decides where and how precisely, never what; the loop is `BaseTrainer`'s.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from vathos.trainer.base_trainer import BaseTrainer
from vathos.trainer.moves import fuse
from vathos.utils.device import choose_precision, setup_device

if TYPE_CHECKING:
    from torch import Tensor

    from vathos.data_loader.dense_depth import Batch

__all__ = ["GPUTrainer"]


class GPUTrainer(BaseTrainer):
    """Trains on the configured device, in the configured precision.

    `precision: auto` is bfloat16 where the hardware has it. In float16, gradients are scaled up so
    as not to vanish, and a step in which they overflow is left out. Arguments as for `BaseTrainer`.

    >>> trainer = GPUTrainer(model, loss_fns, optimizer, config, train_subset, test_subset)
    >>> metrics = trainer.start_train()
    """

    def setup(self) -> torch.device:
        device, self.device_ids = setup_device(self.model, self.config.device)
        self.precision = choose_precision(self.config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        if self.config.training.channels_last and device.type != "mps":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fuse(self.optimizer, device)
        return device

    def place(self, batch: Batch) -> Batch:
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self) -> Tensor | None:
        self.scaler.unscale_(self.optimizer)
        norm = self.clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.scaler.load_state_dict(state["scaler"])
