"""DenseDepth (Alhashim & Wonka 2018) in torch: the network that made the original's labels.

The network is built from the weights file, whichever variant that holds, and stands between the
original's own two filters. The one rule: in float32 a label is what Keras, Pillow and scikit-image
give with the same weights; folding, layout and precision change how fast it comes, not what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthgen.depth.convolution import Conv, NormReLU
from depthgen.depth.densedepth_layout import DECODER, ENCODER, Layout, read_densedepth
from depthgen.depth.estimator import EstimatorError, PrecisionName, QuantityName
from depthgen.depth.quantity import NEAREST_LABEL
from depthgen.depth.resample import PillowBicubic, SkimageResize
from depthgen.depth.side_by_side import side_by_side
from depthgen.depth.weights import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

INPUT_SIZE = (480, 640)
OUTPUT_SIZE = (240, 320)
DTYPES: dict[PrecisionName, torch.dtype] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_SLOPE = 0.2
# Small places at once in `_UpConv`: fewer are too many calls, more are too many zeros.
_STRIP = 20
_WHITE = 255.0
# The network gives 1000 / depth, both in centimetres of the original's ten metres.
_RANGE = 1000.0


class _Arrays:
    """A trained file's arrays, taken by the name of their layer, and what they become."""

    def __init__(self, arrays: Mapping[str, Tensor], epsilon: float, dtype: torch.dtype) -> None:
        self.arrays = arrays
        self.epsilon = epsilon
        self.dtype = dtype

    def conv(
        self,
        name: str,
        norm: str = "",
        stride: int = 1,
        slope: float | None = None,
        unit: float | Tensor = 1.0,
    ) -> Conv:
        """A convolution, with the batch normalisation that follows it folded in if one is named.

        slope: of the ReLU after both. unit: what stands for 1 in its input, or in each channel.
        """
        weight = self.arrays[f"{name}.weight"].double() / unit
        bias = self.arrays.get(f"{name}.bias", torch.zeros(len(weight))).double()
        if norm:
            scale, shift = self._scale_shift(norm)
            weight, bias = weight * scale.view(-1, 1, 1, 1), bias * scale + shift
        return Conv(weight.to(self.dtype), bias.to(self.dtype), stride, slope)

    def norm_conv(
        self, norm: str, name: str, following: str = "", slope: float | None = None
    ) -> tuple[NormReLU, Conv]:
        """A batch normalisation with its ReLU, and the convolution of what they give.

        Scales are rounded to the precision; what they lose that way the convolution makes up for.
        """
        scale, shift = self._scale_shift(norm)
        rounded = scale.to(self.dtype).double()
        unit = torch.where(rounded == 0, 1.0, rounded / scale)
        conv = self.conv(name, following, slope=slope, unit=unit.view(-1, 1, 1))
        return NormReLU(rounded, shift * unit), conv

    def _scale_shift(self, name: str) -> tuple[Tensor, Tensor]:
        gamma, beta, mean, variance = (
            self.arrays[f"{name}.{kind}"].double()
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / torch.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale


class _DenseLayer(nn.Module):
    def __init__(self, arrays: _Arrays, name: str) -> None:
        super().__init__()
        self.norm1, self.conv1 = arrays.norm_conv(
            f"{name}.norm1", f"{name}.conv1", following=f"{name}.norm2", slope=0.0
        )
        self.conv2 = arrays.conv(f"{name}.conv2")

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.conv1(self.norm1(x)))], dim=1)


class _Transition(nn.Module):
    def __init__(self, arrays: _Arrays, name: str) -> None:
        super().__init__()
        self.norm, self.conv = arrays.norm_conv(f"{name}.norm", f"{name}.conv")

    def forward(self, x: Tensor) -> Tensor:
        # A mean over space and a mix of channels commute; this order mixes a quarter as many.
        return self.conv(F.avg_pool2d(self.norm(x), 2))


