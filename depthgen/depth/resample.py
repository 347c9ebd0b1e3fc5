"""The original's two filters as pairs of matrices, so that they run where the network runs.

Pillow's bicubic on 8-bit pictures and scikit-image's `resize` are linear along each axis; what is
not (Pillow's rounding between its passes) is done here as there. The one rule: the first equals
Pillow bit by bit, the second scikit-image to float32's rounding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# Pillow's fixed point: coefficients of 8-bit pictures are integers over 2^22.
_PILLOW_ONE = 1 << 22
_BICUBIC_SUPPORT = 2.0
_BICUBIC_A = -0.5
_TRUNCATE = 4.0


class PillowBicubic:
    """`Image.resize(…, BICUBIC)` of RGB pictures of one size.

    source, target: (height, width). Columns are resized before rows, as in every Pillow of the
    original's time; a newer one takes the rows first where they shrink most, which can differ by a
    grey level. On the CPU it is Pillow that does it, ten times faster than the matrices; elsewhere
    it is the matrices, in float64, which holds every sum of Pillow's fixed point exactly.
    """

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], device: torch.device
    ) -> None:
        self._sizes = [(target[1], source[0]), (target[1], target[0])]
        self._down, self._across = (
            None if before == after else torch.from_numpy(bicubic_matrix(before, after)).to(device)
            for before, after in zip(source, target, strict=True)
        )

    def __call__(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 → (N, 3, h, w) uint8."""
        if pictures.device.type != "cpu":
            return self.by_matrices(pictures)
        found = []
        for picture in pictures.numpy():
            image = Image.fromarray(picture)
            for size in self._sizes:
                image = image.resize(size, Image.Resampling.BICUBIC)
            found.append(np.asarray(image))
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    def by_matrices(self, pictures: Tensor) -> Tensor:
        """The same on any device that has float64."""
        x = pictures.permute(0, 3, 1, 2).to(torch.float64, memory_format=torch.contiguous_format)
        if self._across is not None:
            x = _round(x @ self._across.T)
        if self._down is not None:
            x = _round(self._down @ x)
        return x.to(torch.uint8)


def _round(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_().clamp_(0.0, 255.0)


def bicubic_matrix(before: int, after: int) -> NDArray[np.float64]:
    """(after, before): what a resized row takes from the row, in Pillow's fixed point."""
    scale = before / after
    stretch = max(scale, 1.0)
    support = _BICUBIC_SUPPORT * stretch
    matrix = np.zeros((after, before))
    for row in range(after):
        center = (row + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), before)
        weights = [_bicubic((x - center + 0.5) * (1.0 / stretch)) for x in range(low, high)]
        total = sum(weights)
        for x, weight in enumerate(weights, low):
            scaled = weight / total * _PILLOW_ONE
            matrix[row, x] = int(scaled + math.copysign(0.5, scaled)) / _PILLOW_ONE
    return matrix


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return ((_BICUBIC_A + 2.0) * x - (_BICUBIC_A + 3.0)) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * _BICUBIC_A
    return 0.0


class SkimageResize:
    """`skimage.transform.resize(…, order=1, mode="reflect")` of maps of one size.

    source, target: (height, width). An axis that shrinks is smoothed first, as scikit-image does.
    """

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], device: torch.device
    ) -> None:
        self._down, self._across = (
            _Smaller(before, after, device) if after < before else _Larger(before, after, device)
            for before, after in zip(source, target, strict=True)
        )

    def __call__(self, maps: Tensor) -> Tensor:
        """(N, H, W) float32 → (N, h, w) float32."""
        return self._down(self._across(maps, dim=2), dim=1)


class _Larger:
    """An axis that does not shrink: each place lies between two, and takes from no other."""

    def __init__(self, before: int, after: int, device: torch.device) -> None:
        left, right, share = _neighbours(before, after)
        self._left, self._right = (torch.from_numpy(each).to(device) for each in (left, right))
        self._share = torch.from_numpy(share).float().to(device)

    def __call__(self, maps: Tensor, dim: int) -> Tensor:
        left, right = (maps.index_select(dim, each) for each in (self._left, self._right))
        return left.lerp_(right, self._share if dim == 2 else self._share[:, None])


class _Smaller:
    """An axis that shrinks, as a matrix."""

    def __init__(self, before: int, after: int, device: torch.device) -> None:
        self._matrix = torch.from_numpy(linear_matrix(before, after)).to(device)

    def __call__(self, maps: Tensor, dim: int) -> Tensor:
        # In float64, since float32 sums turn a plateau of 1 into 1 − 6e-8, a grey level less.
        wide = maps.double()
        return (wide @ self._matrix.T if dim == 2 else self._matrix @ wide).float()


def linear_matrix(before: int, after: int) -> NDArray[np.float64]:
    """(after, before): smoothing and linear interpolation of a row, mirrored at its end pixels.

    For an axis that shrinks. The Gaussian has sigma (before / after − 1) / 2, cut off at 4 sigma.
    """
    matrix = np.zeros((after, before))
    rows = np.arange(after)
    left, right, share = _neighbours(before, after)
    np.add.at(matrix, (rows, left), 1.0 - share)
    np.add.at(matrix, (rows, right), share)
    return matrix @ _gaussian_matrix(before, (before / after - 1.0) / 2.0)


def _neighbours(
    before: int, after: int
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    """(left, right, share): the places around each resized one, and what it takes of the right."""
    places = (np.arange(after) + 0.5) * (before / after) - 0.5
    left = np.floor(places).astype(int)
    return _mirror(left, before), _mirror(left + 1, before), places - left


def _gaussian_matrix(size: int, sigma: float) -> NDArray[np.float64]:
    radius = int(_TRUNCATE * sigma + 0.5)
    if radius == 0:
        return np.eye(size)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, weight in zip(offsets, weights, strict=True):
        np.add.at(matrix, (rows, _mirror(rows + offset, size)), weight)
    return matrix


def _mirror(index: NDArray[np.int_], size: int) -> NDArray[np.int_]:
    """Indices outside [0, size) reflected at the middle of the end pixels."""
    if size == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)
