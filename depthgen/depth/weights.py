"""Weights files, read as arrays and nothing else.

Keras HDF5 files go through h5py and their own attributes, PyTorch checkpoints through the loader
that refuses code. The one rule: nothing in a file is executed, and every value that leaves this
module is a finite float32 in an array that the file itself holds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from depthgen.depth.estimator import EstimatorError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST_VALUES = 1 << 30  # 4 GiB of float32; a file may claim more than it holds
_DEEPEST_NESTING = 3


class WeightsError(EstimatorError):
    """A weights file that cannot be used; the sentence names the file and the array or layer."""


@dataclass(frozen=True)
class KerasWeights:
    """What a Keras HDF5 file holds.

    layers: the arrays of each layer by their names without TensorFlow's ":0" ("conv1/kernel", …),
    in the order of the file; a layer without arrays is an empty mapping. config: `model_config`, or
    None in a file of weights alone.
    """

    layers: Mapping[str, Mapping[str, NDArray[np.float32]]]
    config: dict[str, Any] | None


def digest(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits. Raises `WeightsError` if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its first bytes; its name may say anything.

    Raises `WeightsError` if it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def read_keras(path: Path) -> KerasWeights:
    """The layers of a Keras HDF5 file, of a whole model (`/model_weights`) or of weights alone.

    Names come from the attributes `layer_names` and `weight_names`: bytes or text, in one piece or
    in chunks (`layer_names0`, `layer_names1`, …). Raises `WeightsError` where the file is damaged,
    an array is missing, is not of floating point, lies in another file, or is not finite.
    """
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if not isinstance(root, h5py.Group):
                raise WeightsError(f"{path}: model_weights is not a group; it is not Keras's")
            layers = {
                name: _layer(path, root, name) for name in _names(path, root, "layer_names", "")
            }
            return KerasWeights(layers, _config(path, file))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        # h5py raises any of these over a damaged file.
        raise WeightsError(f"{path} is not a readable HDF5 file: {error}") from error


def _config(path: Path, file: h5py.File) -> dict[str, Any] | None:
    text = file.attrs.get("model_config")
    if text is None:
        return None
    config = json.loads(_text(text))
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: model_config does not describe a model")
    return config


def _names(path: Path, group: h5py.Group, attribute: str, owner: str) -> list[str]:
    """A list of names in the attributes of a group, however it is stored."""
    if attribute in group.attrs:
        pieces = [group.attrs[attribute]]
    else:
        pieces = []
        while f"{attribute}{len(pieces)}" in group.attrs:
            pieces.append(group.attrs[f"{attribute}{len(pieces)}"])
        if not pieces:
            where = f"layer {owner}" if owner else "the file"
            raise WeightsError(f"{path}: {where} has no {attribute}; Keras did not write it")
    return [_text(name) for piece in pieces for name in np.ravel(piece)]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _layer(path: Path, root: h5py.Group, name: str) -> dict[str, NDArray[np.float32]]:
    """The arrays of one layer, by their names without TensorFlow's ":0"."""
    group = root.get(name)
    if not isinstance(group, h5py.Group):
        raise WeightsError(f"{path} lists the layer {name} but does not hold it")
    arrays: dict[str, NDArray[np.float32]] = {}
    for weight in _names(path, group, "weight_names", name):
        short = weight.partition(":")[0]
        if short in arrays:
            raise WeightsError(f"{path}: layer {name} has two arrays named {short}")
        arrays[short] = _array(path, group, weight)
    return arrays


def by_kind(
    path: Path, layer: str, arrays: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """The arrays of a layer by the last part of their names: "kernel", "bias", "gamma", …

    Raises `WeightsError` for a layer of several, which has two of a kind.
    """
    kinds: dict[str, NDArray[np.float32]] = {}
    for name, array in arrays.items():
        kind = name.rpartition("/")[2]
        if kind in kinds:
            raise WeightsError(f"{path}: layer {layer} has two arrays named {kind}")
        kinds[kind] = array
    return kinds


def _array(path: Path, group: h5py.Group, name: str) -> NDArray[np.float32]:
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise WeightsError(f"{path} lists the array {name} but does not hold it")
    if dataset.file != group.file or dataset.external or dataset.is_virtual:
        raise WeightsError(f"{path}: the array {name} lies in another file, which is not read")
    if dataset.dtype.kind != "f":
        raise WeightsError(f"{path}: the array {name} is {dataset.dtype}, not floating point")
    if dataset.size is None or dataset.size > _MOST_VALUES:
        raise WeightsError(f"{path}: the array {name} claims {dataset.size} values")
    values = dataset[()].astype(np.float32)
    if not np.isfinite(values).all():
        raise WeightsError(f"{path}: the array {name} has values that are not finite")
    return values


def read_torch(path: Path) -> dict[str, torch.Tensor]:
    """The float32 tensors of a PyTorch checkpoint by name, from the mapping that holds them.

    Mappings may be nested ({"state_dict": …}) and other entries stand beside them. Integer tensors
    (counters) are left out. Raises `WeightsError` where the file needs code to be read, holds no
    tensors, or holds one that is not finite.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle makes the restricted loader raise anything
        raise WeightsError(
            f"{path} is not a PyTorch file of arrays alone, and nothing else is opened, since "
            "opening it would run what is in it; save its state_dict() and give that"
        ) from error
    found = _tensors(content, _DEEPEST_NESTING)
    if not found:
        raise WeightsError(f"{path} holds no tensors by name; save the model's state_dict()")
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: the array {name} has values that are not finite")
    return found


def _tensors(content: object, depth: int) -> dict[str, torch.Tensor]:
    """The largest mapping of names to dense float tensors in what a checkpoint holds."""
    if not isinstance(content, dict) or depth == 0:
        return {}
    own = {
        str(name): value.detach().to(torch.float32)
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
    }
    return max([own, *(_tensors(value, depth - 1) for value in content.values())], key=len)