class _UpConv(nn.Module):
    """The 3 × 3 convolution of (x at twice its size, skip), without making the first large.

    Interpolation acts on space and a tap of the kernel on channels, so they commute: the nine taps
    are taken of the small x, a quarter of the work, and matrices interpolate and shift their sums,
    rows apart from columns. A large place takes from its small neighbours alone, so there is a
    matrix for each strip, which spares the zeros of one for all.
    """

    def __init__(self, conv: Conv, channels: int, align_corners: bool) -> None:
        super().__init__()
        large, skip = conv.weight.split([channels, conv.weight.shape[1] - channels], dim=1)
        self.channels = len(skip)
        self.skip = Conv(skip, conv.bias)
        # The tap's column is outermost, so that the columns' matrices read z as it lies.
        self.taps = Conv(large.permute(3, 2, 0, 1).reshape(-1, channels, 1, 1), None)
        self.align_corners = align_corners
        self._strips: dict[int, list[_Strip]] = {}

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        n, _, height, width = x.shape
        c = self.channels
        z = self.taps(x).permute(0, 2, 3, 1).reshape(n * height, width * 3, 3 * c)
        y = z.new_empty(n, height, 3, 2 * width, c)
        for strip in self._strips_of(width, x):
            part = torch.bmm(strip.matrix.expand(len(z), -1, -1), z[:, strip.small])
            y[:, :, :, strip.large] = part.view(n, height, -1, 3, c).transpose(2, 3)
        y = y.view(n, height * 3, 2 * width * c)
        out = self.skip(skip).permute(0, 2, 3, 1).reshape(n, 2 * height, 2 * width * c)
        for strip in self._strips_of(height, x):
            out[:, strip.large].baddbmm_(strip.matrix.expand(n, -1, -1), y[:, strip.small])
        return out.view(n, 2 * height, 2 * width, c).permute(0, 3, 1, 2)

    def _strips_of(self, size: int, like: Tensor) -> list[_Strip]:
        if size not in self._strips:
            self._strips[size] = [
                strip._replace(matrix=strip.matrix.to(like))
                for strip in _strips(size, self.align_corners)
            ]
        return self._strips[size]


class _Strip(NamedTuple):
    """What some large places take from the taps of the small ones around them.

    matrix: (large places, small places · 3).
    """

    large: slice
    small: slice
    matrix: Tensor


def _strips(size: int, align_corners: bool) -> Iterator[_Strip]:
    """The strips of an axis of so many small places."""
    ones = torch.eye(size, dtype=torch.float64).unsqueeze(1)
    up = F.interpolate(ones, scale_factor=2.0, mode="linear", align_corners=align_corners)
    # Zeros around it are those that the convolution pads with.
    padded = F.pad(up.squeeze(1).T, (0, 0, 1, 1))
    taps = torch.stack([padded[:-2], padded[1:-1], padded[2:]], dim=2)
    for start in range(0, size, _STRIP):
        end = min(start + _STRIP, size)
        large, small = slice(2 * start, 2 * end), slice(max(start - 1, 0), min(end + 1, size))
        matrix = taps[large, small].reshape(2 * (end - start), -1)
        yield _Strip(large, slice(3 * small.start, 3 * small.stop), matrix)


class _UpBlock(nn.Module):
    """×2, the skip beside it, two convolutions."""

    def __init__(self, arrays: _Arrays, number: int, layout: Layout) -> None:
        super().__init__()
        name = f"{DECODER}up{number}"
        channels = layout.width // 2 ** (number - 1)
        self.conv_a = _UpConv(arrays.conv(f"{name}.convA"), channels, layout.align_corners)
        self.conv_b = arrays.conv(f"{name}.convB", slope=_SLOPE)
        self.leaky_twice = layout.leaky_twice

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.conv_a(x, skip)
        if self.leaky_twice:
            x = F.leaky_relu_(x, _SLOPE)
        return self.conv_b(x)


