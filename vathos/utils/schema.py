"""The keys of a configuration with their types and defaults: the original's and ours, as models.

The one rule: a default stands here and nowhere else; `configs/full.yaml` shows all of them. Reading
a file, overriding it and saying what is wrong with it is `vathos.utils.config`'s work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

__all__ = [
    "COMMAND_LINE",
    "Config",
    "NamedConfig",
    "OptimizerConfig",
    "Places",
    "SchedulerConfig",
    "TrainingConfig",
    "archive_suffix",
]

COMMAND_LINE = "the command line"
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Switch = Literal["auto", True, False]
Monitor = Literal[
    "loss",
    "seg_loss",
    "depth_loss",
    "mrmse",
    "miou",
    "soft_dice_half",
    "dice",
    "abs_rel",
    "log10",
    "delta1",
    "delta2",
    "delta3",
    "ssim",
]


def archive_suffix(text: str) -> str:
    """`small`, as `depthgen resize --suffix` takes it, or `_small` -> `_small`; "" stays."""
    return text if not text or text.startswith("_") else f"_{text}"


def _check_name(name: str) -> str:
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise ValueError("the name of a folder: without / and \\, and neither . nor ..")
    return name


@dataclass(frozen=True)
class Places:
    """Where each key was written: the file, and by dotted key its line or "the command line".

    Two are always equal: where something was written is no part of what it says.
    """

    source: str = field(default="", compare=False)
    lines: dict[str, int | str] = field(default_factory=dict, compare=False)

    def find(self, dotted: str) -> str:
        """`config.yaml:7` for a key or else the section that it is or should be in; "the command
        line"; or the source alone."""
        while dotted:
            if dotted in self.lines:
                line = self.lines[dotted]
                return line if isinstance(line, str) else f"{self.source}:{line}"
            dotted = dotted.rpartition(".")[0]
        return self.source


class _Section(BaseModel):
    # Strict: a quoted number or a bare `yes` is a slip that is better named than guessed at.
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class _Named(_Section):
    """A class by name, and its arguments; a bare name is short for `{type: NAME}`."""

    type: str
    args: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value}
        if not isinstance(value, (dict, cls)):
            raise ValueError("a name, or a name and arguments as {type: NAME, args: {...}}")
        return value

    def __str__(self) -> str:
        return self.type


class NamedConfig(_Named):
    """A model, loss or augmentation: NAME, or {type: NAME, args: {...}}; written as short as can
    be."""

    @model_serializer(mode="wrap")
    def _shortest(self, complete: SerializerFunctionWrapHandler) -> Any:
        return complete(self) if self.args else self.type


class LoaderArgs(_Section):
    """How batches are made. `num_workers` processes decode; 0 decodes in the training process."""

    batch_size: Count = 32
    num_workers: Annotated[int, Field(ge=0)] = 0
    shuffle: bool = True
    pin_memory: bool = False


class SplitConfig(_Section):
    """What is new in the test set: its backgrounds, its cut-outs or both; and which share of them
    is held out."""

    by: Literal["background", "cutout", "both"] = "background"
    test_fraction: Fraction = 0.3


class DatasetConfig(_Section):
    """Where the archives are. `zip_dir` defaults to `root`; `root` is where they would be unpacked.

    `div_factor` d trains and tests on one sample in d; `suffix` names the variant of the archives
    ("" or "_small", which may be written "small"), and None takes the plain ones if they are there.
    `size` is the side in pixels to train at, where the pictures are larger; None leaves them.
    `cache` says where decoded samples are kept for the next epoch; auto takes the device if it is a
    GPU with room, else the memory if it has room, and neither for a run of one epoch.
    """

    name: str = "DenseDepth"
    root: str = "data"
    zip_dir: str | None = None
    suffix: Annotated[str, AfterValidator(archive_suffix)] | None = None
    size: Count | None = None
    div_factor: Count = 1
    cache: Literal["auto", "device", "ram", "disk", "none"] = "auto"
    split: SplitConfig = SplitConfig()
    loader_args: LoaderArgs = LoaderArgs()


class GroupConfig(_Section):
    """The parameters whose name contains a match of this regular expression, and their own
    arguments."""

    match: str
    args: dict[str, Any] = {}


class OptimizerConfig(_Named):
    """A `torch.optim` class by name, its arguments, and groups of parameters with their own.

    A parameter belongs to the first group that matches its name, or else to the rest.
    """

    type: str = "AdamW"
    args: dict[str, Any] = {"lr": 0.01}
    groups: list[GroupConfig] = []


class SchedulerConfig(_Named):
    """A `torch.optim.lr_scheduler` class by name, and its arguments.

    `interval` says when it steps; None is each step for OneCycleLR and CyclicLR, else each epoch.
    """

    interval: Literal["step", "epoch"] | None = None


class LossWeights(_Section):
    """Total loss = seg x seg_loss + depth x depth_loss."""

    seg: Annotated[float, Field(ge=0)] = 1.0
    depth: Annotated[float, Field(ge=0)] = 2.0


class TrainingConfig(_Section):
    """How long, how, and how often to look up.

    `epochs` passes over the training set, `steps` optimiser steps at most; with `steps` alone there
    are as many epochs as they need. `checkpoint_every` steps are the most that a kill can cost
    (None: an epoch); `keep_every` epochs a pair of checkpoints stays. `test_samples` bounds what is
    tested after each epoch, the same samples each time. `monitor` decides which checkpoint is the
    best, and training ends `patience` epochs after it stopped improving. `accumulate` batches make
    an optimiser step; `clip_norm` bounds its gradient's norm; `ema` is the decay of the averaged
    weights that are tested and kept instead of the last ones. `channels_last` is the memory order
    of the weights, and `compile` lets torch.compile make one program of the forward and of the
    backward pass; "auto" is measured where the run is long enough, else it is true and false. With
    `sync_batchnorm` BatchNorm takes its statistics from the batches of all processes; CUDA GPUs
    only.
    """

    epochs: Count | None = None
    steps: Count | None = None
    log_every: Count = 10
    checkpoint_every: Count | None = None
    keep_every: Count | None = None
    test_samples: Count | None = None
    monitor: Monitor = "loss"
    patience: Count | None = None
    accumulate: Count = 1
    clip_norm: Positive | None = None
    ema: Fraction | None = None
    channels_last: Switch = "auto"
    compile: Switch = "auto"
    sync_batchnorm: bool = False

    @model_validator(mode="after")
    def _some_length(self) -> Self:
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
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: NamedConfig = NamedConfig(type="ResUNet")
    augmentation: NamedConfig | None = None
    dataset: DatasetConfig = DatasetConfig()
    seg_loss: NamedConfig = NamedConfig(type="BCEDiceLoss")
    depth_loss: NamedConfig = NamedConfig(type="RMSELoss")
    loss_weights: LossWeights = LossWeights()
    lr_scheduler: SchedulerConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    trackers: list[Literal["wandb", "mlflow"]] = []

    _places: Places = PrivateAttr(default_factory=Places)

    @property
    def places(self) -> Places:
        """Where each key was written."""
        return self._places

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
