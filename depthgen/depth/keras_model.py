"""Any depth network in a Keras file, through Keras with TensorFlow.

Keras 3's own files (.keras) and the whole-model HDF5 of Keras 2 and 3 (.h5), the original
DenseDepth among them. The one rule: a file brings numbers and the names of Keras's layers, never
code: what would run something of its own is refused before a layer is built.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from depthgen.depth.convention import FileEstimator, agree, depth_map
from depthgen.depth.estimator import EstimatorError, PrecisionName
from depthgen.depth.extras import first_line, require
from depthgen.depth.weights import KerasWeights, digest, is_hdf5, read_keras

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor
_UPSAMPLING = "BilinearUpSampling2D"
# Layers that run code of the file's, or of another file that it names.
_REFUSED = frozenset(
    ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
)
_MODULES = ("keras", "builtins")
_DENSEDEPTH_SIZE = (480, 640)
_MOST_CONFIG_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class KerasEstimator(FileEstimator):
    """`load_keras` makes it. Keras computes in float32.

    fixed: (height, width) that the file says the network takes, None where it leaves them open.
    """

    network: Any
    fixed: tuple[int | None, int | None]

    @property
    def precision(self) -> PrecisionName:
        return "float32"

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB → (N, H, W) float32: metres / 10, or what the network gives.

        Raises `torch.OutOfMemoryError` if the batch is too large for the device.
        """
        height, width = pictures.shape[1:3]
        size = self.convention.input_size(height, width, self.fixed)
        pixels = self.convention.normalise(self.convention.resize(pictures, size))
        output = self._run(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        maps = depth_map(torch.from_numpy(output).to(self.device), self.model)
        return self.convention.values(maps, (height, width))

    def _run(self, array: NDArray[Any]) -> NDArray[Any]:
        import tensorflow as tf

        try:
            with tf.device(_place(self.device)):
                return np.asarray(self.network.predict_on_batch(array), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            # The pipeline goes on with a smaller batch.
            raise torch.OutOfMemoryError(first_line(error)) from error
        except (tf.errors.OpError, ValueError) as error:
            shape = " × ".join(map(str, array.shape))
            raise EstimatorError(
                f"{self.model} cannot be run on {shape}: {first_line(error)}"
            ) from error


def load_keras(
    path: Path, device: torch.device, given: Mapping[str, Any] | None = None, name: str = ""
) -> KerasEstimator:
    """The network of a Keras file.

    given: fields of `Convention` that the person gave. A file with DenseDepth's own upsampling
    layer is taken for DenseDepth: its output for 1000 / depth, its input for 640 × 480 where the
    file leaves that open. name: what stands in the archive, else the file's without its ending.
    Raises `EstimatorError` if it is no such file, brings code, lacks weights, or is no network from
    one picture to one map; `OptionsError` if it is not known what the output means.
    """
    require("a Keras network", "keras", "keras", "tensorflow")
    _use_tensorflow(device)
    weights_digest = digest(path)
    hdf5 = read_keras(path) if is_hdf5(path) else None
    config = _config(path, hdf5)
    classes = [str(part["class_name"]) for part in _objects(config)]
    _refuse_code(path, config)
    # Today's repository has a LeakyReLU after each convolution and resizes between pixel centres;
    # the network of 2018 has one an up block and resizes corner to corner.
    corners = classes.count("LeakyReLU") <= classes.count(_UPSAMPLING)
    network = _build(path, config, hdf5, {_UPSAMPLING: _upsampling(corners)}, device)
    said: dict[str, Any] = {}
    if _UPSAMPLING in classes:
        said = {"meaning": "densedepth", "size": _DENSEDEPTH_SIZE}
    fixed = _input_size(path, network)
    if None not in fixed:
        said.pop("size", None)
    convention = agree(str(path), said, given or {})
    convention.refuse_other_size(str(path), fixed)
    return KerasEstimator(
        model=name or path.stem,
        digest=weights_digest,
        device=device,
        convention=convention,
        network=network,
        fixed=fixed,
    )


def _use_tensorflow(device: torch.device) -> None:
    """Import Keras on TensorFlow. Both read their environment when they are imported."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise EstimatorError(
            f"Keras runs on {keras.backend.backend()} in this process; start it anew with "
            "KERAS_BACKEND=tensorflow"
        )
    gpus = tf.config.list_physical_devices("GPU")
    if device.type == "cuda" and not gpus:
        raise EstimatorError(
            "TensorFlow finds no GPU: type `pip install 'tensorflow[and-cuda]'`, or run with "
            "--device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise EstimatorError(f"Keras networks run on cpu or cuda, not on {device.type}")
    for gpu in gpus:
        # It would take the whole memory otherwise, and torch needs some too. Where TensorFlow has
        # begun to work already, it is too late to say so.
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def _place(device: torch.device) -> str:
    """TensorFlow's name of a device."""
    return f"/GPU:{device.index or 0}" if device.type == "cuda" else "/CPU:0"


def _config(path: Path, hdf5: KerasWeights | None) -> dict[str, Any]:
    """The description of the network, as JSON has it."""
    if hdf5 is not None:
        if hdf5.config is None:
            raise EstimatorError(f"{path} holds weights alone; save the whole model instead")
        return hdf5.config
    try:
        with zipfile.ZipFile(path) as file, file.open("config.json") as stream:
            text = stream.read(_MOST_CONFIG_BYTES + 1)
        if len(text) > _MOST_CONFIG_BYTES:
            raise ValueError("its config.json is too large")
        config = json.loads(text)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError) as error:
        raise EstimatorError(
            f"{path} is neither a .keras file nor HDF5 of Keras: {first_line(error)}"
        ) from error
    if not isinstance(config, dict):
        raise EstimatorError(f"{path}: config.json does not describe a model")
    return config


def _objects(config: object) -> Iterator[dict[str, Any]]:
    """Every object that a config describes, the outermost first."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    """Raise `EstimatorError` for anything but Keras's own objects and DenseDepth's upsampling."""
    for described in _objects(config):
        kind, module = described["class_name"], str(described.get("module") or "keras")
        settings = described.get("config")
        name = settings.get("name", "unnamed") if isinstance(settings, dict) else "unnamed"
        if kind in _REFUSED:
            raise EstimatorError(
                f"{path} has the layer {name} of the kind {kind}, which runs code of the file's; "
                "save the model without it"
            )
        if module.partition(".")[0] == "tf_keras":
            raise EstimatorError(
                f"{path} is a .keras file of Keras 2, which Keras 3 cannot read; save it as .h5"
            )
        if kind != _UPSAMPLING and module.partition(".")[0] not in _MODULES:
            raise EstimatorError(
                f"{path} needs {kind} of {module}, which is not Keras's own; save the model "
                "without it"
            )


def _build(
    path: Path,
    config: dict[str, Any],
    hdf5: KerasWeights | None,
    own: dict[str, Any],
    device: torch.device,
) -> Any:
    import keras
    import tensorflow as tf

    try:
        with tf.device(_place(device)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what of an old file has another name today
            if hdf5 is None:
                return keras.saving.load_model(
                    path, custom_objects=own, compile=False, safe_mode=True
                )
            kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
            network = kind.from_config(_without_slashes(config["config"]), custom_objects=own)
    except Exception as error:  # Keras lets through whatever a file makes its layers raise
        raise EstimatorError(f"{path} cannot be loaded: {first_line(error)}") from error
    _fill(path, network, hdf5)
    return network


def _without_slashes(config: Any) -> Any:
    """The config with names that Keras 3 takes: it refuses the slash of Keras 2's DenseNet."""
    if isinstance(config, dict):
        return {key: _without_slashes(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_without_slashes(value) for value in config]
    return config.replace("/", "_") if isinstance(config, str) else config


def _fill(path: Path, network: Any, hdf5: KerasWeights) -> None:
    """Give each layer its arrays, by its name: Keras itself goes by the order, which may differ."""
    arrays = {_without_slashes(layer): held for layer, held in hdf5.layers.items()}
    for layer in network.layers:
        # Keras writes what is trained before what is not.
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        held = _ordered(path, layer, variables, arrays.get(layer.name, {}))
        there = [tuple(array.shape) for array in held]
        wanted = [tuple(variable.shape) for variable in variables]
        if there != wanted:
            raise EstimatorError(
                f"{path}: the layer {layer.name} takes arrays of {wanted}, and the file has {there}"
            )
        for variable, array in zip(variables, held, strict=True):
            variable.assign(array)


def _ordered(
    path: Path, layer: Any, variables: list[Any], held: Mapping[str, NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """A layer's arrays as its variables follow one another, by their names where these agree.

    They need not: in 2018 a second network of a process had other ones. In a single layer the order
    is told by its class, but in a network within the network it may differ as it does without.
    """
    named = {_without_slashes(name): array for name, array in held.items()}
    wanted = [_without_slashes(variable.path) for variable in variables]
    if sorted(wanted) == sorted(named):
        return [named[name] for name in wanted]
    if held and hasattr(layer, "layers"):
        raise EstimatorError(
            f"{path} has in it a network {layer.name} whose arrays have other names than its "
            "layers; save it as .keras"
        )
    return list(held.values())


def _input_size(path: Path, network: Any) -> tuple[int | None, int | None]:
    """(height, width) that the network takes, None where it takes any."""
    inputs, outputs = network.inputs, network.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise EstimatorError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; only a network from one "
            "picture to one depth map can be run"
        )
    shape = tuple(inputs[0].shape)
    if len(shape) != 4 or shape[3] != 3:
        raise EstimatorError(
            f"{path} takes {shape}, which is no RGB picture with its channels last"
        )
    return shape[1], shape[2]


def _upsampling(corners: bool) -> Any:
    """The layer class that DenseDepth's files name, resizing corner to corner or by centres."""
    import keras
    import tensorflow as tf

    class BilinearUpSampling2D(keras.layers.Layer):
        def __init__(
            self, size: tuple[int, int] = (2, 2), data_format: str | None = None, **kwargs: Any
        ) -> None:
            super().__init__(**kwargs)
            if data_format not in (None, "channels_last"):
                raise ValueError(f"{_UPSAMPLING} with {data_format}")
            self.size = tuple(size)

        def compute_output_shape(self, input_shape: Any) -> Any:
            batch, height, width, channels = input_shape
            rows, columns = self.size
            return batch, height and height * rows, width and width * columns, channels

        def call(self, inputs: Any) -> Any:
            size = tf.shape(inputs)[1:3] * tf.constant(self.size)
            return tf.raw_ops.ResizeBilinear(
                images=inputs, size=size, align_corners=corners, half_pixel_centers=not corners
            )

    return BilinearUpSampling2D
