"""The image processors of `transformers`, done on the device, a batch at a time.

The originals take one picture after the other through Pillow on the host. The one rule: what
reaches the network is what the original gives: the pixels before normalisation are within two grey
levels of it (one in all but a few of 10,000), sizes and the way back are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
import torch.nn.functional as F

from depthgen.depth.estimator import EstimatorError

if TYPE_CHECKING:
    from torch import Tensor

Resampling = Literal["bilinear", "bicubic"]

_RESAMPLING: dict[int, Resampling] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_ZOEDEPTH_PADDING = 3


class Processor(Protocol):
    """One family's way in and out."""

    def prepare(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB → (N, 3, h, w) float32, resized and normalised."""
        ...

    def restore(self, depth: Tensor, height: int, width: int) -> Tensor:
        """(N, h, w) float32 as predicted → (N, height, width), that of the pictures."""
        ...


@dataclass(frozen=True)
class Normalisation:
    """(pixel · factor − mean) / std, by channel."""

    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        return (pixels * self.factor - mean) / std


class Target(Protocol):
    """The size that pictures are brought to."""

    def of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) for a picture of `height` × `width`."""
        ...


@dataclass(frozen=True)
class NearTarget:
    """The size that a picture is brought to: as near to `height` × `width` as the rest allows.

    keep_aspect_ratio: scale both sides alike, by the factor that is nearer to 1. multiple: round
    each side to a multiple of this.
    """

    height: int
    width: int
    keep_aspect_ratio: bool
    multiple: float

    def of(self, height: int, width: int) -> tuple[int, int]:
        vertical, horizontal = self.height / height, self.width / width
        if self.keep_aspect_ratio:
            if abs(1 - horizontal) < abs(1 - vertical):
                vertical = horizontal
            else:
                horizontal = vertical
        return self._rounded(vertical * height), self._rounded(horizontal * width)

    def _rounded(self, side: float) -> int:
        # Half to even, as the originals do.
        return int(round(side / self.multiple) * self.multiple)


@dataclass(frozen=True)
class RoundedDownTarget:
    """GLPN's: each side down to a multiple of `divisor`.

    Raises `EstimatorError` for a picture with a side below it.
    """

    divisor: int

    def of(self, height: int, width: int) -> tuple[int, int]:
        if min(height, width) < self.divisor:
            raise EstimatorError(
                f"GLPN takes pictures of at least {self.divisor} pixels a side, not "
                f"{width} × {height}; choose another --model"
            )
        return height // self.divisor * self.divisor, width // self.divisor * self.divisor


@dataclass(frozen=True)
class PillowProcessor:
    """DPT, MiDaS, Depth Anything and GLPN: resize as Pillow does, normalise; back by bicubic."""

    target: Target | None
    how: Resampling
    normalise: Normalisation

    def prepare(self, pictures: Tensor) -> Tensor:
        pixels = pictures.permute(0, 3, 1, 2).float()
        if self.target is not None:
            pixels = resize_pixels(pixels, self.target.of(*pixels.shape[2:]), self.how)
        return self.normalise(pixels)

    def restore(self, depth: Tensor, height: int, width: int) -> Tensor:
        return _bicubic(depth, height, width)


@dataclass(frozen=True)
class ZoeDepthProcessor:
    """ZoeDepth: mirror the borders outwards, resize corner to corner; the border is cut off again.

    Its resizing is not antialiased, and nothing is rounded on the way.
    """

    target: Target | None
    how: Resampling
    padded: bool
    normalise: Normalisation

    def prepare(self, pictures: Tensor) -> Tensor:
        pixels = pictures.permute(0, 3, 1, 2).float()
        if self.padded:
            rows, columns = (_zoedepth_padding(side) for side in pixels.shape[2:])
            pixels = F.pad(pixels, (columns, columns, rows, rows), mode="reflect")
        if self.target is not None:
            size = self.target.of(*pixels.shape[2:])
            pixels = F.interpolate(pixels, size, mode=self.how, align_corners=True)
        return self.normalise(pixels)

    def restore(self, depth: Tensor, height: int, width: int) -> Tensor:
        if not self.padded:
            return _bicubic(depth, height, width)
        rows, columns = _zoedepth_padding(height), _zoedepth_padding(width)
        whole = _bicubic(depth, height + 2 * rows, width + 2 * columns)
        return whole[:, rows : rows + height, columns : columns + width].contiguous()


def read_processor(original: Any, name: str) -> Processor:
    """Our processor with the settings of an image processor that `transformers` has loaded.

    name: what to call the network in an error. Raises `EstimatorError` for another family, and for
    a setting that would move pixels in a way not known here.
    """
    kind = type(original).__name__.removesuffix("Pil")
    if kind not in ("DPTImageProcessor", "GLPNImageProcessor", "ZoeDepthImageProcessor"):
        raise EstimatorError(
            f"{name} wants its pictures prepared by {kind}, which is not known here; known are "
            "Depth Anything, DPT/MiDaS, ZoeDepth and GLPN"
        )
    if original.resample not in _RESAMPLING:
        raise EstimatorError(f"{name} resizes with filter {original.resample}; only 2 and 3 are")
    how, normalise = _RESAMPLING[original.resample], _normalisation(original)
    target = _target(original, kind) if original.do_resize else None
    if kind == "ZoeDepthImageProcessor":
        return ZoeDepthProcessor(target, how, bool(original.do_pad), normalise)
    moved = original.do_pad or getattr(original, "do_center_crop", False)
    if moved and kind == "DPTImageProcessor":  # GLPN's own passes these settings over
        raise EstimatorError(f"{name} pads or crops its pictures, so its depth would not fit them")
    return PillowProcessor(target, how, normalise)


def _normalisation(original: Any) -> Normalisation:
    normalised = bool(original.do_normalize)
    return Normalisation(
        float(original.rescale_factor) if original.do_rescale else 1.0,
        tuple(original.image_mean) if normalised else (0.0, 0.0, 0.0),
        tuple(original.image_std) if normalised else (1.0, 1.0, 1.0),
    )


def _target(original: Any, kind: str) -> Target:
    if kind == "GLPNImageProcessor":
        return RoundedDownTarget(original.size_divisor or 1)
    return NearTarget(
        int(original.size["height"]),
        int(original.size["width"]),
        bool(original.keep_aspect_ratio),
        float(original.ensure_multiple_of or 1),
    )


def resize_pixels(pixels: Tensor, size: tuple[int, int], how: Resampling) -> Tensor:
    """Resize grey levels as Pillow does: (N, C, H, W) float of whole numbers → (N, C, *size).

    Pillow goes along the rows first and rounds and clips to 8 bits after each direction; in one
    pass, an overshoot that it clips would move a pixel by as much as 8 grey levels.
    """
    across = _resize_once(pixels, (pixels.shape[2], size[1]), how)
    return _resize_once(across, size, how)


def _resize_once(pixels: Tensor, size: tuple[int, int], how: Resampling) -> Tensor:
    if tuple(pixels.shape[2:]) == size:
        return pixels
    resized = F.interpolate(pixels, size, mode=how, align_corners=False, antialias=True)
    return (resized + 0.5).floor_().clamp_(0, 255)


def _bicubic(depth: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(depth[:, None], (height, width), mode="bicubic", align_corners=False)
    return resized[:, 0]


def _zoedepth_padding(side: int) -> int:
    return int(math.sqrt(side / 2) * _ZOEDEPTH_PADDING)
