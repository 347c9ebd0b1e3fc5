"""Means of losses and metrics over an epoch, gathered on the device.

The one rule: a step adds to a sum and reads nothing back. The device is asked at the log interval
only, and each batch weighs as many samples as it has, so an uneven last batch counts exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vathos.model.loss.metrics import iou_per_sample, rmse_per_sample, soft_dice_half_per_sample

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["METRICS", "Meter", "batch_metrics"]

METRICS = ("loss", "seg_loss", "depth_loss", "miou", "mrmse", "soft_dice_half")


@torch.no_grad()
def batch_metrics(
    losses: tuple[Tensor, Tensor, Tensor],
    logits: tuple[Tensor, Tensor],
    truth: tuple[Tensor, Tensor],
) -> Tensor:
    """The means of a batch, in the order of `METRICS`, as one tensor on the device.

    `losses` are total, seg and depth; `logits` and `truth` are mask and depth, (N, 1, H, W).
    """
    (mask_logits, depth_logits), (mask, depth) = logits, truth
    return torch.stack(
        [
            *(loss.detach().float() for loss in losses),
            iou_per_sample(mask_logits, mask).mean(),
            rmse_per_sample(depth_logits, depth).mean(),
            soft_dice_half_per_sample(mask_logits, mask).mean(),
        ]
    )


class Meter:
    """Sums on the device since the last `read`, totals on the host since the beginning."""

    def __init__(self, device: torch.device) -> None:
        # MPS has no float64; elsewhere float64 makes the order of adding irrelevant in practice.
        kind = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(METRICS), dtype=kind, device=device)
        self._last = torch.zeros(len(METRICS), device=device)
        self._totals = [0.0] * len(METRICS)
        self.samples = 0

    def add(self, means: Tensor, samples: int) -> None:
        """Add a batch's means, weighted by its number of samples; does not wait for the device."""
        self._last = means
        self._sums += means * samples
        self.samples += samples

    def read(self) -> dict[str, float]:
        """Means over all samples so far; waits for the device."""
        sums = self._sums.tolist()
        self._sums.zero_()
        self._totals = [total + part for total, part in zip(self._totals, sums, strict=True)]
        samples = max(self.samples, 1)
        return {key: total / samples for key, total in zip(METRICS, self._totals, strict=True)}

    def last(self) -> dict[str, float]:
        """The means of the last batch; waits for the device."""
        return dict(zip(METRICS, self._last.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted epoch has gathered. Sums and totals stay apart: adding them here
        would round differently from a run that was not interrupted."""
        return {"sums": self._sums.cpu(), "totals": list(self._totals), "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._sums.copy_(state["sums"])
        self._totals = list(state["totals"])
        self.samples = state["samples"]
