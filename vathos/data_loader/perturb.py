"""Pictures as two exposures would give them, to test how robust a network is.

Brightness, noise and JPEG quality of the background and of the composite are drawn apart. The one
rule: what happens to a sample depends on (seed, row) alone, whatever batch it is in; and none of
the code is that of the augmentation, or a network would be tested on what it was trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from depthgen.images import decode, encode_jpeg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["PICTURES", "perturb"]

PICTURES = ("bg", "fg_bg")
GAIN = (0.8, 1.25)  # a third of an aperture stop either way
NOISE = (1.0, 6.0)  # standard deviation, in levels of 255
QUALITY = (40, 95)


def perturb(
    batch: Mapping[str, Tensor], seed: int, rows: Sequence[int] | NDArray[np.int64]
) -> dict[str, Tensor]:
    """A new batch with `bg` and `fg_bg` perturbed; everything else is passed on as it is.

    `bg`, `fg_bg`: (N, 3, H, W) uint8, or floats in [0, 1], which are rounded to 8 bits; they come
    back in their dtype, on their device. seed: 0 to 2^64 - 1. rows: of the data set, one a sample.
    Each picture is multiplied by a gain from `GAIN` (as likely to darken as to brighten it), gets
    Gaussian noise of one deviation from `NOISE`, and is coded as JPEG of a quality from `QUALITY`.
    """
    out = dict(batch)
    for which, key in enumerate(PICTURES):
        pictures = batch[key]
        floats = pictures.is_floating_point()
        levels = (pictures * 255).round() if floats else pictures
        stored = levels.to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        changed = np.stack(
            [
                _expose(picture, np.random.Philox(key=[seed, 2 * int(row) + which]))
                for picture, row in zip(stored, rows, strict=True)
            ]
        )
        result = torch.from_numpy(changed).permute(0, 3, 1, 2).to(pictures.device)
        out[key] = result.to(pictures.dtype) / 255 if floats else result
    return out


def _expose(picture: NDArray[np.uint8], bits: np.random.Philox) -> NDArray[np.uint8]:
    """One picture (H, W, 3) as another exposure of it, by the bits of its own generator."""
    generator = np.random.Generator(bits)
    gain = np.exp(generator.uniform(*np.log(GAIN)))
    deviation = generator.uniform(*NOISE)
    quality = int(generator.integers(*QUALITY, endpoint=True))
    noise = deviation * generator.standard_normal(picture.shape)
    exposed = (picture * gain + noise).round().clip(0, 255).astype(np.uint8)
    return decode(encode_jpeg(exposed, quality), "RGB", name="a picture coded here")
