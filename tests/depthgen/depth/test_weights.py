"""Reading weights files: every way that Keras and PyTorch store them, and what is refused."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from depthgen.depth.weights import (
    WeightsError,
    by_kind,
    digest,
    is_hdf5,
    read_keras,
    read_torch,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
LAYERS = {"conv1/conv": {"conv1/conv_1/kernel:0": KERNEL}, "relu": {}}


def bytes_of(names: Iterable[str]) -> Any:
    return [name.encode() for name in names]


def write(
    path: Path,
    layers: dict[str, dict[str, NDArray[Any]]],
    root: str = "model_weights",
    store: Any = bytes_of,
) -> Path:
    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        group.attrs["layer_names"] = store(layers)
        for layer, arrays in layers.items():
            group.require_group(layer).attrs["weight_names"] = store(arrays)
            for name, values in arrays.items():
                group[layer][name] = values
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.h5"


@pytest.mark.parametrize("root", ["model_weights", "/"])
@pytest.mark.parametrize("store", [bytes_of, list], ids=["bytes", "text"])
def test_layers_are_found_by_the_attributes(path: Path, root: str, store: Any) -> None:
    layers = read_keras(write(path, LAYERS, root, store)).layers
    assert list(layers) == ["conv1/conv", "relu"]
    assert list(layers["conv1/conv"]) == ["conv1/conv_1/kernel"]
    assert np.array_equal(layers["conv1/conv"]["conv1/conv_1/kernel"], KERNEL)


def test_names_stored_in_chunks_are_joined_in_order(path: Path) -> None:
    with h5py.File(write(path, LAYERS), "r+") as file:
        del file["model_weights"].attrs["layer_names"]
        file["model_weights"].attrs["layer_names0"] = [b"relu"]
        file["model_weights"].attrs["layer_names1"] = [b"conv1/conv"]
    assert list(read_keras(path).layers) == ["relu", "conv1/conv"]


def test_half_precision_arrays_become_float32(path: Path) -> None:
    write(path, {"a": {"a/bias:0": np.ones(2, np.float16)}})
    assert read_keras(path).layers["a"]["a/bias"].dtype == np.float32


def test_a_layer_of_several_keeps_their_arrays_apart_and_has_two_of_a_kind(path: Path) -> None:
    both = {"b/kernel:0": KERNEL, "a/kernel:0": KERNEL + 1}
    arrays = read_keras(write(path, {"encoder": both})).layers["encoder"]
    assert list(arrays) == ["b/kernel", "a/kernel"]
    assert np.array_equal(arrays["a/kernel"], KERNEL + 1)
    with pytest.raises(WeightsError, match="layer encoder has two arrays named kernel"):
        by_kind(path, "encoder", arrays)
    assert by_kind(path, "a", {"a/kernel": KERNEL}).keys() == {"kernel"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.array([1.0, np.nan], np.float32), "conv/bias:0 has values that are not finite"),
        (np.array([1.0, np.inf], np.float64), "conv/bias:0 has values that are not finite"),
        (np.array([1, 2]), "conv/bias:0 is int64, not floating point"),
    ],
)
def test_an_array_that_is_not_finite_floats_is_refused_by_name(
    path: Path, values: NDArray[Any], told: str
) -> None:
    write(path, {"conv": {"conv/bias:0": values}})
    with pytest.raises(WeightsError, match=told) as refused:
        read_keras(path)
    assert str(path) in str(refused.value)


def test_an_array_that_is_listed_and_absent_is_refused_by_name(path: Path) -> None:
    with h5py.File(write(path, LAYERS), "r+") as file:
        del file["model_weights/conv1/conv/conv1/conv_1/kernel:0"]
    with pytest.raises(WeightsError, match="lists the array conv1/conv_1/kernel:0"):
        read_keras(path)


def test_an_array_in_another_file_is_refused(path: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["values"] = KERNEL
    with h5py.File(write(path, LAYERS), "r+") as file:
        del file["model_weights/conv1/conv/conv1/conv_1/kernel:0"]
        file["model_weights/conv1/conv/conv1/conv_1/kernel:0"] = h5py.ExternalLink(
            str(tmp_path / "other.h5"), "values"
        )
    with pytest.raises(WeightsError, match="lies in another file"):
        read_keras(path)


def test_an_array_stored_outside_the_file_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(KERNEL.tobytes())
    with h5py.File(write(path, {"a": {}}), "r+") as file:
        file["model_weights/a"].attrs["weight_names"] = [b"k:0"]
        file["model_weights/a"].create_dataset("k:0", (2, 3), "f4", external=str(tmp_path / "raw"))
    with pytest.raises(WeightsError, match="lies in another file"):
        read_keras(path)


def test_an_array_that_claims_too_much_is_refused_unread(path: Path) -> None:
    with h5py.File(write(path, {"a": {}}), "r+") as file:
        file["model_weights/a"].attrs["weight_names"] = [b"k:0"]
        file["model_weights/a"].create_dataset("k:0", (1 << 40,), "f4", chunks=(1 << 16,))
    with pytest.raises(WeightsError, match="k:0 claims 1099511627776 values"):
        read_keras(path)


def test_a_file_that_is_not_keras_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["values"] = KERNEL
    with pytest.raises(WeightsError, match="the file has no layer_names"):
        read_keras(path)


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_file_cut_short_is_refused(path: Path, keep: int) -> None:
    whole = write(path, LAYERS).read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(WeightsError, match="not a readable HDF5 file"):
        read_keras(path)


def test_the_kind_of_a_file_is_told_by_its_content(path: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "named.h5")
    assert is_hdf5(write(path, LAYERS))
    assert not is_hdf5(tmp_path / "named.h5")
    with pytest.raises(WeightsError, match="No such file"):
        is_hdf5(tmp_path / "absent")


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a").startswith("ba7816bf")
    with pytest.raises(WeightsError, match="No such file"):
        digest(tmp_path / "absent")


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"epoch": 3, "state_dict": x, "optimizer": {"lr": 0.1}}]
)
def test_tensors_are_found_wherever_a_checkpoint_keeps_them(tmp_path: Path, wrap: Any) -> None:
    state = {"a.weight": torch.ones(2, dtype=torch.float16), "a.seen": torch.tensor(7)}
    torch.save(wrap(state), tmp_path / "w.pt")
    found = read_torch(tmp_path / "w.pt")
    assert list(found) == ["a.weight"]
    assert found["a.weight"].dtype == torch.float32


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.path).touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path = tmp_path / "w.pt"
    content = {"a": torch.ones(1), "trap": Trap(tmp_path / "sprung")}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="save its state_dict"):
        read_torch(path)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_with_a_value_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"a.bias": torch.tensor([1.0, float("inf")])}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"the array a\.bias has values that are not finite"):
        read_torch(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="not a PyTorch file of arrays alone"):
        read_torch(tmp_path / "w.pt")


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_torch(tmp_path / "w.pt")
