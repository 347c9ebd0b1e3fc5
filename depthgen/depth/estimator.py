"""What the pipeline asks of a network: pictures in, depth out, and what its numbers mean.

Every network, whatever framework runs it, stands behind `Estimator`; the pipeline knows no other
name. The one rule: the numbers are on one scale for all pictures; nothing here looks at a picture's
own minimum and maximum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

QuantityName = Literal["depth_m", "depth_relative", "inverse_depth_relative"]
PrecisionName = Literal["float32", "bf16", "fp16"]


class EstimatorError(DepthgenError):
    """A network cannot be loaded or cannot be run; the sentence says why and what to do."""


class Estimator(Protocol):
    """A network that gives depth: label = clip(value / full_scale, NEAREST_LABEL, 1).

    model: what stands in the manifest and the archive, e.g. "densedepth". quantity: what the values
    are. full_scale: the value that becomes the label 1, above 0; None where the network does not
    fix one, and the pipeline measures it once for the whole archive, on a sample of its pictures.
    digest: SHA-256 of the weights, 64 hexadecimal digits. device: where the pictures must be.
    precision: what the network computes in; the values are float32 whatever it is.
    """

    @property
    def model(self) -> str: ...

    @property
    def quantity(self) -> QuantityName: ...

    @property
    def full_scale(self) -> float | None: ...

    @property
    def digest(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> PrecisionName: ...

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values of a batch of pictures of one size.

        pictures: (N, H, W, 3) uint8 RGB on `device`. Returns (N, H, W) float32 on `device`, at the
        pictures' own size, not clipped, not checked: the pipeline refuses a value that is not
        finite, since only it knows the sample's name. A value does not depend on the other
        pictures of the batch, but for rounding.
        """
        ...
