"""How long a run is, and the learning rate along it.

The one rule: a scheduler that needs to know its length is told the run's, so that the learning rate
is annealed at the last step and not before or after it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.optim import lr_scheduler

from vathos.errors import ConfigError
from vathos.utils.instances import get_instance_v2

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from vathos.utils.schema import Config, TrainingConfig

__all__ = ["Schedule", "run_length"]

STEPWISE = ("OneCycleLR", "CyclicLR")
LENGTH_ARGUMENT = {
    "OneCycleLR": "total_steps",
    "CosineAnnealingLR": "T_max",
    "PolynomialLR": "total_iters",
}


def run_length(training: TrainingConfig, steps_per_epoch: int) -> tuple[int, int]:
    """(epochs, optimiser steps): `epochs` decides and `steps` cuts, or `steps` alone decides."""
    if training.epochs is None:
        steps = training.steps or 1
        return math.ceil(steps / steps_per_epoch), steps
    steps = training.epochs * steps_per_epoch
    if training.steps is not None and training.steps < steps:
        return math.ceil(training.steps / steps_per_epoch), training.steps
    return training.epochs, steps


class Schedule:
    """A `torch.optim.lr_scheduler`, or none, stepped when the configuration says.

    Raises `ConfigError` for an unknown scheduler or argument, or one too short for the run.
    """

    def __init__(self, config: Config, optimizer: Optimizer, epochs: int, steps: int) -> None:
        self.scheduler: Any = None
        self._steps = steps
        self._optimizer = optimizer
        section = config.lr_scheduler
        if section is None:
            return
        self._stepwise = (section.interval or self._default(section.type)) == "step"
        args = dict(section.args)
        length = steps if self._stepwise else epochs
        argument = LENGTH_ARGUMENT.get(section.type)
        if argument and not (argument in args or "steps_per_epoch" in args):
            args[argument] = length
        self.scheduler = get_instance_v2(lr_scheduler, section.type, optimizer, **args)
        self._check_one_cycle(length)

    @staticmethod
    def _default(name: str) -> str:
        return "step" if name in STEPWISE else "epoch"

    def _check_one_cycle(self, length: int) -> None:
        given = getattr(self.scheduler, "total_steps", None)
        if isinstance(given, int) and given < length:
            raise ConfigError(
                f"lr_scheduler.args ends OneCycleLR after {given} steps, but the run has {length}; "
                f"leave the length out and it is filled in"
            )

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self, step: int) -> None:
        """Call after optimiser step number `step`, counted from 1."""
        # The cycle is over after the last step: one more would start to climb again.
        if self.scheduler is not None and self._stepwise and step < self._steps:
            self.scheduler.step()

    def after_epoch(self, test_loss: float) -> None:
        """Call after each epoch; ReduceLROnPlateau watches the test loss."""
        if self.scheduler is None or self._stepwise:
            return
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(test_loss)
        else:
            self.scheduler.step()
