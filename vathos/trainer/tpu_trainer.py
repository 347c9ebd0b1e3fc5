"""Training on a TPU, through PyTorch/XLA.

The one rule: as in `GPUTrainer`, where and how precisely, never what. XLA records the operations of
a step and runs them when it is told that the step is over.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from vathos.errors import ConfigError
from vathos.trainer.base_trainer import BaseTrainer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from vathos.data_loader.dense_depth import Batch

__all__ = ["TPUTrainer"]


class TPUTrainer(BaseTrainer):
    """Trains on the TPU of this machine, in bfloat16 unless `precision` says float32.

    Arguments as for `BaseTrainer`. Raises `ConfigError` where PyTorch/XLA is not installed.
    """

    def setup(self) -> torch.device:
        if find_spec("torch_xla") is None:
            raise ConfigError(
                "device: TPU needs PyTorch/XLA; type `pip install 'torch_xla[tpu]'`, or use "
                "GPU, CPU or auto"
            )
        torch_xla: Any = import_module("torch_xla")
        self._sync = torch_xla.sync
        device: torch.device = torch_xla.device()
        self.model.to(device)
        return device

    def place(self, batch: Batch) -> Batch:
        return {key: value.to(self.device) for key, value in batch.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("xla", torch.bfloat16, self.config.precision != "float32")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> Tensor | None:
        norm = self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._sync()
        return norm
