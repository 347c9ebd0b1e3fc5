"""The two libraries through which torch reaches a TPU, behind one set of verbs.

PyTorch/XLA records the operations of a step and runs them when it is told that the step is over;
TorchTPU, its successor, runs them as they come. The one rule: nothing outside this module names
either of them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from vathos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vathos.data_loader.dense_depth import Batch

__all__ = ["TPUBackend", "TorchTPU", "TorchXLA", "find_backend"]

log = logging.getLogger(__name__)

NEITHER = (
    "device: TPU needs PyTorch/XLA; type `pip install 'depthgen-vathos[tpu]'` in an environment of "
    "its own, or use GPU, CPU or auto"
)


class TPUBackend(ABC):
    """What training asks of a TPU. `autocast_type` is the device type that autocast knows it by."""

    autocast_type: str

    @abstractmethod
    def device(self) -> torch.device:
        """The first TPU core. Raises `ConfigError` if there is none."""

    @abstractmethod
    def multiply_in_float32(self) -> None:
        """Let float32 multiplications be that; a TPU rounds their factors to bfloat16 if let."""

    @abstractmethod
    def sync(self) -> None:
        """Run what was recorded; does not wait for it."""

    @abstractmethod
    def feed(self, batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
        """The batches on the device, sent ahead of their step. An error of theirs is raised."""


class TorchXLA(TPUBackend):
    """PyTorch/XLA 2.9. Where there is no TPU it runs on XLA's CPU device, with a warning; there it
    is tested, and on a TPU it was never run."""

    autocast_type = "xla"

    def __init__(self) -> None:
        self._xla: Any = import_module("torch_xla")

    def device(self) -> torch.device:
        kind = import_module("torch_xla.runtime").device_type()
        if kind != "TPU":
            log.warning("device: TPU was asked for and is not there; XLA runs on the %s", kind)
        device: torch.device = self._xla.device()
        return device

    def multiply_in_float32(self) -> None:
        import_module("torch_xla.backends").set_mat_mul_precision("highest")

    def sync(self) -> None:
        self._xla.sync()

    def feed(self, batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
        loaders: Any = import_module("torch_xla.distributed.parallel_loader")
        source = _Kept(batches)
        yield from loaders.MpDeviceLoader(source, device)
        if source.error is not None:
            raise source.error


class TorchTPU(TPUBackend):
    """TorchTPU, whose device is `tpu`. It was never run: the tests put the CPU in its place."""

    autocast_type = "tpu"

    def device(self) -> torch.device:
        import_module("torch_tpu")  # registers the device, if there is one
        found = torch.accelerator.current_accelerator()
        if found is None or found.type != "tpu":
            raise ConfigError(
                "device: TPU was asked for and TorchTPU finds none here; use GPU, CPU or auto"
            )
        return found

    def multiply_in_float32(self) -> None:
        torch.set_float32_matmul_precision("highest")

    def sync(self) -> None:
        """Nothing: it fuses and runs operations by itself."""

    def feed(self, batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
        for batch in batches:
            yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}


class _Kept:
    """An iterable that ends where it fails and keeps the error: PyTorch/XLA reads it in a thread,
    and would print what goes wrong there and take it for the end of the epoch."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._batches
        except Exception as error:
            self.error = error


def find_backend() -> TPUBackend:
    """The library that is installed, TorchTPU before PyTorch/XLA. Raises `ConfigError` if none."""
    if find_spec("torch_tpu") is not None:
        return TorchTPU()
    if find_spec("torch_xla") is not None:
        return TorchXLA()
    raise ConfigError(NEITHER)
