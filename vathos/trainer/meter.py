"""Means of losses and metrics over an epoch, gathered on the device.

The one rule: a step adds to a sum and reads nothing back. The device is asked at the log interval
only, and each batch weighs as many samples as it has, so an uneven last batch counts exactly, and
so do the uneven shares of several processes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from vathos.model.loss import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vathos.trainer.processes import Processes

__all__ = ["METRICS", "TEST_METRICS", "Meter", "batch_metrics"]

LOSSES = ("loss", "seg_loss", "depth_loss")
# What each figure is of ("mask" or "depth"), and the function (logits, labels) -> (N,).
FIGURES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "miou": ("mask", metrics.iou_per_sample),
    "mrmse": ("depth", metrics.rmse_per_sample),
    "soft_dice_half": ("mask", metrics.soft_dice_half_per_sample),
    "dice": ("mask", metrics.dice_per_sample),
    "abs_rel": ("depth", metrics.abs_rel_per_sample),
    "log10": ("depth", metrics.log10_per_sample),
    "delta1": ("depth", partial(metrics.delta_per_sample, k=1)),
    "delta2": ("depth", partial(metrics.delta_per_sample, k=2)),
    "delta3": ("depth", partial(metrics.delta_per_sample, k=3)),
    "ssim": ("depth", metrics.ssim_per_sample),
}
# Training counts what is watched at each step, testing everything.
METRICS = (*LOSSES, "miou", "mrmse", "soft_dice_half")
TEST_METRICS = (*LOSSES, *FIGURES)


@torch.no_grad()
def batch_metrics(
    losses: tuple[Tensor, Tensor, Tensor],
    logits: tuple[Tensor, Tensor],
    truth: tuple[Tensor, Tensor],
    names: Sequence[str] = METRICS,
) -> Tensor:
    """The means of a batch, in the order of `names`, as one tensor on the device.

    `losses` are total, seg and depth; `logits` and `truth` are mask and depth, (N, 1, H, W).
    """
    pairs = dict(zip(("mask", "depth"), zip(logits, truth, strict=True), strict=True))
    means = {name: loss.detach().float() for name, loss in zip(LOSSES, losses, strict=True)}
    for name in names[len(LOSSES) :]:
        kind, per_sample = FIGURES[name]
        means[name] = per_sample(*pairs[kind]).mean()
    return torch.stack([means[name] for name in names])


class Meter:
    """Sums on the device since the last `read`, totals on the host since the beginning."""

    def __init__(self, device: torch.device, names: Sequence[str] = METRICS) -> None:
        self.names = tuple(names)
        # MPS has no float64; elsewhere float64 makes the order of adding irrelevant in practice.
        kind = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(names), dtype=kind, device=device)
        self._last = torch.zeros(len(names), device=device)
        self._totals = [0.0] * len(names)
        self.samples = 0

    def add(self, means: Tensor, samples: int) -> None:
        """Add a batch's means, weighted by its number of samples; does not wait for the device."""
        self._last = means
        self._sums += means * samples
        self.samples += samples

    def read(self) -> dict[str, float]:
        """Means over all samples of this process so far; waits for the device."""
        self._settle()
        samples = max(self.samples, 1)
        return {key: total / samples for key, total in zip(self.names, self._totals, strict=True)}

    def gather(self, processes: Processes) -> dict[str, float]:
        """Means over all samples of all processes so far; every process calls it, and waits."""
        self._settle()
        *totals, samples = processes.sum([*self._totals, float(self.samples)])
        return {key: t / max(samples, 1) for key, t in zip(self.names, totals, strict=True)}

    def last(self) -> dict[str, float]:
        """The means of the last batch; waits for the device."""
        return dict(zip(self.names, self._last.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted epoch has gathered. Sums and totals stay apart: adding them here
        would round differently from a run that was not interrupted."""
        return {"sums": self._sums.cpu(), "totals": list(self._totals), "samples": self.samples}

    def add_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, or from those of several processes together."""
        self._sums += state["sums"].to(self._sums)
        self._totals = [a + b for a, b in zip(self._totals, state["totals"], strict=True)]
        self.samples += state["samples"]

    def _settle(self) -> None:
        sums = self._sums.tolist()
        self._sums.zero_()
        self._totals = [total + part for total, part in zip(self._totals, sums, strict=True)]
