"""Objects from names: `optimizer: {type: AdamW, args: {lr: 0.01}}` becomes an AdamW.

The one rule: a name or an argument that does not exist is a `ConfigError` that offers the nearest
one, raised before anything is built.
"""

from __future__ import annotations

import difflib
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vathos.errors import ConfigError, UsageError
from vathos.utils.schema import COMMAND_LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from vathos.utils.schema import Places

__all__ = [
    "WRONG_ARGUMENT",
    "InstanceError",
    "check_arguments",
    "find_constructor",
    "get_instance",
    "get_instance_v2",
    "written_in",
]

# What torch raises for arguments that it does not check: it takes them as they come.
WRONG_ARGUMENT = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


class InstanceError(ConfigError):
    """A section that cannot be built; `key` is the part at fault: "type", "args" or "args.NAME"."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def written_in(places: Places, section: str) -> Iterator[None]:
    """Begin a `ConfigError` about the section with the file and line of the key at fault, or with
    the command line."""
    try:
        yield
    except ConfigError as error:
        key = error.key if isinstance(error, InstanceError) else "args"
        place = places.find(f"{section}.{key}")
        kind = UsageError if place == COMMAND_LINE else ConfigError
        detail = f"{section}: {str(error).removeprefix(f'{section}: ')}"
        raise kind(f"{place}: {detail}" if place else detail) from error


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
    check_arguments(constructor, ctor_name, kwargs, len(args))
    try:
        return constructor(*args, **kwargs)
    except WRONG_ARGUMENT as error:
        raise InstanceError(
            f"{ctor_name} cannot be built with {kwargs}: {error or type(error).__name__}", "args"
        ) from error


def find_constructor(module: ModuleType, ctor_name: str) -> type[Any]:
    """The class `ctor_name` of `module`. Raises `ConfigError` with the nearest name."""
    found = getattr(module, ctor_name, None)
    if isinstance(found, type):
        return found
    classes = [name for name, value in vars(module).items() if isinstance(value, type)]
    known = [name for name in classes if not name.startswith("_")]
    # Near may be a class that a program put there; listed is not what the module imports.
    offered = getattr(module, "__all__", known)
    hint = _nearest(ctor_name, known, [name for name in known if name in offered])
    raise InstanceError(f"{module.__name__} has no {ctor_name}; {hint}", "type")


def check_arguments(
    constructor: Callable[..., Any], ctor_name: str, names: Iterable[str], by_position: int = 0
) -> None:
    """Raise `ConfigError` for a name that is no keyword argument of `constructor`, whose first
    `by_position` arguments are given already."""
    parameters = inspect.signature(constructor).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    # What is passed by position is ours to give, so a configuration may not name it.
    free = list(parameters)[by_position:]
    for name in names:
        if name not in free:
            hint = _nearest(name, free)
            raise InstanceError(f"{ctor_name} takes no argument {name}; {hint}", f"args.{name}")


def _nearest(name: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """What to type instead: the nearest of what is known, or all that is listed."""
    known = sorted(known)
    listed = known if listed is None else sorted(listed)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    if near:
        return f"did you mean {lowered[near[0]]}?"
    return f"there are {', '.join(listed)}" if listed else "it takes none"
