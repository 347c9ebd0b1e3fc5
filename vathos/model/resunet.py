"""ResUNet: one encoder, two decoders, after the layer table of the original.

Modules are built and called in the order of that table (the projection of a block runs before its
double convolution, the whole depth decoder before the mask decoder), so the table can be checked
row by row. The one rule: every skip is added, never concatenated, and no convolution has a bias.

Residual units with pre-activation: He et al. 2016, arXiv 1603.05027. U-Net of residual units: Zhang
et al. 2017, arXiv 1711.10684. Upsampling by PixelShuffle: Shi et al. 2016, arXiv 1609.05158.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

__all__ = ["ResDoubleConv", "ResDownBlock", "ResUNet", "ResUpBlock"]

INPUT_CHANNELS = 6
STEM_WIDTH = 32
ENCODER_WIDTHS = (64, 128, 256, 512)
DEPTH_WIDTHS = (256, 128, 64, 16)
MASK_WIDTHS = (64, 64, 32, 16)
SIZE_MULTIPLE = 2 ** len(ENCODER_WIDTHS)


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Convolution of stride 1 that keeps height and width and has no bias."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)


class ResDoubleConv(nn.Sequential):
    """Two 3 x 3 convolutions, each after BatchNorm and ReLU.

    (N, in_channels, H, W) -> (N, out_channels, H, W). The residual is the caller's.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            _conv(in_channels, out_channels, 3),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            _conv(out_channels, out_channels, 3),
        )


class ResDownBlock(nn.Module):
    """Residual double convolution, then 2 x 2 max-pooling.

    (N, in_channels, H, W) -> ((N, out_channels, H/2, W/2), (N, out_channels, H, W)): the pooled map
    for the next level, and the map before pooling for the decoders' skips.
    """

    double_conv: ClassVar[type[nn.Module]] = ResDoubleConv

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            _conv(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        )
        self.convs = self.double_conv(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shortcut = self.projection(x)
        before_pooling = shortcut + self.convs(x)
        return self.pool(before_pooling), before_pooling


class ResUpBlock(nn.Module):
    """Double the size with PixelShuffle, add the skips, then a residual double convolution.

    The 1 x 1 convolution before the shuffle makes 4 x `in_channels`, so the shuffle gives
    `in_channels` back without the checkerboard of a transposed convolution. `skip_channels` are
    those of the encoder's map, `dense_channels` those of the other decoder's map at the same level,
    if there is one.

    (N, in_channels, H, W), skip and dense of (N, ., 2H, 2W) -> (N, out_channels, 2H, 2W).
    """

    double_conv: ClassVar[type[nn.Module]] = ResDoubleConv

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: int,
        dense_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.expand = _conv(in_channels, 4 * in_channels, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.skip = _conv(skip_channels, in_channels, 1)
        self.dense = None if dense_channels is None else _conv(dense_channels, in_channels, 1)
        self.projection = nn.Sequential(
            _conv(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        )
        self.convs = self.double_conv(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor, dense: Tensor | None = None) -> Tensor:
        if (dense is None) != (self.dense is None):
            raise ValueError("ResUpBlock: pass `dense` exactly when dense_channels was given")
        x = self.shuffle(self.expand(x)) + self.skip(skip)
        if self.dense is not None:
            x = x + self.dense(dense)
        shortcut = self.projection(x)
        return shortcut + self.convs(x)


class ResUNet(nn.Module):
    """Mask and depth of a composite, given it and its background. 15,855,712 parameters.

    Input (N, 6, H, W): `cat(bg, fg_bg)` in [0, 1], float; H and W divisible by 16. Output:
    (depth_logits, mask_logits), each (N, 1, H, W); a sigmoid gives the label in [0, 1] and the
    mask's probability. Raises ValueError for another number of channels or a size that is not
    divisible by 16.

    >>> depth_logits, mask_logits = ResUNet()(torch.zeros(1, 6, 32, 48))
    >>> mask_logits.shape
    torch.Size([1, 1, 32, 48])
    """

    down_block: ClassVar[type[ResDownBlock]] = ResDownBlock
    up_block: ClassVar[type[ResUpBlock]] = ResUpBlock

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(INPUT_CHANNELS, STEM_WIDTH, 5)
        self.encoder = nn.ModuleList(
            self.down_block(narrow, wide)
            for narrow, wide in pairwise((STEM_WIDTH, *ENCODER_WIDTHS))
        )
        bottom = ENCODER_WIDTHS[-1]
        self.bridge = self.down_block.double_conv(bottom, bottom)
        skips = ENCODER_WIDTHS[::-1]
        self.depth_decoder = nn.ModuleList(
            self.up_block(wide, narrow, skip)
            for (wide, narrow), skip in zip(pairwise((bottom, *DEPTH_WIDTHS)), skips, strict=True)
        )
        self.depth_head = _conv(DEPTH_WIDTHS[-1], 1, 1)
        self.mask_decoder = nn.ModuleList(
            self.up_block(wide, narrow, skip, dense)
            for (wide, narrow), skip, dense in zip(
                pairwise((bottom, *MASK_WIDTHS)), skips, DEPTH_WIDTHS, strict=True
            )
        )
        self.mask_head = _conv(MASK_WIDTHS[-1], 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _check_input(x)
        x = self.stem(x)
        skips: list[Tensor] = []
        for down in self.encoder:
            x, skip = down(x)
            skips.insert(0, skip)
        bottom = self.bridge(x)

        x = bottom
        depth_maps: list[Tensor] = []
        for up, skip in zip(self.depth_decoder, skips, strict=True):
            x = up(x, skip)
            depth_maps.append(x)
        depth_logits = self.depth_head(x)

        x = bottom
        for up, skip, dense in zip(self.mask_decoder, skips, depth_maps, strict=True):
            x = up(x, skip, dense)
        return depth_logits, self.mask_head(x)


def _check_input(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != INPUT_CHANNELS:
        raise ValueError(
            f"the network takes (N, {INPUT_CHANNELS}, H, W), bg and fg_bg concatenated along the "
            f"channels; this input is {tuple(x.shape)}"
        )
    height, width = x.shape[2:]
    if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or not height or not width:
        up = [max(1, -(-side // SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in (height, width)]
        raise ValueError(
            f"the network halves its input four times, so height and width must be divisible by "
            f"{SIZE_MULTIPLE}; this input is {height} x {width}: resize or pad it to "
            f"{up[0]} x {up[1]}"
        )
