"""Which batches of the epoch's order make a step, and which of them each process takes.

The one rule: the steps of a run are laid down when it begins and stay as they are, whatever number
of processes go on with it; so the learning rate, the number of steps and the mean over which each
gradient is taken stay too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vathos.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from vathos.trainer.processes import Processes
    from vathos.utils.schema import TrainingConfig

__all__ = ["Plan", "Step", "next_step", "plan_run"]


class Step(NamedTuple):
    """Batches `first` to `end` of an epoch's order, of which this process takes `mine`."""

    first: int
    end: int
    mine: range


@dataclass(frozen=True)
class Plan:
    """A run of `steps` optimiser steps in `epochs` epochs, begun by `processes` processes.

    An epoch trains on its first `batches` batches: rounds that give each of those processes one. A
    step takes the next `per_step` of them, or what is left at the end of the epoch.
    """

    processes: int
    batches: int
    per_step: int
    epochs: int
    steps: int

    def end(self, epoch: int) -> int:
        """How many batches this epoch trains on: fewer if the run's steps end in it."""
        steps_before = epoch * math.ceil(self.batches / self.per_step)
        return min(self.batches, (self.steps - steps_before) * self.per_step)

    def rest(self, epoch: int, done: int, processes: Processes) -> list[Step]:
        """The steps of this epoch after its first `done` batches."""
        end = self.end(epoch)
        spans = ((at, min(at + self.per_step, end)) for at in range(done, end, self.per_step))
        rank, size = processes.rank, processes.size
        return [Step(first, last, range(first + rank, last, size)) for first, last in spans]

    def check(self, size: int) -> None:
        """Raise `CheckpointError` if there is a step with no batch for one of `size` processes."""
        fewest = self.batches % self.per_step or self.per_step
        if size > fewest:
            raise CheckpointError(
                f"this run was begun by {_count(self.processes, 'process')} and has steps of "
                f"{_count(fewest, 'batch')}, too few for {size} processes; go on with at most "
                f"{fewest}, or choose another name"
            )


def next_step(first: int, batches: int) -> Step:
    """A step of one process alone."""
    return Step(first, first + batches, range(first, first + batches))


def plan_run(training: TrainingConfig, batches: int, processes: int) -> Plan:
    """The plan of a run with so many full batches an epoch.

    `training.epochs` decides and `steps` cuts, or `steps` alone decides. Raises `ConfigError` for
    fewer batches than processes.
    """
    if batches < processes:
        raise ConfigError(
            f"dataset.loader_args.batch_size leaves {_count(batches, 'full batch')} an epoch, and "
            f"there are {processes} processes; lower it, or start fewer processes"
        )
    used = batches - batches % processes
    per_step = processes * training.accumulate
    in_epoch = math.ceil(used / per_step)
    epochs = training.epochs or math.ceil((training.steps or 1) / in_epoch)
    steps = min(training.steps or epochs * in_epoch, epochs * in_epoch)
    return Plan(processes, used, per_step, math.ceil(steps / in_epoch), steps)


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith(("h", "s")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
