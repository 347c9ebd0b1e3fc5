"""Light augmentation of (background, composite, mask, depth), for two photographs of one scene.

The one rule: what happens to the scene happens to all four, and what happens in a camera is drawn
for the background and the composite independently. Composites that are made differ from their
background in nothing but the cut-out, so a network may learn to subtract; two photographs differ
everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn
from torch.nn import functional as F

from vathos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DepthLightAug"]

LUMA = (0.299, 0.587, 0.114)
BLUR_KERNEL = (5, 5)
# Where no generator can be made: XLA draws on the CPU.
DEVICES_THAT_DRAW = ("cpu", "cuda", "mps")


class DepthLightAug(nn.Module):
    """Flips and crops for all four; shifts, colour, blur, noise and JPEG for each picture alone.

    flip, crop: probability of a horizontal flip, and of cutting out a part of `crop_side` to 1 of
    each side, scaled back to full size.
    photometric: probability that the sample is disturbed at all; the others keep their clean pair.
    Of a disturbed sample each of the two pictures draws for itself:
    shift: -shift, ..., or shift pixels each way (an integer); labels move with the composite.
    brightness, contrast, saturation: factors of 1 - value to 1 + value; contrast is about the
    picture's mean. hue: -hue to hue turns around the grey axis.
    blur: probability of a Gaussian blur of up to `blur_sigma` pixels.
    noise: Gaussian, standard deviation 0 to `noise`, drawn anew for each pixel and channel.
    jpeg: probability of coding as JPEG at a quality from `jpeg_quality`, both ends included.

    All randomness comes from torch's global CPU generator, on whichever device the batch is; noise
    is drawn on the device from a seed of it. Raises `ConfigError` for a value out of its range.
    """

    def __init__(
        self,
        *,
        flip: float = 0.5,
        crop: float = 0.5,
        crop_side: float = 0.7,
        photometric: float = 0.8,
        shift: int = 1,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.3,
        hue: float = 0.03,
        blur: float = 0.3,
        blur_sigma: float = 0.8,
        noise: float = 0.03,
        jpeg: float = 0.5,
        jpeg_quality: Sequence[int] = (30, 95),
    ) -> None:
        super().__init__()
        self.flip, self.crop, self.photometric = flip, crop, photometric
        self.blur, self.jpeg = blur, jpeg
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.crop_side, self.shift, self.hue = crop_side, shift, hue
        self.blur_sigma, self.noise = blur_sigma, noise
        self.jpeg_quality = tuple(jpeg_quality)
        self._check()

    def _check(self) -> None:
        for name in ("flip", "crop", "photometric", "blur", "jpeg"):
            _check_range(name, getattr(self, name), 0, 1)
        for name in ("brightness", "contrast", "saturation"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("crop_side", self.crop_side, 0.1, 1)
        _check_range("shift", self.shift, 0, 8)
        if not isinstance(self.shift, int):
            raise ConfigError(f"augmentation: shift is {self.shift}, but must be a whole number")
        _check_range("hue", self.hue, 0, 0.5)
        _check_range("blur_sigma", self.blur_sigma, 0.05, 2)
        _check_range("noise", self.noise, 0, 1)
        low, high = self.jpeg_quality if len(self.jpeg_quality) == 2 else (0, 0)
        if not 1 <= low <= high <= 100:
            raise ConfigError(
                f"augmentation: jpeg_quality is {list(self.jpeg_quality)}, but must be the lowest "
                "and the highest quality, from 1 to 100"
            )

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A new batch; the one given stays as it is.

        `bg`, `fg_bg` (N, 3, H, W), `fg_bg_mask` and `depth_fg_bg` (N, 1, H, W), floats in [0, 1] on
        one device, and so they come back. Pictures are interpolated; masks and depth are taken from
        the nearest pixel, so that a mask stays 0 and 1 and no depth is made up between an object
        and what is behind it, and both keep their edges in one place.
        """
        count = len(batch["bg"])
        disturbed = torch.rand(count) < self.photometric
        frame = self._frame(count)
        place = self._shifted(frame, disturbed, batch["fg_bg"])
        labels = torch.cat((batch["fg_bg_mask"], batch["depth_fg_bg"]), dim=1)
        labels = _warp(labels, place, "nearest")
        bg = _warp(batch["bg"], self._shifted(frame, disturbed, batch["bg"]), "bilinear")
        fg_bg = _warp(batch["fg_bg"], place, "bilinear")
        return {
            **batch,
            "bg": self._disturb(bg, disturbed),
            "fg_bg": self._disturb(fg_bg, disturbed),
            "fg_bg_mask": labels[:, :1],
            "depth_fg_bg": labels[:, 1:],
        }

    def _frame(self, count: int) -> Tensor:
        """(N, 2, 3): where the output is taken from, in coordinates of -1 to 1, of flip and crop.

        A crop keeps the picture's proportions and only ever magnifies: nothing is lost to aliasing.
        """
        side = self.crop_side + (1 - self.crop_side) * torch.rand(count)
        side = torch.where(torch.rand(count) < self.crop, side, 1.0)
        mirror = torch.where(torch.rand(count) < self.flip, -1.0, 1.0)
        frame = torch.zeros(count, 2, 3)
        frame[:, 0, 0], frame[:, 1, 1] = mirror * side, side
        frame[:, :, 2] = (1 - side)[:, None] * (2 * torch.rand(count, 2) - 1)
        return frame

    def _shifted(self, frame: Tensor, disturbed: Tensor, picture: Tensor) -> Tensor:
        """The frame moved by whole output pixels, drawn anew at each call."""
        steps = torch.randint(-self.shift, self.shift + 1, (len(frame), 2)) * disturbed[:, None]
        height, width = picture.shape[-2:]
        offset = steps * torch.tensor([2 / width, 2 / height])
        moved = frame.clone()
        moved[:, :, 2] += (frame[:, :, :2] @ offset[:, :, None])[:, :, 0]
        return moved

    def _disturb(self, pictures: Tensor, disturbed: Tensor) -> Tensor:
        """What a camera does to the pictures that are to be disturbed."""
        rows = disturbed.nonzero()[:, 0]
        at = _beside(pictures, rows)
        changed = self._recolour(pictures[at])
        changed = self._blur_some(changed)
        changed = self._add_noise(changed).clamp_(0, 1)
        changed = self._code_some(changed)
        return pictures.index_copy(0, at, changed)

    def _recolour(self, pictures: Tensor) -> Tensor:
        """Brightness, contrast, saturation and hue as one matrix and one offset a picture."""
        count = len(pictures)
        gain, contrast, saturation = (
            1 + spread * (2 * torch.rand(count, 1, 1) - 1)
            for spread in (self.brightness, self.contrast, self.saturation)
        )
        turn = torch.pi * 2 * self.hue * (2 * torch.rand(count) - 1)
        colours = gain * (_saturate(saturation) @ _turn(turn))
        matrix = _like(pictures, contrast * colours)
        mean = pictures.mean(dim=(2, 3))[:, :, None]
        offset = _like(pictures, (1 - contrast) * gain) * mean.mean(dim=1, keepdim=True)
        return torch.baddbmm(offset, matrix, pictures.flatten(2)).view_as(pictures)

    def _blur_some(self, pictures: Tensor) -> Tensor:
        chosen = (torch.rand(len(pictures)) < self.blur).nonzero()[:, 0]
        sigma = 0.05 + (self.blur_sigma - 0.05) * torch.rand(len(chosen), 1)
        if not len(chosen):
            return pictures
        at = _beside(pictures, chosen)
        sigma = _like(pictures, sigma.expand(-1, 2))
        blurred = gaussian_blur2d(pictures[at], BLUR_KERNEL, sigma)
        return pictures.index_copy(0, at, blurred)

    def _add_noise(self, pictures: Tensor) -> Tensor:
        deviation = self.noise * torch.rand(len(pictures), 1, 1, 1)
        seed = int(torch.randint(2**62, ()))
        device = pictures.device if pictures.device.type in DEVICES_THAT_DRAW else "cpu"
        generator = torch.Generator(device).manual_seed(seed)
        noise = torch.randn(pictures.shape, generator=generator, device=device)
        return pictures + _like(pictures, deviation) * _like(pictures, noise)

    def _code_some(self, pictures: Tensor) -> Tensor:
        """JPEG and back; only of some, for it costs more than all the rest."""
        chosen = (torch.rand(len(pictures)) < self.jpeg).nonzero()[:, 0]
        low, high = self.jpeg_quality
        quality = _like(pictures, torch.randint(low, high + 1, (len(chosen),)))
        if not len(chosen):
            return pictures
        at = _beside(pictures, chosen)
        coded = jpeg_codec_differentiable(pictures[at], quality).clamp_(0, 1)
        return pictures.index_copy(0, at, coded)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"augmentation: {name} is {value}, but must be from {low} to {high}")


