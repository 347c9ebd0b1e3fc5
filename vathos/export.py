"""A trained network as a file that needs nothing of this project: ONNX, or torch.export's `.pt2`.

The one rule: what is written was run, and gives what the network gives, at two sizes and with two
batch sizes; a file that does not is never left behind.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim

from vathos.errors import CheckpointError, ConfigError, UsageError
from vathos.model.resunet import SIZE_MULTIPLE
from vathos.predict.files import write_file
from vathos.predict.predictor import Network, load_network
from vathos.trainer.checkpoint import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

__all__ = ["Exported", "Format", "export"]

Format = Literal["onnx", "pt2"]
INPUTS, OUTPUTS = ("bg", "fg_bg"), ("mask", "depth")
TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)
CHECKED_SIZES = ((32, 64), (80, 48))
METADATA_FILE = "metadata.json"


@dataclass(frozen=True)
class Exported:
    """The file, its bytes, and the largest difference of its outputs from the network's."""

    path: Path
    nbytes: int
    difference: float


class _TwoInputs(nn.Module):
    """(bg, fg_bg), each (N, 3, H, W) in [0, 1], to (mask, depth), each (N, 1, H, W) in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, bg: Tensor, fg_bg: Tensor) -> tuple[Tensor, Tensor]:
        depth_logits, mask_logits = self.network(torch.cat((bg, fg_bg), dim=1))
        return torch.sigmoid(mask_logits), torch.sigmoid(depth_logits)


def export(checkpoint: str | Path, kind: Format, path: str | Path | None = None) -> Exported:
    """Write the network in `checkpoint` as ONNX or as a `.pt2`.

    Inputs `bg` and `fg_bg`, float32 (N, 3, H, W) RGB in [0, 1]; outputs `mask`, the probability,
    and `depth`, the label, float32 (N, 1, H, W) in [0, 1]. N, H and W are free; H and W are
    multiples of 16, from 32. What the file is of stands in its metadata. path: by default beside
    the checkpoint, with another ending.

    Raises `CheckpointError` if the file does not give what the network gives, `UsageError` for an
    unknown format, `ConfigError` where a library is missing, `DataError` if it cannot be written.
    """
    if kind not in get_args(Format):
        raise UsageError(f"there is no format {kind!r}; use onnx or pt2")
    checkpoint = find_checkpoint(checkpoint)
    target = checkpoint.with_suffix(f".{kind}") if path is None else Path(path)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file")
    if kind == "onnx":
        _need("onnx", "onnxruntime", "onnxscript")
    network = load_network(checkpoint)
    model = _TwoInputs(network.model).eval()
    with _quiet():
        program = _traced(model)
        data = _onnx(program, network) if kind == "onnx" else _pt2(program, network)
        difference = _difference(model, _run_onnx(data) if kind == "onnx" else _run_pt2(data))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"as {kind}, {checkpoint} gives results that differ by {difference:.1e}, more than "
            f"{TOLERANCE:.0e}; nothing was written"
        )
    write_file(target, data)
    return Exported(target, len(data), difference)


def _need(*libraries: str) -> None:
    missing = [each for each in libraries if find_spec(each) is None]
    if missing:
        raise ConfigError(
            f"export to ONNX needs {' and '.join(missing)}, not installed here; type "
            "`pip install 'depthgen-vathos[onnx]'`"
        )


def _traced(model: nn.Module) -> torch.export.ExportedProgram:
    # Two tensors: of one given twice, the tracer makes one input.
    example = tuple(torch.zeros(2, 3, 4 * SIZE_MULTIPLE, 6 * SIZE_MULTIPLE) for _ in INPUTS)
    free = {
        0: Dim("batch", min=1),
        2: SIZE_MULTIPLE * Dim("rows", min=2),
        3: SIZE_MULTIPLE * Dim("columns", min=2),
    }
    return torch.export.export(model, example, dynamic_shapes=dict.fromkeys(INPUTS, free))


def _metadata(network: Network) -> dict[str, str]:
    """What a stranger to this project must know to use the file; values are text."""
    return {
        "model": network.name,
        "trained_size": json.dumps(network.size),
        "quantity": json.dumps(network.quantity),
        "inputs": "bg, fg_bg: float32 (N, 3, H, W), RGB / 255, no mean or std taken off; "
        f"H and W multiples of {SIZE_MULTIPLE}, from {2 * SIZE_MULTIPLE}",
        "outputs": f"mask: probability in [0, 1]; depth: label in [0, 1], {network.meaning()}",
    }


def _onnx(program: torch.export.ExportedProgram, network: Network) -> bytes:
    made = torch.onnx.export(
        program, dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False
    )
    assert made is not None
    made.model.metadata_props.update(_metadata(network))
    return made.model_proto.SerializeToString()


def _pt2(program: torch.export.ExportedProgram, network: Network) -> bytes:
    stream = io.BytesIO()
    metadata = {METADATA_FILE: json.dumps(_metadata(network), indent=1)}
    torch.export.save(program, stream, extra_files=metadata)
    return stream.getvalue()


def _run_onnx(data: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(bg: Tensor, fg_bg: Tensor) -> tuple[Tensor, Tensor]:
        mask, depth = session.run(list(OUTPUTS), {"bg": bg.numpy(), "fg_bg": fg_bg.numpy()})
        return torch.from_numpy(mask), torch.from_numpy(depth)

    return run


def _run_pt2(data: bytes) -> Run:
    run: Any = torch.export.load(io.BytesIO(data)).module()
    return run


@torch.no_grad()
def _difference(model: nn.Module, run: Run) -> float:
    """Largest difference of any output on noise, over all sizes and batch sizes tried."""
    generator = torch.Generator().manual_seed(0)
    found = torch.zeros(())
    for batch, (height, width) in itertools.product(CHECKED_BATCHES, CHECKED_SIZES):
        bg, fg_bg = torch.rand(2, batch, 3, height, width, generator=generator)
        for mine, theirs in zip(model(bg, fg_bg), run(bg, fg_bg), strict=True):
            found = torch.maximum(found, (mine - theirs).abs().max())  # NaN stays NaN
    return float(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk of their own insides, by warnings and by logging."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
