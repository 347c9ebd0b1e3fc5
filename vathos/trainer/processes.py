"""The processes that train one network together, as torchrun starts them.

The one rule: what holds for all is decided from what all have told; and where one fails, the others
end with it, at once, and only the first to fail says why. A process that was started alone talks to
no one.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from vathos.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor
    from torch._C._distributed_c10d import Store

__all__ = ["Processes", "TorchProcesses", "current", "joined"]

FAILURES = "failures"


class Processes:
    """One process alone: `rank` of `size`, and `local_rank` on this machine.

    What has no meaning alone does nothing; every process must call it, or all wait. A kind of
    several processes overrides `gather`, `share`, `sum`, `broadcast` and `barrier`.
    """

    rank = 0
    size = 1
    local_rank = 0

    @property
    def writes(self) -> bool:
        """True for the one process that writes files, logs and shows progress."""
        return self.rank == 0

    def any(self, mine: bool) -> bool:
        """True if any process says so."""
        return self.sum([float(mine)])[0] > 0

    def sum(self, values: list[float]) -> list[float]:
        """The sum over the processes, in float64, the same to the bit in each."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, for the one that writes; others get their own.

        A value is made of tensors and plain values; tensors come back on the CPU.
        """
        return [value]

    def share(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the process that writes; the others do not call it. As above."""
        return make()

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite them with those of the process that writes."""

    def barrier(self) -> None:
        """Wait until all are here."""


class TorchProcesses(Processes):
    """The default group of `torch.distributed`."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))

    def sum(self, values: list[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        packed: list[Any] | None = [None] * self.size if self.writes else None
        distributed.gather_object(_pack(value), packed)
        return [value] if packed is None else [_unpack(each) for each in packed]

    def share(self, make: Callable[[], Any]) -> Any:
        made = make() if self.writes else None
        packed = [_pack(made)]
        distributed.broadcast_object_list(packed)
        return made if self.writes else _unpack(packed[0])

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)

    def barrier(self) -> None:
        self.sum([0.0])  # between hosts, whatever their devices are doing


def current() -> Processes:
    """The processes of this run. Raises `ConfigError` if torchrun started several and this one has
    not `joined` the others."""
    if distributed.is_available() and distributed.is_initialized():
        return TorchProcesses()
    if _started() > 1:
        raise ConfigError(
            f"torchrun started {_started()} processes, and this program trains in each alone; wrap "
            "what it does in `with vathos.trainer.joined():`, or start it without torchrun"
        )
    return Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started with this one, for as long as the context lasts.

    A process that was started alone gets a `Processes` and nothing else happens. Of several, the
    first that fails raises its error, and the others end silently with exit code 1. If one just
    vanishes, that is a `TrainingError`.
    """
    if _started() == 1 or distributed.is_initialized():
        yield current()
        return
    store = _join()
    try:
        yield current()
        distributed.destroy_process_group()
    except Exception as error:
        # Before this process closes its connections: by that the others learn that it failed.
        if not _is_first_failure(store):
            raise SystemExit(1) from None
        if _tells_of_a_loss(error):
            raise TrainingError(
                "another process of this run vanished, as where memory is short or a machine is "
                "taken away; the same command goes on from the last checkpoint, and torchrun does "
                "so by itself with --max-restarts"
            ) from error
        raise


def _pack(value: Any) -> bytes:
    # torch's own way of sending objects cannot send every tensor that it can save.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)


def _started() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if distributed.is_available() else 1


def _join() -> Store:
    # Not there in every build of torch.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    # Gloo for what the processes tell each other, NCCL for what their GPUs do.
    gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    store, rank, size = next(rendezvous("env://"))
    # torchrun keeps the store when it restarts; with the addresses that ended processes left in it,
    # the new ones may wait for each other for ever.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"vathos/{attempt}/{size}", store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    return store


def _is_first_failure(store: Store) -> bool:
    try:
        return store.add(FAILURES, 1) == 1
    except RuntimeError:  # it ended with the process that kept it
        return True


def _tells_of_a_loss(error: Exception) -> bool:
    """True for what gloo and NCCL raise where another process no longer answers."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
