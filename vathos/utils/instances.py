"""Objects from names: `optimizer: {type: AdamW, args: {lr: 0.01}}` becomes an AdamW.

The one rule: a name or an argument that does not exist is a `ConfigError` that offers the nearest
one, raised before anything is built.
"""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from vathos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

    from torch import nn

__all__ = ["find_constructor", "get_instance", "get_instance_v2", "setup_param_groups"]


def get_instance(module: ModuleType, name: str, config: dict[str, Any], *args: Any) -> Any:
    """Build what section `name` of a configuration describes, from a class of `module`.

    The section is a class name, or a dict with `type` and perhaps `args` (keyword arguments);
    `args` are positional arguments put before them. Raises `ConfigError`.
    """
    section = config.get(name)
    if isinstance(section, str):
        section = {"type": section}
    if not isinstance(section, dict) or "type" not in section:
        raise ConfigError(f"the configuration has no section {name} with a type")
    return get_instance_v2(module, section["type"], *args, **(section.get("args") or {}))


def get_instance_v2(module: ModuleType, ctor_name: str, *args: Any, **kwargs: Any) -> Any:
    """`module.ctor_name(*args, **kwargs)`. Raises `ConfigError` for an unknown name or argument."""
    constructor = find_constructor(module, ctor_name)
    _check_arguments(constructor, ctor_name, args, kwargs)
    try:
        return constructor(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{ctor_name} cannot be built with {kwargs}: {error}") from error


def find_constructor(module: ModuleType, ctor_name: str) -> Callable[..., Any]:
    """The class `ctor_name` of `module`. Raises `ConfigError` with the nearest name."""
    found = getattr(module, ctor_name, None)
    if isinstance(found, type):
        return found
    known = [name for name, value in vars(module).items() if isinstance(value, type)]
    hint = _nearest(ctor_name, (name for name in known if not name.startswith("_")))
    raise ConfigError(f"{module.__name__} has no {ctor_name}; {hint}")


def setup_param_groups(model: nn.Module, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser: weights, and those that must not decay.

    Scales and shifts of BatchNorm (one-dimensional) get no weight decay: shrinking them changes the
    function, not its complexity. `config` is the configuration of the experiment; only an optimiser
    that is given `weight_decay`, or has one by default, sees a difference.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    import torch

    name = (config.get("optimizer") or {}).get("type", "AdamW")
    decays = "weight_decay" in inspect.signature(find_constructor(torch.optim, name)).parameters
    groups: list[dict[str, Any]] = [{"params": weights}] if weights else []
    if vectors:
        groups.append({"params": vectors, **({"weight_decay": 0.0} if decays else {})})
    return groups


def _check_arguments(
    constructor: Callable[..., Any], ctor_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    parameters = inspect.signature(constructor).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    # What is passed by position is ours to give, so a configuration may not name it.
    free = list(parameters)[len(args) :]
    for key in kwargs:
        if key not in free:
            raise ConfigError(f"{ctor_name} takes no argument {key}; {_nearest(key, free)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    if near:
        return f"did you mean {lowered[near[0]]}?"
    return f"there are {', '.join(known)}" if known else "it takes none"
