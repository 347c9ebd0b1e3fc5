"""Checkpoints: written beside and renamed, read as data and never as code.

The one rule: at any moment a file of the run folder is either the old one or the new one, whole; so
a kill or a full disk costs the time since the last checkpoint and nothing else.
"""

from __future__ import annotations

import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from vathos.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO

    from torch import nn

__all__ = [
    "MODEL_CHECKPOINT",
    "TRAIN_CHECKPOINT",
    "all_checkpoints",
    "find_checkpoint",
    "get_rng_state",
    "load_checkpoint",
    "load_model_state",
    "save_checkpoint",
    "save_pair",
    "seed_all",
    "set_rng_state",
    "variant",
    "write_atomic",
]

TRAIN_CHECKPOINT = "train_checkpoint.pt"
MODEL_CHECKPOINT = "model_checkpoint.pt"


def variant(path: Path, ending: str) -> Path:
    """`model_checkpoint.pt`, "best" -> `model_checkpoint_best.pt`."""
    return path.with_name(f"{path.stem}_{ending}{path.suffix}")


def all_checkpoints(folder: Path) -> list[Path]:
    """The pair in a run folder, its best twins and those that are kept for good."""
    patterns = (
        pattern
        for name in (TRAIN_CHECKPOINT, MODEL_CHECKPOINT)
        for pattern in (name, variant(folder / name, "*").name)
    )
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place, both on the disk for sure.

    Raises `CheckpointError` if the disk says no; the old file, if any, is then untouched.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):  # the folder may be no folder at all
            beside.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be written ({error}); make room or choose another chkpt_dir, and start "
            f"the run again"
        ) from error


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values to `path`, atomically. Raises `CheckpointError`."""
    # From the CPU, for the file must open where there is no such device, a TPU above all.
    state = tree_map_only(torch.Tensor, torch.Tensor.cpu, state)
    write_atomic(path, lambda file: torch.save(state, file))


def save_pair(
    folder: Path, model: dict[str, Any], training: dict[str, Any], also: Sequence[str] = ()
) -> None:
    """Write `model_checkpoint.pt`, then `train_checkpoint.pt`, and both as each variant in `also`.

    The training checkpoint comes last, for a run goes on from there: a kill before that instant is
    made good by repeating all of this, and after it there is nothing left to do.
    """
    for name, state in ((MODEL_CHECKPOINT, model), (TRAIN_CHECKPOINT, training)):
        first, *others = [*(variant(folder / name, ending) for ending in also), folder / name]
        save_checkpoint(state, first)
        for other in others:
            _twin(first, other)


def _twin(path: Path, other: Path) -> None:
    """Make `other` the same file as `path` now is.

    A link costs nothing, and is as good as a copy because checkpoints are replaced, never changed.
    """
    beside = other.with_name(f".{other.name}.partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except OSError:
        shutil.copyfile(path, beside)
    beside.replace(other)
    _sync_folder(other.parent)


def find_checkpoint(path: str | Path) -> Path:
    """`path` itself, or in a folder of a run the checkpoint of its network."""
    path = Path(path)
    return path / MODEL_CHECKPOINT if path.is_dir() else path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, with `weights_only`. Raises `CheckpointError`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; name a checkpoint of a run") from error
    except Exception as error:  # the pickle in it is a program: damaged, it can fail in any way
        raise CheckpointError(
            f"{path} is not a whole checkpoint; take its _best twin, or start the run anew with "
            "--fresh"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no checkpoint; name a checkpoint of a run")
    return state


def load_model_state(model: nn.Module, state: dict[str, Any], source: str | Path) -> None:
    """Put weights into `model`: from a checkpoint of ours, or from a bare state dict.

    Raises `CheckpointError` if they are another model's; nothing is dropped silently.
    """
    mine = type(model).__name__
    name = state.get("model_name", mine)
    if name != mine:
        raise CheckpointError(
            f"{source} is a checkpoint of {name}, not of {mine}; set model: {name}"
        )
    weights = state.get("model", state)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        strange = sorted(set(weights) ^ set(model.state_dict()))
        detail = f"has or lacks {strange[0]}" if strange else "has weights of another shape"
        raise CheckpointError(
            f"{source} does not fit {mine}: it {detail}; name a checkpoint of {mine}"
        ) from error


def seed_all(seed: int, *others: int) -> None:
    """Seed all random state of this process: from `seed` as it is, or from several numbers."""
    if others:
        seed = int(np.random.SeedSequence([seed, *others]).generate_state(1, np.uint64)[0] >> 1)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global one is what others' code draws from
    torch.manual_seed(seed)


def get_rng_state() -> dict[str, Any]:
    """All random state of this process, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is saved
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys)), *rest),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of `get_rng_state`. GPUs that are not there are left out."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))  # noqa: NPY002 - the global one is restored


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder; the rename is atomic there all the same.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
