"""Several processes that train together over gloo, and what can befall one of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from tests.vathos.trainings import name_networks
from vathos import train
from vathos.data_loader import DenseDepth
from vathos.errors import DataError
from vathos.trainer import BaseTrainer
from vathos.trainer.health import Health

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

IN_TIME_S = 60  # on a busy machine; half an hour is what gloo would wait


@dataclass
class Rank:
    """What is left of a process: its exit code, what it wrote to standard error, the loss by number
    of batch in the order of training, and the rows that it trained on."""

    code: int | None
    said: str
    losses: list[tuple[int, float]]
    rows: list[list[int]]


def train_together(
    context: ForkServerContext,
    folder: Path,
    config: dict[str, Any],
    size: int,
    fault: tuple[str, int, int] | None = None,
) -> list[Rank]:
    """Train in `size` processes, with files in `folder`.

    fault: (what, rank, batch): what befalls a process when it has taken that batch of its own.
    """
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    # As torchrun has it: the store outlives the processes.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = [
        context.Process(target=_rank, args=(rank, size, store.port, path, fault))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(IN_TIME_S)
    hanging = [process for process in started if process.exitcode is None]
    for process in hanging:
        process.kill()
    assert not hanging
    return [_left(process.exitcode, folder, rank) for rank, process in enumerate(started)]


def _left(code: int | None, folder: Path, rank: int) -> Rank:
    seen = folder / f"rank{rank}.json"
    record = json.loads(seen.read_text()) if seen.exists() else {"losses": [], "rows": []}
    said = (folder / f"rank{rank}.err").read_text()
    return Rank(code, said, [tuple(pair) for pair in record["losses"]], record["rows"])


def _rank(rank: int, size: int, port: int, path: Path, fault: tuple[str, int, int] | None) -> None:
    # Where TensorFlow is installed, TensorBoard would load it: five seconds in each process.
    sys.modules["tensorboard.compat.notf"] = ModuleType("notf")
    torch.set_num_threads(1)
    name_networks(pytest.MonkeyPatch())
    if size > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "0"
    error = os.open(path.with_name(f"rank{rank}.err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(error, 2)
    seen: dict[str, list[Any]] = {"losses": [], "rows": []}
    _watch(seen)
    if fault is not None and fault[1] == rank:
        _plant(fault[0], fault[2])
    code = train.main([str(path)])
    path.with_name(f"rank{rank}.json").write_text(json.dumps(seen))
    sys.exit(code)


def _watch(seen: dict[str, list[Any]]) -> None:
    add, load, epoch = Health.add, DenseDepth.load_batch, BaseTrainer.train_epoch
    training = False

    def watched_add(self: Health, loss: torch.Tensor, batch: int) -> None:
        seen["losses"].append((batch, float(loss.detach())))
        add(self, loss, batch)

    def watched_load(self: DenseDepth, rows: Any) -> Any:
        if training:
            seen["rows"].append([int(row) for row in rows])
        return load(self, rows)

    def watched_epoch(self: BaseTrainer, number: int) -> dict[str, float]:
        nonlocal training
        training = True
        metrics = epoch(self, number)
        training = False
        return metrics

    Health.add = watched_add  # type: ignore[method-assign]
    DenseDepth.load_batch = watched_load  # type: ignore[method-assign,assignment]
    BaseTrainer.train_epoch = watched_epoch  # type: ignore[method-assign,assignment]


def _plant(what: str, batch: int) -> None:
    forward = BaseTrainer._forward
    taken = 0

    def faulty(self: BaseTrainer, *args: Any) -> Any:
        nonlocal taken
        loss, means = forward(self, *args)
        taken += 1
        if taken == batch:
            if what == "nan":
                loss = loss * float("nan")
            elif what == "data":
                raise DataError("the picture cannot be read; make the archive again")
            elif what == "slow":
                time.sleep(2)
            else:
                os.kill(os.getpid(), getattr(signal, what))
        return loss, means

    BaseTrainer._forward = faulty  # type: ignore[method-assign,assignment]
