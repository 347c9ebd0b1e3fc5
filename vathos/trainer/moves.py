"""Optimisers and schedulers from one device to another.

The one rule: they are changed in place, so that whoever holds them goes on holding them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["optimizer_to", "scheduler_to"]


def optimizer_to(optim: Optimizer, device: torch.device) -> None:
    """Move the optimiser's state to `device`, in place.

    A step counter stays where it is unless the optimiser is fused or capturable: the plain loop
    reads it on the host.
    """
    for group in optim.param_groups:
        on_device = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            for key, value in optim.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and (key != "step" or on_device):
                    optim.state[parameter][key] = value.to(device)


def scheduler_to(sched: Any, device: torch.device) -> None:
    """Move a scheduler's tensors, if it has any, to `device`, in place."""
    for key, value in vars(sched).items():
        if isinstance(value, torch.Tensor):
            setattr(sched, key, value.to(device))
