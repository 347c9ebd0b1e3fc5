"""A trained network, and what it says of a pair of pictures of any size.

The one rule: masks and depths come out at the size of the pictures. Logits are resized, not
probabilities, for a logit between two others lies between them in evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from depthgen.images import decode, resize
from vathos import model as models
from vathos.errors import CheckpointError, ConfigError, DataError, UsageError
from vathos.model.resunet import SIZE_MULTIPLE
from vathos.trainer.checkpoint import find_checkpoint, load_checkpoint, load_model_state
from vathos.utils.device import choose_device
from vathos.utils.instances import get_instance_v2
from vathos.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Picture = str | Path | NDArray[np.uint8]
    Size = int | Literal["full"] | None

__all__ = ["Network", "Predictor", "find_device", "load_network", "read_picture"]

DEFAULT_SIDE = 192  # where a checkpoint does not say what it was trained at
LARGEST_SIDE = 8192


@dataclass(frozen=True)
class Network:
    """A network from a checkpoint, on the CPU and ready to guess, and what the file says of it.

    size: (height, width) of the training pictures. quantity: what a depth label means, as the label
    archive says it. epoch, step: when it was saved. None where the file does not say.
    """

    model: nn.Module
    name: str
    size: tuple[int, int] | None = None
    quantity: dict[str, Any] | None = None
    epoch: int | None = None
    step: int | None = None

    @property
    def metres(self) -> float | None:
        """Metres of a label of 1, if its labels are metres."""
        quantity = self.quantity or {}
        scale = quantity.get("scale_m") if quantity.get("quantity") == "depth_m" else None
        return float(scale) if scale else None

    def meaning(self) -> str:
        """What a depth label is, as a phrase."""
        if self.metres is not None:
            return f"metres = {self.metres:g} × label"
        if self.quantity is None:
            return "the checkpoint does not say what a label means"
        return f"labels are {self.quantity.get('quantity')}, without a unit"


def load_network(path: str | Path) -> Network:
    """Read a checkpoint of a run, `model_checkpoint.pt` or `train_checkpoint.pt`, or take the first
    from the run's folder.

    Raises `CheckpointError` if it is damaged, not a checkpoint, or of a network not known here.
    """
    path = find_checkpoint(path)
    state = load_checkpoint(path)
    name = state.get("model_name")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{path} does not say which network its weights are of; name the model_checkpoint.pt "
            "of a run"
        )
    try:
        model: nn.Module = get_instance_v2(models, name, **(state.get("model_args") or {}))
    except ConfigError as error:
        raise CheckpointError(
            f"{path} is a checkpoint of {name}, which cannot be built: {error}"
        ) from error
    load_model_state(model, state, path)
    size = state.get("size")
    return Network(
        model.eval(),
        name,
        None if size is None else (int(size[0]), int(size[1])),
        state.get("quantity"),
        state.get("epoch"),
        state.get("step"),
    )


def find_device(name: str) -> torch.device:
    """The device for auto, cpu, cuda, cuda:1, mps. Raises `UsageError` if it is not there."""
    if name == "auto":
        return choose_device("auto")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # some devices have shapes only
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"the device {name!r} is not there; use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    return device


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as (H, W, 3) uint8 RGB, upright. Raises `DataError`, or `ImageError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); name a picture that is there"
        ) from error
    return decode(data, "RGB", name=str(path))


class Predictor:
    """Mask and depth of what is in `fg_bg` and not in `bg`.

    >>> predictor = Predictor.load("runs/x/model_checkpoint.pt")
    >>> mask, depth = predictor("room.jpg", "room_with_cat.jpg")
    """

    def __init__(self, network: Network, device: torch.device | str = "cpu") -> None:
        self.network = network
        self.device = torch.device(device)
        # Half to a whole faster on a CPU; Apple's GPU does not have it for every operator.
        self.order = torch.contiguous_format if self.device.type == "mps" else torch.channels_last
        self.model = network.model.to(self.device).to(  # type: ignore[call-overload]
            memory_format=self.order
        )

    @classmethod
    def load(cls, checkpoint: str | Path, device: str = "auto") -> Predictor:
        """From a checkpoint. Raises `CheckpointError`, or `UsageError` for a device not there."""
        return cls(load_network(checkpoint), find_device(device))

    @property
    def side(self) -> int:
        """The shorter side that the network sees if nothing is said: that of its training."""
        return min(self.network.size) if self.network.size is not None else DEFAULT_SIDE

    def __call__(
        self, bg: Picture, fg_bg: Picture, size: Size = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(mask, depth): probability and label, each (H, W) float32 in [0, 1].

        bg, fg_bg: (H, W, 3) uint8 RGB of one size, or paths of pictures. size: the shorter side
        that the network sees, the other in proportion; None is that of its training, "full" the
        picture's own. Raises `DataError` for pictures of two sizes or too large for the memory,
        `ImageError` for a damaged one.
        """
        first, second = _pixels(bg), _pixels(fg_bg)
        if first.shape != second.shape:
            raise DataError(
                f"{_called(bg, 'bg')} is {_size(first)} and {_called(fg_bg, 'fg_bg')} "
                f"{_size(second)}; give two pictures of one view at one size"
            )
        height, width = first.shape[:2]
        seen = self._seen(height, width, size)
        try:
            batch = [torch.from_numpy(_resized(each, *seen))[None] for each in (first, second)]
            pair = torch.cat([each.permute(0, 3, 1, 2) for each in batch], dim=1).float() / 255
            depth_logits, mask_logits = self.logits(pair)
            mask, depth = (
                torch.sigmoid(_resized_logits(each, height, width))[0, 0].cpu().numpy()
                for each in (mask_logits, depth_logits)
            )
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise DataError(
                    f"the network has no room for {_called(fg_bg, 'fg_bg')} at {seen[1]} × "
                    f"{seen[0]}; give a smaller size, such as {self.side}"
                ) from error
            raise
        return mask, depth

    @torch.inference_mode()
    def logits(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """(depth, mask) logits, (N, 1, H, W) float32, of (N, 6, H, W) in [0, 1] of any size.

        What is missing to a multiple of 16 is mirrored, or where there is too little to mirror,
        repeated; and cut off again.
        """
        height, width = pair.shape[2:]
        right, below = -width % SIZE_MULTIPLE, -height % SIZE_MULTIPLE
        how = "reflect" if right < width and below < height else "replicate"
        padded = F.pad(pair.to(self.device), (0, right, 0, below), mode=how)
        depth, mask = self.model(padded.contiguous(memory_format=self.order))
        return depth[:, :, :height, :width].float(), mask[:, :, :height, :width].float()

    def _seen(self, height: int, width: int, size: Size) -> tuple[int, int]:
        if size == "full":
            return height, width
        side = self.side if size is None else size
        if not isinstance(side, int) or not 1 <= side <= LARGEST_SIDE:
            raise UsageError(f"size is {side!r}; give pixels from 1 to {LARGEST_SIDE}, or full")
        scale = side / min(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


def _pixels(picture: Picture) -> NDArray[np.uint8]:
    if isinstance(picture, str | Path):
        return read_picture(Path(picture))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise DataError(
            f"a picture is (H, W, 3) uint8, RGB, and this array {picture.shape} {picture.dtype}; "
            "convert it first"
        )
    return np.array(picture)  # a copy: neither OpenCV nor torch takes every view as it is


def _called(picture: Picture, name: str) -> str:
    return str(picture) if isinstance(picture, str | Path) else name


def _size(picture: NDArray[np.uint8]) -> str:
    return f"{picture.shape[1]} × {picture.shape[0]}"


def _resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Averaged where it shrinks, as the training pictures were; bicubic where it grows."""
    if picture.shape[:2] == (height, width):
        return picture
    return resize(picture, width, height, "area" if height < picture.shape[0] else "bicubic")


def _resized_logits(logits: Tensor, height: int, width: int) -> Tensor:
    if logits.shape[2:] == (height, width):
        return logits
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
