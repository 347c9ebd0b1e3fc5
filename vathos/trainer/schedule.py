"""The learning rate along a run.

The one rule: a scheduler that needs to know its length is told the run's, so that the learning rate
is annealed at the last step and not before or after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim import lr_scheduler

from vathos.utils.instances import (
    WRONG_ARGUMENT,
    InstanceError,
    get_instance_v2,
    written_in,
)

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from vathos.utils.schema import Config, SchedulerConfig

__all__ = ["Schedule"]

STEPWISE = ("OneCycleLR", "CyclicLR")
LENGTH_ARGUMENT = {
    "OneCycleLR": "total_steps",
    "CosineAnnealingLR": "T_max",
    "PolynomialLR": "total_iters",
}
# Arguments that set the learning rate of every group, whatever the optimiser was given.
RATE_ARGUMENTS = {"OneCycleLR": ("max_lr",), "CyclicLR": ("base_lr", "max_lr")}
COMPOUND = ("SequentialLR", "ChainedScheduler")
NEEDS_CODE = ("LambdaLR", "MultiplicativeLR", "LRScheduler")


class Schedule:
    """A `torch.optim.lr_scheduler`, or none, stepped when the configuration says.

    SequentialLR and ChainedScheduler take `schedulers`, a list of {type, args}, in their arguments.
    OneCycleLR and CyclicLR set one learning rate for all; here each group of parameters keeps its
    ratio to the first one's. Raises `ConfigError` for an unknown scheduler or argument, for one
    that only a program can build, or one too short for the run.
    """

    def __init__(self, config: Config, optimizer: Optimizer, epochs: int, steps: int) -> None:
        self.scheduler: Any = None
        self._steps = steps
        self._optimizer = optimizer
        section = config.lr_scheduler
        if section is None:
            return
        with written_in(config.places, "lr_scheduler"):
            self._stepwise = (section.interval or _default_interval(section)) == "step"
            length = steps if self._stepwise else epochs
            if length > 1:
                _rehearse(section, optimizer, length)
            self.scheduler = _build(section.type, section.args, optimizer, length)
            if section.type == "ReduceLROnPlateau" and self._stepwise:
                raise InstanceError(
                    "ReduceLROnPlateau watches the test loss, once an epoch; leave interval out",
                    "interval",
                )
            self._check_one_cycle(length)

    def _check_one_cycle(self, length: int) -> None:
        given = getattr(self.scheduler, "total_steps", None)
        if isinstance(given, int) and given < length:
            raise InstanceError(
                f"args ends OneCycleLR after {given} steps, but the run has {length}; "
                f"leave the length out and it is filled in",
                "args",
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


def _default_interval(section: SchedulerConfig) -> str:
    parts = _parts(section.args) if section.type in COMPOUND else []
    names = [section.type, *(part.get("type") for part in parts if isinstance(part, dict))]
    return "step" if any(name in STEPWISE for name in names) else "epoch"


def _rehearse(section: SchedulerConfig, optimizer: Optimizer, length: int) -> None:
    """Raise for arguments that fail at a first step, which may be an epoch of hours away."""
    groups = [{"params": [torch.zeros(1)], "lr": group["lr"]} for group in optimizer.param_groups]
    stand_in = torch.optim.SGD(groups, momentum=0.9)
    scheduler = _build(section.type, section.args, stand_in, length)
    stand_in.step()
    watched = [0.0] if section.type == "ReduceLROnPlateau" else []
    try:
        scheduler.step(*watched)
    except WRONG_ARGUMENT as error:
        raise InstanceError(
            f"{section.type} cannot step with {section.args}: {error}", "args"
        ) from error


def _build(name: str, args: dict[str, Any], optimizer: Optimizer, length: int | None) -> Any:
    """The scheduler `name`; a `length` is filled in where it wants one and has none."""
    if name in NEEDS_CODE:
        raise InstanceError(f"{name} needs a function, which no file can hold", "type")
    args = dict(args)
    if name in COMPOUND:
        args["schedulers"] = [_build_part(part, optimizer) for part in _parts(args)]
        if name == "ChainedScheduler":
            return get_instance_v2(lr_scheduler, name, args.pop("schedulers"), **args)
    argument = LENGTH_ARGUMENT.get(name)
    if argument and length and not (argument in args or "steps_per_epoch" in args):
        args[argument] = length
    rates = [group["lr"] for group in optimizer.param_groups]
    for key in RATE_ARGUMENTS.get(name, ()):
        if isinstance(args.get(key), (int, float)) and len(set(rates)) > 1:
            args[key] = [args[key] * rate / rates[0] for rate in rates]
    return get_instance_v2(lr_scheduler, name, optimizer, **args)


def _parts(args: dict[str, Any]) -> list[Any]:
    parts = args.get("schedulers", [])
    if not isinstance(parts, list):
        raise InstanceError(
            f"schedulers is {parts!r}, but must be a list of {{type, args}}", "args.schedulers"
        )
    return parts


def _build_part(part: Any, optimizer: Optimizer) -> Any:
    if not isinstance(part, dict) or set(part) - {"type", "args"} or "type" not in part:
        raise InstanceError(
            f"schedulers holds {part!r}, but must hold {{type: NAME, args: {{...}}}}",
            "args.schedulers",
        )
    # How long a part lasts is for the milestones to say, so no length is filled in.
    return _build(part["type"], part.get("args") or {}, optimizer, None)
