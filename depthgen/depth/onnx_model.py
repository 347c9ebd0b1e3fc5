"""Any depth network in an ONNX file, through onnxruntime.

The file says which shape and type it takes. What it does not say by itself may stand in its
metadata, under these keys, or be given:

    depthgen.quantity  depth_m, depth_relative, inverse_depth_relative or densedepth
    depthgen.layout    nchw or nhwc
    depthgen.size      480x640: height and width, where the file leaves them open
    depthgen.multiple  32: what each side is a multiple of, where there is no size either
    depthgen.scale     0.00392156862745098: the input is (pixel · scale − mean) / std
    depthgen.mean      0.485,0.456,0.406
    depthgen.std       0.229,0.224,0.225
    depthgen.output    the name of the output that is depth, if it is not the first that may be

The one rule: what is given comes before what the metadata say, and those before the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from depthgen.depth.convention import Convention, FileEstimator, agree, depth_map
from depthgen.depth.estimator import EstimatorError
from depthgen.depth.extras import first_line, require
from depthgen.depth.weights import digest
from depthgen.errors import OptionsError
from depthgen.stage import files_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from depthgen.depth.estimator import PrecisionName

_PREFIX = "depthgen."
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class Input:
    """What the network takes. batch, height, width: None where the file leaves them open."""

    name: str
    dtype: type[np.generic]
    channels_last: bool
    batch: int | None
    height: int | None
    width: int | None


@dataclass(frozen=True, eq=False)
class OnnxEstimator(FileEstimator):
    """`load_onnx` makes it."""

    session: Any
    entry: Input
    output: str

    @property
    def precision(self) -> PrecisionName:
        """By the type of the input; the file, not the person, decides."""
        return "fp16" if self.entry.dtype is np.float16 else "float32"

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB → (N, H, W) float32: metres / 10, or what the network gives.

        Raises `torch.OutOfMemoryError` if the batch is too large for the device.
        """
        height, width = pictures.shape[1:3]
        array = self._feed(pictures)
        step = self.entry.batch or len(array)
        parts = [self._run(array[at : at + step], step) for at in range(0, len(array), step)]
        maps = torch.from_numpy(np.concatenate(parts)).to(self.device)
        return self.convention.values(depth_map(maps, self.model), (height, width))

    def _feed(self, pictures: Tensor) -> NDArray[Any]:
        height, width = pictures.shape[1:3]
        fixed = (self.entry.height, self.entry.width)
        size = self.convention.input_size(height, width, fixed)
        pixels = self.convention.resize(pictures, size)
        if self.entry.dtype is not np.uint8:
            pixels = self.convention.normalise(pixels)
        if self.entry.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels.cpu().numpy().astype(self.entry.dtype))

    def _run(self, part: NDArray[Any], step: int) -> NDArray[Any]:
        count = len(part)
        if count < step:  # the file takes whole batches only
            part = np.concatenate([part, np.repeat(part[-1:], step - count, axis=0)])
        try:
            result = self.session.run([self.output], {self.entry.name: part})[0]
        except Exception as error:  # onnxruntime's own kinds have no common root but this
            raise self._failed(error, part) from error
        return np.asarray(result)[:count]

    def _failed(self, error: Exception, part: NDArray[Any]) -> Exception:
        reason = first_line(error)
        if "alloc" in reason.lower():
            return torch.OutOfMemoryError(reason)  # the pipeline goes on with a smaller batch
        shape = " × ".join(map(str, part.shape))
        # Exported from one picture, a file may hold that number in its inner shapes.
        remedy = "; try --forward-batch 1" if self.entry.batch is None and len(part) > 1 else ""
        return EstimatorError(f"{self.model} cannot be run on {shape}: {reason}{remedy}")


def load_onnx(
    path: Path, device: torch.device, given: Mapping[str, Any] | None = None, name: str = ""
) -> OnnxEstimator:
    """The network of an ONNX file.

    given: fields of `Convention` that the person gave; they come before the file's metadata. name:
    what stands in the archive, else the file's name without its ending.
    Raises `EstimatorError` if it is no such file, a part of it is missing, it takes more than one
    input or no picture; `OptionsError` if it is not known how to feed or read it.
    """
    require("an ONNX network", "onnx", "onnx", "onnxruntime")
    files = [path, *_external_files(path)]
    session = _session(path, device)
    said = _metadata(path, session.get_modelmeta().custom_metadata_map)
    convention = agree(str(path), said, given or {})
    entry = _input(path, session.get_inputs(), convention)
    convention.refuse_other_size(str(path), (entry.height, entry.width))
    unused = (Convention.scale, Convention.mean, Convention.std)
    if entry.dtype is np.uint8 and (convention.scale, convention.mean, convention.std) != unused:
        raise OptionsError(f"{path} takes pixels as they are; leave out scale, mean and std")
    return OnnxEstimator(
        model=name or path.stem,
        digest=digest(path) if len(files) == 1 else files_digest(files),
        device=device,
        convention=convention,
        session=session,
        entry=entry,
        output=_output(path, session.get_outputs(), convention.output),
    )


