"""ResUNeXt: the ResUNet whose double convolutions are bottlenecks in 32 groups.

It shares encoder, decoders and skips with `vathos.model.resunet`; the one rule: the double
convolution is all that differs. Aggregated transformations in groups: Xie et al. 2017 (ResNeXt),
arXiv 1611.05431; their pre-activated order: He et al. 2016, arXiv 1603.05027.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from vathos.model import resunet

__all__ = ["ResDoubleConv", "ResDownBlock", "ResUNeXt", "ResUpBlock"]

GROUPS = 32
# A group is 64 wide where the output has 384 channels, and in proportion elsewhere.
GROUP_WIDTH = 64
BASE_WIDTH = 384


def _bottleneck_width(out_channels: int) -> int:
    """Channels of the grouped convolution, a multiple of `GROUPS`. Raises ValueError for none."""
    width = GROUP_WIDTH * out_channels // BASE_WIDTH
    if width < 1:
        raise ValueError(
            f"a grouped double convolution needs at least {BASE_WIDTH // GROUP_WIDTH} output "
            f"channels; {out_channels} leave none to a group"
        )
    return GROUPS * width


class ResDoubleConv(nn.Sequential):
    """1 x 1, then 3 x 3 in 32 groups, then 1 x 1, each after BatchNorm and ReLU.

    (N, in_channels, H, W) -> (N, out_channels, H, W), through D = 32 * int(64 * out_channels / 384)
    channels. The residual is the caller's. Raises ValueError for fewer than 6 output channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        width = _bottleneck_width(out_channels)
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, groups=GROUPS, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out_channels, 1, bias=False),
        )


class ResDownBlock(resunet.ResDownBlock):
    """`vathos.model.resunet.ResDownBlock` with the grouped double convolution."""

    double_conv: ClassVar[type[nn.Module]] = ResDoubleConv


class ResUpBlock(resunet.ResUpBlock):
    """`vathos.model.resunet.ResUpBlock` with the grouped double convolution."""

    double_conv: ClassVar[type[nn.Module]] = ResDoubleConv


class ResUNeXt(resunet.ResUNet):
    """Mask and depth of a composite, given it and its background. 16,409,856 parameters.

    Input, output and errors are those of `vathos.model.ResUNet`.

    >>> depth_logits, mask_logits = ResUNeXt()(torch.zeros(1, 6, 32, 48))
    >>> mask_logits.shape
    torch.Size([1, 1, 32, 48])
    """

    down_block: ClassVar[type[resunet.ResDownBlock]] = ResDownBlock
    up_block: ClassVar[type[resunet.ResUpBlock]] = ResUpBlock
