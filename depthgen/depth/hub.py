"""Networks on the Hugging Face hub: their names here, what a download costs, and where it lies.

The one rule: what is on this machine is used as it is, without asking the hub; a download can be
described before it starts.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthgen.depth.estimator import EstimatorError
from depthgen.depth.extras import first_line, require

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_NETWORK = "depth-anything-v2-small"

# What `--model` takes, and where it comes from.
NETWORKS = {
    DEFAULT_NETWORK: "depth-anything/Depth-Anything-V2-Small-hf",
    "depth-anything-v2-base": "depth-anything/Depth-Anything-V2-Base-hf",
    "depth-anything-v2-large": "depth-anything/Depth-Anything-V2-Large-hf",
    "depth-anything-v2-metric-indoor-small": (
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
    ),
    "depth-anything-v2-metric-indoor-base": (
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf"
    ),
    "depth-anything-v2-metric-indoor-large": (
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf"
    ),
    "dpt-large": "Intel/dpt-large",
    "dpt-hybrid-midas": "Intel/dpt-hybrid-midas",
    "zoedepth-nyu": "Intel/zoedepth-nyu",
    "zoedepth-nyu-kitti": "Intel/zoedepth-nyu-kitti",
    "glpn-nyu": "vinvino02/glpn-nyu",
}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NOT_COMMERCIAL = re.compile(r"depth-anything/depth-anything-v2-.*(base|large)-hf", re.IGNORECASE)
SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
# In the order in which transformers looks for them; an index names the files of a divided one.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Download:
    """What would be fetched. cache: the folder it goes to."""

    hub_id: str
    files: tuple[str, ...]
    nbytes: int
    licence: str
    cache: Path

    def __str__(self) -> str:
        return (
            f"{self.hub_id}: {self.nbytes / 1e6:,.1f} MB to download into {self.cache}, "
            f"licence: {self.licence}"
        )


def hub_id_of(name: str) -> str | None:
    """The hub's name for a `--model`, or None if it is neither one of ours nor a hub id."""
    if name in NETWORKS:
        return NETWORKS[name]
    return name if _HUB_ID.fullmatch(name) and not Path(name).exists() else None


def shown_name(name: str) -> str:
    """What stands in the manifest and the archive: of a folder its own name, for folders move.

    `.` and `..` have one too; a link keeps the one that it is given by.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def licence_notice(name: str) -> str | None:
    """A sentence for the person about to use a network that is not free for every use, or None."""
    hub_id = hub_id_of(name)
    if hub_id is None or not _NOT_COMMERCIAL.fullmatch(hub_id):
        return None
    return (
        f"{hub_id} is licensed CC-BY-NC-4.0: it and the labels it makes are not for commercial "
        f"use; {DEFAULT_NETWORK} is Apache-2.0"
    )


def describe_download(name: str, endpoint: str | None = None) -> Download | None:
    """What `fetch` would download, or None if everything is on this machine already.

    name: one of `NETWORKS` or a hub id. endpoint: another hub than the usual.
    Raises `EstimatorError` if it is not here and the hub cannot be asked.
    """
    hub_id = _checked_id(name)
    return None if _cached(hub_id) else _ask(hub_id, endpoint)


def fetch(name: str, endpoint: str | None = None) -> Path:
    """The folder of a network, downloaded if it is not on this machine. Raises `EstimatorError`."""
    hub_id = _checked_id(name)
    folder = _cached(hub_id)
    if folder is not None:
        return folder
    wanted = _ask(hub_id, endpoint)
    from huggingface_hub import snapshot_download

    try:
        files = list(wanted.files)
        return Path(snapshot_download(hub_id, allow_patterns=files, endpoint=endpoint))
    except Exception as error:  # the hub's client lets through what its transport raises
        raise _unreachable(hub_id, error) from error


def weight_files(folder: Path) -> list[Path]:
    """The weights in a network's folder, those that would be loaded. Raises `EstimatorError`."""
    for name in _WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        files = sorted({folder / shard for shard in _shards(path)}) if "index" in name else [path]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise EstimatorError(
                f"{folder} lacks {missing[0]}, a part of its weights; copy the whole folder"
            )
        return files
    raise EstimatorError(
        f"{folder} holds neither model.safetensors nor pytorch_model.bin; give the folder of a "
        "network as `hf download` or `save_pretrained` writes it"
    )


def _shards(index: Path) -> list[str]:
    try:
        names = list(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EstimatorError(f"{index} is not an index of weights; copy it again") from error
    # Only plain names: a path could lead out of the folder.
    if not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names):
        raise EstimatorError(f"{index} names files that are no parts of weights; copy it again")
    return names


def _checked_id(name: str) -> str:
    require(f"--model {name}", "transformers", "huggingface_hub")
    hub_id = hub_id_of(name)
    if hub_id is None:
        raise EstimatorError(
            f"{name} is neither a folder, nor a hub id such as {NETWORKS[DEFAULT_NETWORK]}, nor "
            f"one of {', '.join(NETWORKS)}"
        )
    return hub_id


def _cached(hub_id: str) -> Path | None:
    """The folder of a whole earlier download, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    found: str | None
    try:
        found = snapshot_download(hub_id, local_files_only=True)
    except LocalEntryNotFoundError as error:
        # A download of what is needed is never the whole repository; newer clients say so.
        found = getattr(error, "snapshot_path", None)
    except HFValidationError as error:
        raise EstimatorError(
            f"{hub_id} cannot be a name on the hub: {first_line(error)}"
        ) from error
    if found is None:
        return None
    folder = Path(found)
    try:
        weight_files(folder)
    except EstimatorError:
        return None
    settings = [(folder / name).is_file() for name in SETTINGS]
    return folder if settings[0] and any(settings[1:]) else None


def _ask(hub_id: str, endpoint: str | None) -> Download:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        info = HfApi(endpoint=endpoint).model_info(hub_id, files_metadata=True, timeout=_TIMEOUT_S)
    except Exception as error:  # the hub's client lets through what its transport raises
        raise _unreachable(hub_id, error) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = _wanted(hub_id, sizes)
    licence = _licence(info.card_data)
    nbytes = sum(sizes[name] for name in files)
    return Download(hub_id, files, nbytes, licence, Path(HF_HUB_CACHE))


def _wanted(hub_id: str, names: Iterable[str]) -> tuple[str, ...]:
    """Of the files of a repository, those that are needed: one kind of weights, and settings."""
    names = set(names)
    kind = next((name for name in _WEIGHTS if name in names), None)
    if kind is None:
        raise EstimatorError(f"{hub_id} has no weights for PyTorch on the hub; choose another")
    ending = ".safetensors" if "safetensors" in kind else ".bin"
    shards = {name for name in names if _SHARD.fullmatch(name) and name.endswith(ending)}
    found = {kind, *(names & set(SETTINGS)), *(shards if "index" in kind else ())}
    return tuple(sorted(found))


def _licence(card: Any) -> str:
    licence = getattr(card, "license", None)
    return str(licence) if licence else "not stated"


def _unreachable(hub_id: str, error: Exception) -> EstimatorError:
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return EstimatorError(
            f"the hub has no {hub_id}, or not for everyone: check its name, or log in with "
            "`hf auth login`"
        )
    offline = os.environ.get("HF_HUB_OFFLINE")
    reason = "HF_HUB_OFFLINE is set" if offline else type(error).__name__
    return EstimatorError(
        f"{hub_id} is not on this machine and the hub cannot be reached ({reason}): type "
        f"`hf download {hub_id} --local-dir DIR` where there is a network, and give that folder "
        "with --weights DIR"
    )