def _external_files(path: Path) -> list[Path]:
    """The files that hold weights of the network beside its own."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    digest(path)  # a file that is not there or not readable says so
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's error has no public name
        raise EstimatorError(f"{path} is not an ONNX file; give the .onnx itself") from error
    names = {ExternalDataInfo(it).location for it in graph.initializer if uses_external_data(it)}
    for name in sorted(names):
        if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()):
            raise EstimatorError(f"{path} keeps weights outside its folder, in {name}; refused")
        if not (path.parent / name).is_file():
            raise EstimatorError(
                f"{path} keeps its weights in {name}, which is missing; put it beside the file"
            )
    return [path.parent / name for name in sorted(names)]


def _session(path: Path, device: torch.device) -> Any:
    import onnxruntime

    provider: Any = {
        "cpu": "CPUExecutionProvider",
        "cuda": ("CUDAExecutionProvider", {"device_id": device.index or 0}),
    }.get(device.type)
    if provider is None:
        raise EstimatorError(f"ONNX networks run on cpu or cuda, not on {device.type}")
    if device.type == "cuda" and provider[0] not in onnxruntime.get_available_providers():
        raise EstimatorError(
            "the onnxruntime installed here cannot use the GPU: type `pip uninstall onnxruntime` "
            "and `pip install onnxruntime-gpu`, or run with --device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.use_deterministic_compute = True
    try:
        return onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # onnxruntime's own kinds have no common root but this
        raise EstimatorError(f"{path} cannot be loaded: {first_line(error)}") from error


def _input(path: Path, inputs: Sequence[Any], convention: Convention) -> Input:
    if len(inputs) != 1:
        raise EstimatorError(
            f"{path} takes {len(inputs)} inputs ({', '.join(it.name for it in inputs)}); only a "
            "network that takes pictures alone can be run"
        )
    (found,) = inputs
    if found.type not in _DTYPES or len(found.shape) != 4:
        raise EstimatorError(
            f"{path} takes {found.type} of shape {found.shape} as {found.name}; pictures are "
            "float, float16 or uint8, of 4 dimensions"
        )
    # Dimensions that the file leaves open have a name, or none.
    shape = [side if isinstance(side, int) else None for side in found.shape]
    channels_last = _channels_last(path, shape, convention.layout)
    height, width = shape[1:3] if channels_last else shape[2:4]
    return Input(found.name, _DTYPES[found.type], channels_last, shape[0], height, width)


def _channels_last(path: Path, shape: list[int | None], layout: str | None) -> bool:
    first, last = shape[1], shape[3]
    if layout is not None:
        if (last if layout == "nhwc" else first) not in (3, None):
            raise OptionsError(f"{path} takes pictures of shape {shape}, which is not {layout}")
        return layout == "nhwc"
    if (first == 3) == (last == 3):
        raise OptionsError(
            f"{path} does not say whether it takes nchw or nhwc; write that into its metadata, as "
            f"{_PREFIX}layout"
        )
    return last == 3


def _output(path: Path, outputs: Sequence[Any], wanted: str | None) -> str:
    names = [it.name for it in outputs]
    if wanted is not None:
        if wanted not in names:
            raise OptionsError(f"{path} has no output {wanted}, only {', '.join(names)}")
        return wanted
    fitting = [it.name for it in outputs if _may_be_depth(it.shape)]
    if not fitting:
        raise EstimatorError(f"no output of {path} is a depth map: it has {', '.join(names)}")
    return str(fitting[0])


def _may_be_depth(shape: Sequence[Any]) -> bool:
    """Whether an output may be one depth map a picture; what is left open shows when it runs."""
    if len(shape) != 4:
        return len(shape) == 3
    return any(not isinstance(shape[at], int) or shape[at] == 1 for at in (1, 3))


def _metadata(path: Path, found: Mapping[str, str]) -> dict[str, Any]:
    """Fields of `Convention` that a file's metadata say."""
    said = {}
    for key, text in found.items():
        if not key.startswith(_PREFIX):
            continue
        field = key.removeprefix(_PREFIX)
        if field not in _READERS:
            raise EstimatorError(
                f"{path} has the unknown metadata key {key}; known are "
                f"{', '.join(_PREFIX + known for known in _READERS)}"
            )
        try:
            said["meaning" if field == "quantity" else field] = _READERS[field](text.strip())
        except ValueError as error:
            raise EstimatorError(f"{path} has the metadata {key} = {text!r}: {error}") from error
    return said


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _size(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x"))


_READERS: dict[str, Callable[[str], Any]] = {
    "quantity": str,
    "layout": str.lower,
    "size": _size,
    "multiple": int,
    "scale": float,
    "mean": _numbers,
    "std": _numbers,
    "output": str,
}
