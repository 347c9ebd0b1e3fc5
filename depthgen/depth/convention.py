"""What a network of unknown origin wants for a picture, and what its numbers mean.

A Keras or ONNX file says which shapes it takes, and seldom more. The one rule: what a file's
numbers mean is never guessed; a label that says the wrong thing is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from depthgen.depth.estimator import EstimatorError
from depthgen.depth.quantity import FAR_M, NEAREST_LABEL
from depthgen.depth.resample import PillowBicubic, SkimageResize
from depthgen.errors import OptionsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from depthgen.depth.estimator import QuantityName

# "densedepth": the output is 1000 / depth in centimetres, as that network gives it.
Meaning = Literal["depth_m", "depth_relative", "inverse_depth_relative", "densedepth"]
MEANINGS: tuple[str, ...] = get_args(Meaning)

_DENSEDEPTH_RANGE = 1000.0


@dataclass(frozen=True)
class Convention:
    """How to feed a network, and how to read it.

    meaning: what its output is. size: (height, width) of its input where the file leaves that open;
    None: the pictures' own, each side rounded to the nearest `multiple` above 0. The input is
    (pixel · scale − mean) / std, by channel of RGB, pixels from 0 to 255; by default RGB in [0, 1].
    layout: "nchw" or "nhwc", output: the name of the one that is depth, where the file leaves those
    open. Raises `OptionsError` where a value makes no sense.
    """

    meaning: Meaning
    size: tuple[int, int] | None = None
    multiple: int = 32
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: Literal["nchw", "nhwc"] | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        checks = (
            (
                self.meaning in MEANINGS,
                f"what the network gives must be one of {', '.join(MEANINGS)}, not {self.meaning}",
            ),
            (
                self.size is None or (len(self.size) == 2 and min(self.size) >= 1),
                f"the network's size must be height and width above 0, not {self.size}",
            ),
            (self.multiple >= 1, f"sides must be a multiple of at least 1, not {self.multiple}"),
            (self.scale > 0, f"pixels must be scaled by more than 0, not {self.scale}"),
            (len(self.mean) == 3, f"mean must be 3 numbers, not {len(self.mean)}"),
            (
                len(self.std) == 3 and all(value > 0 for value in self.std),
                f"std must be 3 numbers above 0, not {self.std}",
            ),
            (
                self.layout in (None, "nchw", "nhwc"),
                f"the layout must be nchw or nhwc, not {self.layout}",
            ),
        )
        for fine, complaint in checks:
            if not fine:
                raise OptionsError(complaint)

    @property
    def quantity(self) -> QuantityName:
        return "depth_m" if self.meaning == "densedepth" else self.meaning

    @property
    def full_scale(self) -> float | None:
        return 1.0 if self.quantity == "depth_m" else None

    def input_size(
        self, height: int, width: int, fixed: tuple[int | None, int | None]
    ) -> tuple[int, int]:
        """The size a picture of `height` × `width` is brought to; `fixed`: what the file fixes."""
        free = self.size or (self._rounded(height), self._rounded(width))
        return fixed[0] or free[0], fixed[1] or free[1]

    def refuse_other_size(self, name: str, fixed: tuple[int | None, int | None]) -> None:
        """Raise `OptionsError` if the file fixes another size than the one that is given."""
        for wanted, there in zip(self.size or fixed, fixed, strict=True):
            if there not in (None, wanted):
                raise OptionsError(
                    f"{name} takes a side of {there} pixels and no other; size is {wanted}"
                )

    def _rounded(self, side: int) -> int:
        return max(1, round(side / self.multiple)) * self.multiple

    def resize(self, pictures: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H, W, 3) uint8 → (N, 3, *size) float32 of whole numbers, as Pillow's bicubic does."""
        height, width = pictures.shape[1:3]
        return _shrinker((height, width), size, pictures.device)(pictures).float()

    def normalise(self, pixels: Tensor) -> Tensor:
        """(N, 3, h, w) pixels → what the network takes."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels * self.scale - mean) / std

    def values(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, h, w) as the network gives it → (N, *size) float32; metres become metres / 10.

        DenseDepth's output is inverted and clipped before it is resized, as the original did.
        """
        maps = output.float()
        if self.meaning == "densedepth":
            nearest = NEAREST_LABEL * _DENSEDEPTH_RANGE
            maps = (_DENSEDEPTH_RANGE / maps).clamp(nearest, _DENSEDEPTH_RANGE) / _DENSEDEPTH_RANGE
        elif self.meaning == "depth_m":
            maps = maps / FAR_M
        source = (maps.shape[1], maps.shape[2])
        return maps if source == size else _grower(source, size, maps.device)(maps)


@dataclass(frozen=True, eq=False)
class FileEstimator:
    """What `Estimator`s of Keras and ONNX files have in common.

    model: what stands in the archive. digest: SHA-256 over the file and what it reads beside it.
    """

    model: str
    digest: str
    device: torch.device
    convention: Convention

    @property
    def quantity(self) -> QuantityName:
        return self.convention.quantity

    @property
    def full_scale(self) -> float | None:
        return self.convention.full_scale


def agree(name: str, said: Mapping[str, Any], given: Mapping[str, Any]) -> Convention:
    """The convention of a network file: fields that are `given`, else what the file `said`.

    name: what to call the network in an error. Raises `OptionsError` if neither says what its
    output means.
    """
    known = {**said, **given}
    if "meaning" not in known:
        raise OptionsError(
            f"{name} does not say what its numbers mean: give --quantity with one of "
            f"{', '.join(MEANINGS)}"
        )
    return Convention(**known)


@lru_cache(maxsize=8)
def _shrinker(
    source: tuple[int, int], target: tuple[int, int], device: torch.device
) -> PillowBicubic:
    return PillowBicubic(source, target, device)


@lru_cache(maxsize=8)
def _grower(
    source: tuple[int, int], target: tuple[int, int], device: torch.device
) -> SkimageResize:
    return SkimageResize(source, target, device)


def depth_map(output: Tensor, name: str) -> Tensor:
    """A network's output as (N, h, w): of four dimensions, the one of channels must be 1.

    Raises `EstimatorError` if it is no depth map.
    """
    if output.ndim == 4 and output.shape[1] == 1:
        return output[:, 0]
    if output.ndim == 4 and output.shape[3] == 1:
        return output[..., 0]
    if output.ndim == 3:
        return output
    raise EstimatorError(
        f"{name} gives {' × '.join(map(str, output.shape))}, not one depth map a picture"
    )
