"""Reading the configuration of a run, overriding it, and saying what is wrong with it.

The one rule: a key that is not known, or a value of the wrong type, is refused with the file, the
line, the key and the nearest valid one; nothing that a person wrote is silently ignored. Relative
paths are relative to the configuration file, those of an override or a dict to the current
directory, and all come out absolute, so that a run's record means the same wherever it lies.
"""

from __future__ import annotations

import copy
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from vathos.errors import ConfigError, UsageError
from vathos.utils.schema import COMMAND_LINE, Config, NamedConfig, Places, archive_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_core import ErrorDetails

__all__ = [
    "Config",
    "archive_suffix",
    "flatten",
    "load_config",
    "parse_config",
    "read_config",
]

PATH_KEYS = ("log_dir", "chkpt_dir", "model_init", "dataset.root", "dataset.zip_dir")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as a word; a learning rate is written so all the time."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(filename: str) -> dict[str, Any]:
    """Load a configuration file (YAML), checked and completed, as a plain dict.

    Relative paths come back absolute. Raises `ConfigError`.
    """
    return read_config(filename).model_dump()


def read_config(
    filename: str | Path, overrides: Sequence[str] = (), default_root: Path | None = None
) -> Config:
    """Read a configuration file and lay overrides such as `training.epochs=3` over it.

    default_root: `dataset.root` where neither the file nor an override says where the archives are
    (by `dataset.root` or `dataset.zip_dir`); None is `data` beside the file.

    Raises `ConfigError` if the file cannot be read, a key is unknown or a value has the wrong type,
    and its subclass `UsageError` if it is an override that is wrong.
    """
    path = Path(filename)
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.load(text, _Loader)
        lines = _find_lines(text, path)
    except (OSError, UnicodeDecodeError) as error:
        if "=" in str(filename) and not path.exists():
            raise UsageError(
                f"{filename} is an override; name a configuration file (YAML) before it"
            ) from error
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"{path} cannot be read ({reason}); name a configuration file (YAML)"
        ) from error
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {detail}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: an anchor (&) holds itself; write out what it means") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, such as `model: ResUNet`")
    _resolve_paths(data, path.resolve().parent)
    for override in overrides:
        _override(data, override, lines)
    root = path.resolve().parent / "data"
    if default_root is not None and not _names_archives(data):
        root = default_root.expanduser().absolute()
    _default_root(data, root)
    return _validate(data, Places(str(path), lines))


def parse_config(config: dict[str, Any] | Config) -> Config:
    """Check a configuration given as a dict; relative paths are relative to the current directory.

    Raises `ConfigError`.
    """
    data = config.model_dump() if isinstance(config, Config) else copy.deepcopy(config)
    before = copy.deepcopy(data)
    _resolve_paths(data, Path.cwd())
    _default_root(data, Path.cwd() / "data")
    if isinstance(config, Config) and data == before:
        return config
    return _validate(data, Places("the configuration"))


def flatten(config: Config) -> dict[str, Any]:
    """All values by dotted key; an `args` dict, a list, or a model, loss or augmentation counts as
    one value."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, BaseModel) and not isinstance(value, NamedConfig):
            for name in type(value).model_fields:
                walk(f"{prefix}.{name}" if prefix else name, getattr(value, name))
        elif isinstance(value, list):
            flat[prefix] = [x.model_dump() if isinstance(x, BaseModel) else x for x in value]
        else:
            flat[prefix] = value.model_dump() if isinstance(value, BaseModel) else value

    walk("", config)
    return flat


def _key_lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted key -> line, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _key_lines(value, name + ".")
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield f"{prefix}{number}", value.start_mark.line + 1
            yield from _key_lines(value, f"{prefix}{number}.")


def _find_lines(text: str, path: Path) -> dict[str, int | str]:
    lines: dict[str, int | str] = {}
    for dotted, line in _key_lines(yaml.compose(text, _Loader)):
        if dotted in lines:
            raise ConfigError(
                f"{path}:{line}: {dotted} is already in line {lines[dotted]}; remove one of them"
            )
        lines[dotted] = line
    return lines


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    for dotted in PATH_KEYS:
        *sections, key = dotted.split(".")
        holder: Any = data
        for section in sections:
            holder = holder.get(section) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = str(folder / Path(holder[key]).expanduser())


def _names_archives(data: dict[str, Any]) -> bool:
    dataset = data.get("dataset")
    return isinstance(dataset, dict) and ("root" in dataset or dataset.get("zip_dir") is not None)


def _default_root(data: dict[str, Any], root: Path) -> None:
    dataset = data.get("dataset", {})
    if isinstance(dataset, dict) and "root" not in dataset:
        data["dataset"] = {**dataset, "root": str(root)}


def _override(data: dict[str, Any], override: str, lines: dict[str, int | str]) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UsageError(f"{override!r} is not an override; write it as training.epochs=3")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"the value of the override {override!r} is not valid YAML") from error
    *sections, key = dotted.split(".")
    nested: dict[str, Any] = {key: value}
    for section in reversed(sections):
        nested = {section: nested}
    _resolve_paths(nested, Path.cwd())
    holder, place = data, ""
    for section in sections:
        place = f"{place}.{section}".lstrip(".")
        nested = nested[section]
        inner = holder.get(section)
        if isinstance(inner, str):  # a bare name is short for {type: NAME}
            inner = {"type": inner}
        elif not isinstance(inner, dict):
            lines[place] = COMMAND_LINE
        holder[section] = dict(inner) if isinstance(inner, dict) else {}
        holder = holder[section]
    holder[key] = nested[key]
    for below in [name for name in lines if name.startswith(f"{dotted}.")]:
        del lines[below]  # what the file says there no longer counts
    lines[dotted] = COMMAND_LINE


def _validate(data: dict[str, Any], places: Places) -> Config:
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        # An unknown key first: it is often why another one is missing.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        typed = places.find(_dotted(first)) == COMMAND_LINE
        raise (UsageError if typed else ConfigError)(_sentence(first, places)) from error
    config._places = places
    return config


def _sentence(error: ErrorDetails, places: Places) -> str:
    dotted = _dotted(error)
    where = places.find(dotted)
    if error["type"] == "extra_forbidden":
        return f"{where}: {dotted} is not a known key; {_suggestion(dotted)}"
    if error["type"] == "missing":
        return f"{where}: {dotted} is missing; give it a value"
    problem = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{where}: {dotted} is {error['input']!r}, but must be {problem}"


def _dotted(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])


def _suggestion(dotted: str) -> str:
    """The nearest valid key: in the same section if one is like it, else anywhere."""
    names = [part for part in dotted.split(".") if not part.isdecimal()]  # no places in lists
    section, key = ".".join(names[:-1]), names[-1]
    known = list(_known_keys(Config))
    siblings = {
        name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section
    }
    near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.5)
    if near:
        return f"did you mean {siblings[near[0]]}?"
    leaves = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, leaves, n=1, cutoff=0.7)
    if near:
        return f"did you mean {leaves[near[0]]}?"
    return f"known here: {', '.join(siblings)}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _known_keys(kind, f"{prefix}{name}.")
