"""Depth networks of the library `transformers`: Depth Anything, DPT and MiDaS, ZoeDepth, GLPN.

The network is called directly, in batches of pictures of one size, and its `predicted_depth` is
taken. The one rule: never the library's pipeline, which stretches every picture to its own minimum
and maximum; and no code that comes with a network is run.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from depthgen.depth.estimator import EstimatorError
from depthgen.depth.extras import first_line, require
from depthgen.depth.hub import SETTINGS, fetch, shown_name, weight_files
from depthgen.depth.processors import read_processor
from depthgen.depth.quantity import FAR_M
from depthgen.depth.side_by_side import side_by_side
from depthgen.stage import files_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from depthgen.depth.estimator import PrecisionName, QuantityName
    from depthgen.depth.processors import Processor

FAMILIES = ("depth_anything", "dpt", "glpn", "zoedepth")

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The first fusion layer has nothing to add, so published weights may lack what would add it.
_NEVER_USED = re.compile(r"fusion_stage\.layers\.0\.residual_layer1\.")


@dataclass(frozen=True, eq=False)
class TransformersEstimator:
    """An `Estimator`; `load_transformers` makes it.

    digest: SHA-256 over the weights and the settings beside them, since those say how pictures are
    fed. one_by_one: the network lets a batch vote on something, so that a picture's depth would
    depend on its neighbours: it gets them one at a time.
    """

    model: str
    quantity: QuantityName
    digest: str
    device: torch.device
    precision: PrecisionName
    network: torch.nn.Module
    processor: Processor
    one_by_one: bool

    @property
    def full_scale(self) -> float | None:
        return 1.0 if self.quantity == "depth_m" else None

    def __call__(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB → (N, H, W) float32: metres / 10, or what the network gives."""
        return side_by_side(self._label, pictures)

    def _label(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[1:3]
        inputs = self.processor.prepare(pictures)
        inputs = inputs.to(_DTYPES[self.precision], memory_format=torch.channels_last)
        parts = inputs.split(1 if self.one_by_one else len(inputs))
        predicted = [self.network(pixel_values=part).predicted_depth for part in parts]
        depth = self.processor.restore(torch.cat(predicted).float(), height, width)
        return depth / FAR_M if self.quantity == "depth_m" else depth


def load_transformers(
    name: str,
    device: torch.device,
    precision: PrecisionName = "float32",
    *,
    folder: Path | None = None,
    quantity: QuantityName | None = None,
) -> TransformersEstimator:
    """A network by one of the names in `hub.NETWORKS`, a hub id, or the folder it lies in.

    name: what stands in the archive, too (of a folder, its own name). folder: where the network
    lies, if not on the hub. quantity: what it gives, where its settings do not tell, or wrongly.
    Raises `EstimatorError` if it is not to be had, is of another family, is damaged, or lacks
    weights.
    """
    require(f"--model {name}", "transformers", "transformers")
    if folder is None:
        folder = Path(name) if Path(name).is_dir() else fetch(name)
    weights = weight_files(folder)
    config, network = _network(folder)
    processor = read_processor(_image_processor(folder), str(folder))
    settings = [folder / name for name in SETTINGS if (folder / name).is_file()]
    return TransformersEstimator(
        model=shown_name(name),
        quantity=quantity or quantity_of(config),
        digest=files_digest([*settings, *weights]),
        device=device,
        precision=precision,
        network=network.to(device, _DTYPES[precision], memory_format=torch.channels_last).eval(),
        processor=processor,
        one_by_one=len(getattr(config, "bin_configurations", None) or ()) > 1,
    )


def quantity_of(config: Any) -> QuantityName:
    """What a network gives, by its configuration.

    ZoeDepth and GLPN give metres, and so do the metric variants of Depth Anything V2 and the
    networks of DINOv2's authors (DPT on a DINOv2 backbone, trained on NYU or KITTI); the others
    give inverse depth up to an unknown scale and shift, as MiDaS does.
    """
    if config.model_type in ("zoedepth", "glpn"):
        return "depth_m"
    if getattr(config, "depth_estimation_type", "relative") == "metric":
        return "depth_m"
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", None)
    if config.model_type == "dpt" and backbone == "dinov2":
        return "depth_m"
    return "inverse_depth_relative"


def _network(folder: Path) -> tuple[Any, Any]:
    """(configuration, network), with all the weights that it uses."""
    from transformers import AutoConfig, AutoModelForDepthEstimation

    only_here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **only_here)
    except Exception as error:  # whatever a broken file makes the library raise
        raise _unreadable(folder, error) from error
    if config.model_type not in FAMILIES:
        raise EstimatorError(
            f"{folder} holds a network of the family {config.model_type}; known are "
            f"{', '.join(FAMILIES)}"
        )
    try:
        with _quietly():
            network, found = AutoModelForDepthEstimation.from_pretrained(
                folder, output_loading_info=True, weights_only=True, dtype="float32", **only_here
            )
    except Exception as error:  # whatever a broken file makes the library raise
        raise _unreadable(folder, error) from error
    missing = sorted(name for name in found["missing_keys"] if not _NEVER_USED.search(name))
    if missing:
        raise EstimatorError(
            f"{folder} lacks {len(missing)} of its weights, {missing[0]} first; without them its "
            "depth would be random"
        )
    return config, network


def _image_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        with _quietly():
            return AutoImageProcessor.from_pretrained(
                folder, backend="pil", local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # whatever a broken file makes the library raise
        raise EstimatorError(
            f"{folder} does not say how its network wants its pictures: preprocessor_config.json "
            f"is missing or not usable ({first_line(error)})"
        ) from error


def _unreadable(folder: Path, error: Exception) -> EstimatorError:
    return EstimatorError(f"{folder} cannot be loaded: {first_line(error)}")


@contextmanager
def _quietly() -> Iterator[None]:
    """The library's own bars and reports kept off the terminal; its errors still come."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
