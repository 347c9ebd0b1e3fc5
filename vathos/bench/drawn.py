"""Pictures drawn at random, for where there are no archives.

The one rule: they are drawn once and handed out again and again, so that awaiting them takes no
time: what is measured on them is the step alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vathos.data_loader.dense_depth import Batch

__all__ = ["DrawnPictures"]

SAMPLES = 100_000
CHANNELS = {"bg": 3, "fg_bg": 3, "fg_bg_mask": 1, "depth_fg_bg": 1}


class DrawnPictures(Dataset[Any]):
    """Samples of noise, `size` by `size` pixels, as archives store them."""

    def __init__(self, size: int) -> None:
        self.height = self.width = size
        self._batches: dict[int, Batch] = {}

    def __len__(self) -> int:
        return SAMPLES

    def load_batch(self, indices: Sequence[int]) -> Batch:
        """uint8 (N, C, H, W), the same numbers for each batch of N; pictures are channels-last."""
        count = len(indices)
        if count not in self._batches:
            self._batches[count] = {key: self._draw(count, n) for key, n in CHANNELS.items()}
        return self._batches[count]

    def _draw(self, count: int, channels: int) -> torch.Tensor:
        shape = (count, self.height, self.width, channels)
        generator = torch.Generator().manual_seed(channels)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(
            0, 3, 1, 2
        )