def _beside(pictures: Tensor, drawn: Tensor) -> Tensor:
    """What was drawn on the host, on the device of `pictures`.

    CUDA's host does not wait: numbers in its pageable memory are taken over before this returns.
    """
    return drawn.to(pictures.device, non_blocking=pictures.is_cuda)


def _like(pictures: Tensor, drawn: Tensor) -> Tensor:
    """As `_beside`, and of the type of `pictures`."""
    return _beside(pictures, drawn).to(pictures.dtype)


def _warp(pictures: Tensor, frame: Tensor, mode: str) -> Tensor:
    """(N, C, H, W) as seen through `frame`; beyond the border its pixels are repeated."""
    grid = F.affine_grid(_like(pictures, frame), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode, padding_mode="border", align_corners=False)


def _saturate(factor: Tensor) -> Tensor:
    """(N, 3, 3) that move colours away from their own grey by `factor` (N, 1, 1)."""
    grey = torch.tensor(LUMA).expand(3, 3)
    return factor * torch.eye(3) + (1 - factor) * grey


def _turn(angle: Tensor) -> Tensor:
    """(N, 3, 3) that turn colours around the grey axis by `angle` (N,) radians (Rodrigues)."""
    axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3) + sine * axis + (1 - cosine) * (axis @ axis)
