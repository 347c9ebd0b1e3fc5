"""A network's forward pass, from pictures on the host to labels on the host.

The one rule: one copy each way, and the device is never waited for until the next batch is on its
way; out of memory halves the batch and goes on.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from depthgen.depth.estimator import EstimatorError
from depthgen.depth.quantity import NEAREST_LABEL
from depthgen.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from depthgen.depth.estimator import Estimator

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
_IN_FLIGHT = 2


@dataclass(frozen=True)
class _Launched:
    """A batch on its way: labels on the host, or coming there; which of them are finite."""

    labels: Tensor
    finite: Tensor
    arrived: Any
    key: Any


class NotFiniteError(StageError):
    """A network gave a value that is no number. position: which picture of which batch.

    estimator: the network, which the person chose by another name, or not at all.
    """

    def __init__(self, key: Any, position: int, estimator: Estimator) -> None:
        super().__init__("the network gave a value that is no number")
        self.key, self.position, self.estimator = key, position, estimator


class Forward:
    """Labels pictures. full_scale: the value that becomes the label 1. bits: 8, 16 or 32.

    limit: so many pictures go through the network at once; `limit` shrinks where they do not fit.
    halve: whether it does; else `torch.OutOfMemoryError` is raised. Where not even one fits, every
    method raises `StageError`.
    """

    def __init__(
        self, estimator: Estimator, full_scale: float, bits: int, limit: int, halve: bool = True
    ) -> None:
        self._estimator, self._scale, self._bits = estimator, full_scale, bits
        self.limit, self._halve = limit, halve
        self._on_cuda = estimator.device.type == "cuda"

    def labels(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        """(N, H, W, 3) → (N, H, W): uint8, uint16 or float32. Raises `NotFiniteError`."""
        parts = [labels for _, labels in self.stream([(None, pictures)])]
        return parts[0]

    def values(self, pictures: NDArray[np.uint8]) -> Iterator[Tensor]:
        """What the network gives, on the host, part by part. Raises `NotFiniteError`."""
        at_once = self.limit
        for start in range(0, len(pictures), at_once):
            part = torch.from_numpy(pictures[start : start + at_once])
            for values in self._run(part.to(self._estimator.device), self._values):
                finite = torch.isfinite(values).flatten(1).all(dim=1)
                if not bool(finite.all()):
                    position = start + int((~finite).nonzero()[0])
                    raise NotFiniteError(None, position, self._estimator)
                yield values.cpu()
                start += len(values)

    def stream(
        self, batches: Iterable[tuple[Any, NDArray[np.uint8]]]
    ) -> Iterator[tuple[Any, NDArray[Any]]]:
        """(key, pictures) one after the other → (key, labels), in order.

        The next batch is launched before the last one is waited for. Raises `NotFiniteError`.
        """
        launched: deque[_Launched] = deque()
        for key, pictures in batches:
            launched.append(self._launch(key, pictures))
            if len(launched) >= _IN_FLIGHT or not self._on_cuda:
                yield self._land(launched.popleft())
        while launched:
            yield self._land(launched.popleft())

    def _land(self, batch: _Launched) -> tuple[Any, NDArray[Any]]:
        if batch.arrived is not None:
            batch.arrived.synchronize()
        if not bool(batch.finite.all()):
            position = int((~batch.finite).nonzero()[0])
            raise NotFiniteError(batch.key, position, self._estimator)
        return batch.key, batch.labels.numpy()

    def _launch(self, key: Any, pictures: NDArray[np.uint8]) -> _Launched:
        host = torch.from_numpy(pictures)
        if self._on_cuda:
            host = host.pin_memory()
        parts = self._run(host.to(self._estimator.device, non_blocking=True), self._label)
        labels, finite = (torch.cat(each) for each in zip(*parts, strict=True))
        arrived = None
        if self._on_cuda:
            labels, finite = (_to_pinned(each) for each in (labels, finite))
            arrived = torch.cuda.Event()
            arrived.record()
        return _Launched(labels.cpu(), finite.cpu(), arrived, key)

    @torch.inference_mode()
    def _run(self, pictures: Tensor, work: Callable[[Tensor], Result]) -> list[Result]:
        """What `work` makes of the pictures, as many at a time as fit, on the device."""
        while True:
            try:
                return [work(part) for part in pictures.split(self.limit)]
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(error)

    def _values(self, pictures: Tensor) -> Tensor:
        """What the network gives, a map a picture. Raises `EstimatorError` where it is another."""
        values = self._estimator(pictures)
        if values.shape != pictures.shape[:3]:
            found, wanted = (" × ".join(map(str, it)) for it in (values.shape, pictures.shape[:3]))
            raise EstimatorError(
                f"{self._estimator.model} gives depth of {found} for pictures of {wanted}; give a "
                "network with one map for each picture"
                + (", or run this one with --forward-batch 1" if len(pictures) > 1 else "")
            )
        return values

    def _label(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(labels, whether each picture's are finite)."""
        values = self._values(pictures)
        finite = torch.isfinite(values).flatten(1).all(dim=1)
        label = torch.clamp(values / self._scale, NEAREST_LABEL, 1.0)
        if self._bits == 32:
            return label, finite
        # 65535 fits no signed 16 bits, and torch has few kernels for unsigned ones.
        whole = (label * (2**self._bits - 1)).nan_to_num(0.0)
        if self._bits == 8:
            return whole.to(torch.uint8), finite
        return whole.to(torch.int32).to(torch.uint16), finite

    def _shrink(self, error: Exception) -> None:
        if not self._halve:
            raise torch.OutOfMemoryError(str(error)) from error
        if self.limit == 1:
            raise StageError(
                f"{self._estimator.model} does not fit into the memory of "
                f"{self._estimator.device}, not even for one picture; use a smaller network, or "
                "another --device"
            ) from error
        self.limit = max(1, self.limit // 2)
        if self._on_cuda:
            torch.cuda.empty_cache()
        _log.warning(
            "%s ran out of memory; it goes on with %d pictures at a time",
            self._estimator.device,
            self.limit,
        )


def _to_pinned(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator has no error of its own, but its name is in what it says.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
