"""Models, optimisers and schedulers from device to device, and each in the fastest form there.

The one rule: they are changed in place, so that whoever holds them goes on holding them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

__all__ = ["fuse", "load_optimizer", "model_to", "optimizer_to", "scheduler_to"]

FUSED_ON = ("cuda", "cpu")
# On CUDA too in the newest torch; in others their first step raises.
FUSED_ON_CPU_ALONE = (torch.optim.Adagrad,)
# How a group is computed, not what: these are the present optimiser's and never a checkpoint's.
FORMS = ("fused", "foreach")


def fuse(optim: Optimizer, device: torch.device) -> None:
    """Let `optim` update all parameters on `device` in one pass over memory, if torch knows how to.

    Left as it is if anyone chose a form for any of its groups: `fused`, `foreach`, `differentiable`
    or `capturable`.
    """
    free = all(
        group.get("fused", False) is None  # False: it has no such form
        and group.get("foreach") is None
        and not (group.get("differentiable") or group.get("capturable"))
        for group in optim.param_groups
    )
    if device.type not in FUSED_ON or not free:
        return
    if device.type != "cpu" and isinstance(optim, FUSED_ON_CPU_ALONE):
        return
    for group in optim.param_groups:
        group["fused"] = True
    # What a fused optimiser's constructor says of itself: a gradient scaler lets it look at
    # overflow on the device, and need not wait.
    optim._step_supports_amp_scaling = True  # type: ignore[attr-defined]


def load_optimizer(optim: Optimizer, state: dict[str, Any], device: torch.device) -> None:
    """`optim.load_state_dict(state)`, to go on `device` in the form that `optim` has now, in
    whichever form and on whichever device it was saved. Raises as that does."""
    kept = [{form: group[form] for form in FORMS if form in group} for group in optim.param_groups]
    optim.load_state_dict(state)
    for group, forms in zip(optim.param_groups, kept, strict=True):
        group.update(forms)
    optimizer_to(optim, device)


def model_to(model: nn.Module, optim: Optimizer, device: torch.device) -> None:
    """Move `model` to `device`, in place, and let `optim` go on training it.

    A TPU's tensors cannot take the place of others, so there the module gets new parameters, and an
    optimiser of the old ones would train nothing.
    """
    before = list(model.parameters())
    model.to(device)
    moved = dict(zip(before, model.parameters(), strict=True))
    for group in optim.param_groups:
        group["params"] = [moved.get(parameter, parameter) for parameter in group["params"]]
    for old, new in moved.items():
        if old is not new and old in optim.state:
            optim.state[new] = optim.state.pop(old)


def optimizer_to(optim: Optimizer, device: torch.device) -> None:
    """Move the optimiser's state to `device`, in place, in the memory order of its parameters.

    A step counter goes there only if the optimiser is fused or capturable, and else to the host:
    the plain loop reads it there.
    """
    for group in optim.param_groups:
        on_device = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            state = optim.state.get(parameter, {})
            for key, value in state.items():
                if not isinstance(value, torch.Tensor):
                    continue
                if key == "step":
                    state[key] = value.to(device if on_device else "cpu")
                else:
                    state[key] = _laid_out(value.to(device), parameter)


def _laid_out(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    # A fused optimiser on a CPU pairs numbers by their place in memory, and does not look whether
    # both tensors have the same order there.
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def scheduler_to(sched: Any, device: torch.device) -> None:
    """Move a scheduler's tensors, if it has any, to `device`, in place."""
    for key, value in vars(sched).items():
        if isinstance(value, torch.Tensor):
            setattr(sched, key, value.to(device))