class _LastConv(nn.Module):
    """The 3 × 3 convolution to one channel: nine taps, then their sum, bias included, in float32.

    Twice as fast as a convolution with one output, and rounded to half precision before the sum,
    not after it.
    """

    bias: Tensor

    def __init__(self, conv: Conv, bias: Tensor) -> None:
        super().__init__()
        # `fold` spreads a place over its neighbours, which is a convolution with the kernel turned.
        taps = conv.weight.flip(2, 3).permute(2, 3, 0, 1).reshape(9, -1, 1, 1)
        self.taps = Conv(taps, None)
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H, W) float32."""
        size = x.shape[2:]
        taps = self.taps(x).float().flatten(2)
        return F.fold(taps, size, kernel_size=3, padding=1).squeeze(1) + self.bias


class DenseDepth(nn.Module):
    """The bare network: (N, 3, H, W) RGB in [0, 255] → (N, H / 2, W / 2) float32.

    The output is 1000 / depth in centimetres; H and W are multiples of 32. The weights expect
    [0, 1], without ImageNet's normalisation; the division is in the first kernel, since bfloat16
    holds 0 … 255 exactly, but not their 255ths.
    """

    def __init__(self, layout: Layout, arrays: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        made = _Arrays(arrays, layout.epsilon, dtype)
        self.stem = made.conv(
            f"{ENCODER}conv0", norm=f"{ENCODER}norm0", stride=2, slope=0.0, unit=_WHITE
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(
                    _DenseLayer(made, f"{ENCODER}denseblock{block}.denselayer{layer}")
                    for layer in range(1, layers + 1)
                )
            )
            for block, layers in enumerate(layout.blocks, 1)
        )
        self.transitions = nn.ModuleList(
            _Transition(made, f"{ENCODER}transition{block}")
            for block in range(1, len(layout.blocks))
        )
        self.norm, self.conv2 = made.norm_conv(f"{ENCODER}norm5", f"{DECODER}conv2")
        self.ups = nn.ModuleList(
            _UpBlock(made, number, layout) for number in range(1, len(layout.blocks) + 1)
        )
        self.conv3 = _LastConv(made.conv(f"{DECODER}conv3"), arrays[f"{DECODER}conv3.bias"])
        self.dtype = dtype

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.stem(pictures.to(self.dtype, memory_format=torch.channels_last))
        skips = [x]
        # Padding with −∞ is padding with zero, since nothing here is below it.
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for block, transition in zip(self.blocks, self.transitions, strict=False):
            skips.append(x)
            x = transition(block(x))
        x = self.conv2(self.norm(self.blocks[-1](x)))
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.conv3(x)


class DenseDepthEstimator:
    """DenseDepth between the original's filters; an `Estimator`.

    The values are labels already: metres / 10, in [0.01, 1], so `full_scale` is 1. assumed: what
    the weights file leaves open, in words; empty where it says all.
    """

    model = "densedepth"
    quantity: QuantityName = "depth_m"
    full_scale: float | None = 1.0

    def __init__(
        self,
        network: DenseDepth,
        digest: str,
        device: torch.device,
        precision: PrecisionName,
        assumed: str = "",
    ) -> None:
        self.network = network.to(device)
        self.digest = digest
        self.device = device
        self.precision = precision
        self.assumed = assumed
        self._filters: dict[tuple[int, int], tuple[PillowBicubic, SkimageResize]] = {}

    def __call__(self, pictures: Tensor) -> Tensor:
        """Labels of pictures: (N, H, W, 3) uint8 RGB → (N, H, W) float32 in [0.01, 1].

        Pillow's bicubic to 640 × 480, the network, clip(1000 / out, 10, 1000) / 1000, and
        scikit-image's `resize` back.
        """
        return side_by_side(self._label, pictures)

    def _label(self, pictures: Tensor) -> Tensor:
        shrink, back = self._filters_for(pictures.shape[1], pictures.shape[2])
        values = self.network(shrink(pictures))
        return back(torch.clamp(_RANGE / values, NEAREST_LABEL * _RANGE, _RANGE) / _RANGE)

    def _filters_for(self, height: int, width: int) -> tuple[PillowBicubic, SkimageResize]:
        size = (height, width)
        if size not in self._filters:
            self._filters[size] = (
                PillowBicubic(size, INPUT_SIZE, self.device),
                SkimageResize(OUTPUT_SIZE, size, self.device),
            )
        return self._filters[size]


def load_densedepth(
    path: Path, device: torch.device | str = "cpu", precision: PrecisionName = "float32"
) -> DenseDepthEstimator:
    """The estimator of a weights file, Keras HDF5 or a PyTorch checkpoint.

    Raises `WeightsError` where the file cannot be read or holds another network, and
    `EstimatorError` where the precision is none of `DTYPES`.
    """
    if precision not in DTYPES:
        raise EstimatorError(f"precision {precision} is not one of {', '.join(DTYPES)}")
    trained = read_densedepth(path)
    network = DenseDepth(trained.layout, trained.arrays, DTYPES[precision]).eval()
    return DenseDepthEstimator(
        network, digest(path), torch.device(device), precision, trained.assumed
    )
