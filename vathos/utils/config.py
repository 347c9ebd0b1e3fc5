"""The configuration of a run: the original's YAML keys and ours, as models that check themselves.

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
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vathos.errors import ConfigError, UsageError

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

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
COMMAND_LINE = "the command line"
PATH_KEYS = ("log_dir", "chkpt_dir", "model_init", "dataset.root", "dataset.zip_dir")


def archive_suffix(text: str) -> str:
    """`small`, as `depthgen resize --suffix` takes it, or `_small` -> `_small`; "" stays."""
    return text if not text or text.startswith("_") else f"_{text}"


def _check_name(name: str) -> str:
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise ValueError("the name of a folder: without / and \\, and neither . nor ..")
    return name


class _Section(BaseModel):
    # Strict: a quoted number or a bare `yes` is a slip that is better named than guessed at.
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class LoaderArgs(_Section):
    """How batches are made. `num_workers` processes decode; 0 decodes in the training process."""

    batch_size: Count = 32
    num_workers: Annotated[int, Field(ge=0)] = 0
    shuffle: bool = True
    pin_memory: bool = False


class SplitConfig(_Section):
    """Which share of the backgrounds is held out for testing."""

    test_fraction: Fraction = 0.3


class DatasetConfig(_Section):
    """Where the archives are. `zip_dir` defaults to `root`; `root` is where they would be unpacked.

    `div_factor` d trains and tests on one sample in d; `suffix` names the variant of the archives
    ("" or "_small", which may be written "small"), and None takes the plain ones if they are there.
    """

    name: str = "DenseDepth"
    root: str = "data"
    zip_dir: str | None = None
    suffix: Annotated[str, AfterValidator(archive_suffix)] | None = None
    div_factor: Count = 1
    split: SplitConfig = SplitConfig()
    loader_args: LoaderArgs = LoaderArgs()


class OptimizerConfig(_Section):
    """A `torch.optim` class by name, and its arguments."""

    type: str = "AdamW"
    args: dict[str, Any] = {"lr": 0.01}


class SchedulerConfig(_Section):
    """A `torch.optim.lr_scheduler` class by name, and its arguments.

    `interval` says when it steps; None is each step for OneCycleLR and CyclicLR, else each epoch.
    """

    type: str
    args: dict[str, Any] = {}
    interval: Literal["step", "epoch"] | None = None


class LossWeights(_Section):
    """Total loss = seg x seg_loss + depth x depth_loss."""

    seg: Annotated[float, Field(ge=0)] = 1.0
    depth: Annotated[float, Field(ge=0)] = 2.0


class TrainingConfig(_Section):
    """How long, and how often to look up.

    `epochs` passes over the training set, `steps` optimiser steps at most; with `steps` alone there
    are as many epochs as they need. `checkpoint_every` steps are the most that a kill can cost
    (None: an epoch). `test_samples` bounds what is tested after each epoch, the same samples each
    time. `monitor` decides which checkpoint is the best.
    """

    epochs: Count | None = None
    steps: Count | None = None
    log_every: Count = 10
    checkpoint_every: Count | None = None
    test_samples: Count | None = None
    monitor: Literal["loss", "seg_loss", "depth_loss", "mrmse", "miou", "soft_dice_half"] = "loss"
    channels_last: bool = True

    @model_validator(mode="after")
    def _some_length(self) -> TrainingConfig:
        if self.epochs is None and self.steps is None:
            self.epochs = 3
        return self


class Config(_Section):
    """Everything a run is made of; the defaults train on the default workspace."""

    name: Annotated[str, AfterValidator(_check_name)] = "vathos"
    log_dir: str | None = None
    chkpt_dir: str | None = None
    model_init: str | None = None
    device: Literal["auto", "GPU", "CPU", "TPU"] = "auto"
    model: str = "ResUNet"
    augmentation: str | None = None
    dataset: DatasetConfig = DatasetConfig()
    seg_loss: str = "BCEDiceLoss"
    depth_loss: str = "RMSELoss"
    loss_weights: LossWeights = LossWeights()
    lr_scheduler: SchedulerConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"

    @property
    def zip_dir(self) -> Path:
        """Folder of the archives."""
        return Path(self.dataset.zip_dir or self.dataset.root)

    @property
    def run_folder(self) -> Path:
        """`chkpt_dir/name`; by default `runs/name` in the folder of the archives."""
        return Path(self.chkpt_dir or self.zip_dir / "runs") / self.name

    @property
    def log_folder(self) -> Path:
        """`log_dir/name`; by default the run folder."""
        return Path(self.log_dir) / self.name if self.log_dir else self.run_folder


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
        lines: dict[str, int | str] = dict(_key_lines(yaml.compose(text, _Loader)))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"{path} cannot be read ({reason}); name a configuration file (YAML)"
        ) from error
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {detail}") from error
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
    return _validate(data, str(path), lines)


def parse_config(config: dict[str, Any] | Config, source: str = "the configuration") -> Config:
    """Check a configuration given as a dict; relative paths are relative to the current directory.

    Raises `ConfigError`, which calls the configuration `source`.
    """
    data = config.model_dump() if isinstance(config, Config) else copy.deepcopy(config)
    before = copy.deepcopy(data)
    _resolve_paths(data, Path.cwd())
    _default_root(data, Path.cwd() / "data")
    if isinstance(config, Config) and data == before:
        return config
    return _validate(data, source, {})


def flatten(config: Config) -> dict[str, Any]:
    """All values by dotted key; an `args` dict counts as one value."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, BaseModel):
            for name in type(value).model_fields:
                walk(f"{prefix}.{name}" if prefix else name, getattr(value, name))
        else:
            flat[prefix] = value

    walk("", config)
    return flat


def _key_lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted key -> line, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _key_lines(value, name + ".")


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
        if not isinstance(inner, dict):
            lines[place] = COMMAND_LINE
        holder[section] = dict(inner) if isinstance(inner, dict) else {}
        holder = holder[section]
    holder[key] = nested[key]
    for below in [name for name in lines if name.startswith(f"{dotted}.")]:
        del lines[below]  # what the file says there no longer counts
    lines[dotted] = COMMAND_LINE


def _validate(data: dict[str, Any], source: str, lines: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        typed = _place(_dotted(first), lines) == COMMAND_LINE
        raise (UsageError if typed else ConfigError)(_sentence(first, source, lines)) from error


def _sentence(error: ErrorDetails, source: str, lines: dict[str, Any]) -> str:
    dotted = _dotted(error)
    place = _place(dotted, lines)
    where = place if isinstance(place, str) and place else f"{source}:{place}".rstrip(":")
    if error["type"] == "extra_forbidden":
        return f"{where}: {dotted} is not a known key; {_suggestion(dotted)}"
    if error["type"] == "missing":
        return f"{where}: {dotted} is missing; give it a value"
    problem = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{where}: {dotted} is {error['input']!r}, but must be {problem}"


def _dotted(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])


def _place(dotted: str, lines: dict[str, Any]) -> int | str:
    """Where the key was written, or else the section that it is or should be in."""
    while dotted:
        if dotted in lines:
            place: int | str = lines[dotted]
            return place
        dotted = dotted.rpartition(".")[0]
    return ""


def _suggestion(dotted: str) -> str:
    """The nearest valid key: in the same section if one is like it, else anywhere."""
    section, _, key = dotted.rpartition(".")
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
