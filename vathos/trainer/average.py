"""The exponential moving average of a model's weights, which is tested and kept instead of them.

The one rule: what is averaged is the whole state, BatchNorm's running statistics included, so that
the averaged weights meet averaged statistics; counters are copied. Nothing waits for the device.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """average <- d x average + (1 - d) x weights after each optimiser step.

    d is the given decay, but at step n no more than (1 + n) / (10 + n): else a short run would
    still be testing the random weights that it began with.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights that `model` has now."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averaged, current = [], []
        for mine, theirs in zip(
            self.model.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(theirs)
            else:
                mine.copy_(theirs)
        get_ema_multi_avg_fn(decay)(averaged, current, None)

    def state_dict(self) -> dict[str, Any]:
        """What continuing needs."""
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.steps = state["steps"]
