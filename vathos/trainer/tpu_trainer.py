"""Training on a TPU.

The one rule: as in `GPUTrainer`, where and how precisely, never what. A TPU runs whole programs,
compiled anew for each shape, so shapes do not change from step to step, and each batch begins with
nothing pending from the one before.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from vathos.errors import ConfigError
from vathos.trainer.base_trainer import BaseTrainer
from vathos.trainer.moves import model_to
from vathos.trainer.tpu_backend import find_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from vathos.data_loader.dense_depth import Batch

__all__ = ["TPUTrainer"]

log = logging.getLogger(__name__)


class TPUTrainer(BaseTrainer):
    """Trains on one core of the TPU of this machine, in bfloat16 unless `precision` says float32.

    An augmentation is applied on the host, for its shapes depend on what it draws. Arguments as for
    `BaseTrainer`. Raises `ConfigError` where no library for TPUs is installed.
    """

    def setup(self) -> torch.device:
        self._backend = find_backend()
        if self.processes.size > 1:
            raise ConfigError("device: TPU trains on one core; start it without torchrun")
        if self.config.precision == "fp16":
            raise ConfigError("precision: fp16 needs a CUDA GPU; use bf16, float32 or auto")
        if self.config.dataset.cache == "device":
            raise ConfigError(
                "dataset.cache: device would have a TPU compile anew at each batch that is kept; "
                "use ram, disk, none or auto"
            )
        for key in ("channels_last", "compile"):
            if getattr(self.config.training, key) is True:
                log.warning("training.%s is for GPUs and the CPU; on a TPU it changes nothing", key)
        device = self._backend.device()
        if self.config.precision == "float32":
            self._backend.multiply_in_float32()
        model_to(self.model, self.optimizer, device)
        return device

    def feed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        # Ahead of the step nothing may be drawn that a checkpoint would have to take back.
        return batches if self.augmentation else self._backend.feed(batches, self.device)

    def prepared(self, stored: Batch, augmentation: nn.Module | None) -> Batch:
        if augmentation is None:
            return super().prepared(stored, None)
        augmented: Batch = augmentation(self._prepare(stored))
        return self.place(augmented)

    def place(self, batch: Batch) -> Batch:
        self._backend.sync()
        return {key: value.to(self.device) for key, value in batch.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self._backend.autocast_type, torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> Tensor | None:
        norm = self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._backend.sync()
        return norm
