"""The optimiser by name, and its parameters in groups.

The one rule: every trainable parameter is in exactly one group, and a group that a person asked for
and that would be empty is an error.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import torch

from vathos.utils.instances import (
    InstanceError,
    check_arguments,
    find_constructor,
    get_instance_v2,
    written_in,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from vathos.utils.schema import Config

__all__ = ["build_optimizer", "setup_param_groups"]

CANNOT_TRAIN = {
    "LBFGS": "needs the loss again and again in one step",
    "SparseAdam": "needs sparse gradients, which no layer here has",
}


def build_optimizer(model: nn.Module, config: Config) -> Optimizer:
    """The optimiser of `config.optimizer` over the parameters of `model`. Raises `ConfigError`."""
    section = config.optimizer
    with written_in(config.places, "optimizer"):
        if section.type in CANNOT_TRAIN:
            reason = CANNOT_TRAIN[section.type]
            raise InstanceError(f"{section.type} {reason}; choose another, such as AdamW", "type")
        groups = setup_param_groups(model, {"optimizer": section.model_dump()})
        optimizer: Optimizer = get_instance_v2(torch.optim, section.type, groups, **section.args)
    return optimizer


def setup_param_groups(model: nn.Module, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser: those that belong to no group asked for, then these.

    `config["optimizer"]["groups"]` lists dicts of `match`, a regular expression that is searched in
    the names of the parameters, and `args` for those that contain it; the first match counts.

    Each is parted once more: scales and shifts of BatchNorm (one-dimensional) get no weight decay,
    for shrinking them changes the function, not its complexity. Only an optimiser that is given
    `weight_decay`, or has one by default, sees a difference; a group's own `weight_decay` holds for
    all of it. Raises `ConfigError` for a group that is empty or has unknown arguments.
    """
    section = config.get("optimizer") or {}
    constructor = find_constructor(torch.optim, section.get("type", "AdamW"))
    decays = "weight_decay" in inspect.signature(constructor).parameters
    wanted = section.get("groups") or []
    patterns = [_compile(each["match"], f"groups.{n}") for n, each in enumerate(wanted)]
    members: list[list[Tensor]] = [[] for _ in range(len(wanted) + 1)]  # the rest comes first
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name in names:
        hits = (n for n, pattern in enumerate(patterns, start=1) if pattern.search(name))
        members[next(hits, 0)].append(model.get_parameter(name))
    for n, each in enumerate(wanted):
        if not members[n + 1]:
            raise InstanceError(
                f"groups: {each['match']!r} matches no parameter that is left; their names are "
                f"such as {names[0]} and {names[-1]}",
                f"groups.{n}.match",
            )
        _check(constructor, section.get("type", "AdamW"), each, n)
    groups = []
    for parameters, args in zip(
        members, [{}, *(each.get("args") or {} for each in wanted)], strict=True
    ):
        plain = {"weight_decay": 0.0, **args} if decays else args
        for vectors, own in ((False, args), (True, plain)):
            mine = [p for p in parameters if (p.ndim <= 1) == vectors]
            if mine:
                groups.append({"params": mine, **own})
    return groups


def _compile(pattern: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InstanceError(
            f"groups: {pattern!r} is not a regular expression ({error})", f"{key}.match"
        ) from error


def _check(constructor: Any, name: str, group: dict[str, Any], number: int) -> None:
    # torch takes any key of a group without a word.
    try:
        check_arguments(constructor, name, group.get("args") or {}, by_position=1)
    except InstanceError as error:
        raise InstanceError(str(error), f"groups.{number}.{error.key}") from error
