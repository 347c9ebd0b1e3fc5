"""Training on a GPU (CUDA or MPS) or on the CPU.

The one rule: this module decides where and how precisely, never what; the loop is `BaseTrainer`'s.
"""

from __future__ import annotations

import copy
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vathos.errors import ConfigError
from vathos.trainer.base_trainer import BaseTrainer
from vathos.trainer.loaders import stored_batch
from vathos.trainer.meter import METRICS
from vathos.trainer.moves import fuse
from vathos.trainer.tuning import StepSettings, Tuner, arrange, time_passes
from vathos.utils.allocator import give_back, keep_freed
from vathos.utils.device import setup_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vathos.data_loader.dense_depth import Batch

__all__ = ["GPUTrainer"]

log = logging.getLogger(__name__)


class GPUTrainer(BaseTrainer):
    """Trains on the configured device, as precisely as configured, compiled or not.

    What of that is `auto` a `Tuner` decides. In float16, gradients are scaled up so
    as not to vanish, and a step in which they overflow is left out. Each of several processes takes
    a GPU of its machine, or all take the CPU. Arguments as for `BaseTrainer`.

    >>> trainer = GPUTrainer(model, loss_fns, optimizer, config, train_subset, test_subset)
    >>> metrics = trainer.start_train()
    """

    settings: StepSettings
    _stepped = False

    @property
    def memory_order(self) -> torch.memory_format:
        return self.settings.memory_order

    def setup(self) -> torch.device:
        device, self.device_ids = setup_device(self.model, self._target())
        return device

    def settle(self, passes: int) -> None:
        tuner = Tuner(self.config, self.device, self._time_pass)
        chosen = self.processes.share(lambda: asdict(tuner.choose(passes)))
        self.settings = StepSettings(**chosen)
        scaled = self.settings.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        if self.config.training.sync_batchnorm and self.processes.size > 1:
            self._share_statistics()
        self.network = arrange(self.model, self.settings, self.device)
        fuse(self.optimizer, self.device)
        super().settle(passes)
        if self.processes.size > 1:
            self._parallelise()

    def _time_pass(self, settings: StepSettings) -> float:
        """Seconds of a forward and a backward pass of a copy of the model on a batch of the run.

        Nothing of the run is touched, its random numbers neither.
        """
        self.settings = settings
        model = copy.deepcopy(self.model).train()
        network = arrange(model, settings, self.device)
        try:
            with torch.random.fork_rng(self.device_ids):
                return time_passes(self._pass(network), self.device)
        finally:
            if settings.compile:
                torch.compiler.reset()  # its graphs hold the memory that they ran in

    def _pass(self, network: nn.Module) -> Callable[[], None]:
        """What passes a batch of the run forward and backward and leaves no gradient."""
        stored = stored_batch(self._dataset, self.train_batches.order.batch(0, 0).tolist())

        def run() -> None:
            loss, _ = self._forward(network, stored, METRICS)
            loss.backward()
            network.zero_grad()

        return run

    def spare(self) -> int:
        if self.device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        with torch.random.fork_rng(self.device_ids):
            self._pass(copy.deepcopy(self.model).train())()
        # torch holds what the pass took, for the steps to take again.
        return torch.cuda.mem_get_info(self.device)[0]

    def _target(self) -> int | str:
        """The device as `setup_device` takes it: of several processes, each has its own GPU."""
        target, here = self.config.device, self.processes.local_rank
        if self.processes.size == 1 or target == "CPU":
            return target
        gpus = torch.cuda.device_count()
        if not gpus:
            return "CPU" if target == "auto" else target  # Apple's GPU is one, and cannot share
        if here >= gpus:
            raise ConfigError(
                f"there are {gpus} GPUs here for more processes; start torchrun with "
                f"--nproc-per-node {gpus}, or set device: CPU"
            )
        torch.cuda.set_device(here)
        return here

    def _share_statistics(self) -> None:
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # in place, parameters too
        else:
            log.warning(
                "training.sync_batchnorm works on CUDA GPUs only; on this %s each process has "
                "its own statistics",
                self.device.type,
            )

    def _parallelise(self) -> None:
        """Let the backward pass average gradients over the processes, whose weights become those
        of the first."""
        self.network = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        if self.device.type == "cuda":
            # Agreeing makes the hosts wait for each other; here they do so anyway.
            self.check_every = self.config.training.log_every

    def unsynchronised(self) -> AbstractContextManager[Any]:
        if isinstance(self.network, DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    def place(self, batch: Batch) -> Batch:
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        kind = self.settings.autocast
        return nullcontext() if kind is None else torch.autocast(self.device.type, dtype=kind)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self) -> Tensor | None:
        self.scaler.unscale_(self.optimizer)
        norm = self.clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if not self._stepped:
            self._stepped = True
            keep_freed(self.device)
        return norm

    def start_train(self) -> dict[str, float]:
        try:
            return super().start_train()
        finally:
            self._stepped = False
            give_back()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state.get("scaler"):  # none where gradients were not scaled
            self.scaler.load_state_dict(state["scaler"])
