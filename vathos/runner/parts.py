"""What a configuration names and a trainer takes: network, losses, optimiser, augmentation.

The one rule: what cannot be built is named with the file and line, or the override, that asks for
it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from vathos import model as models
from vathos.data_loader import augmentation as augmentations
from vathos.model import loss as losses
from vathos.trainer.checkpoint import load_checkpoint, load_model_state
from vathos.utils.instances import (
    WRONG_ARGUMENT,
    InstanceError,
    find_constructor,
    get_instance_v2,
    written_in,
)
from vathos.utils.memory import is_out_of_memory
from vathos.utils.parameters import build_optimizer

if TYPE_CHECKING:
    from types import ModuleType

    from torch.optim import Optimizer

    from vathos.utils.schema import Config

__all__ = ["Parts", "build_model", "build_parts"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """Of one training, on the CPU. criteria: (seg_loss, depth_loss)."""

    model: nn.Module
    criteria: tuple[nn.Module, nn.Module]
    optimizer: Optimizer
    augmentation: nn.Module | None


def build_parts(config: Config, size: tuple[int, int]) -> Parts:
    """Build them in the order in which they draw random numbers, for pictures of `size`, (H, W).

    Raises `ConfigError`, and `CheckpointError` for a `model_init` that does not fit.
    """
    model = build_model(config)
    return Parts(
        model=model,
        optimizer=build_optimizer(model, config),
        criteria=(_build_loss(config, "seg_loss", size), _build_loss(config, "depth_loss", size)),
        augmentation=_build(config, "augmentation", augmentations) if config.augmentation else None,
    )


def build_model(config: Config) -> nn.Module:
    """The network, with the weights of `model_init` or at random; raises as `build_parts`."""
    model = _build(config, "model", models)
    if config.model_init is None:
        return model
    path = Path(config.model_init)
    if path.exists():
        load_model_state(model, load_checkpoint(path), path)
    else:
        log.warning("model_init: %s does not exist; the weights start at random", path)
    return model


def _build_loss(config: Config, section: str, size: tuple[int, int]) -> nn.Module:
    """A loss that has been computed once: some take any argument, and fail where they use it, which
    would be after the run has begun."""
    loss, named = _build(config, section, losses), getattr(config, section)
    logits = torch.zeros((1, 1, *size), requires_grad=True)
    with written_in(config.places, section):
        try:
            loss(logits, torch.zeros_like(logits)).backward()
        except WRONG_ARGUMENT as error:
            if is_out_of_memory(error):
                raise
            raise InstanceError(
                f"{named.type} cannot be computed with {named.args}: {error}", "args"
            ) from error
    return loss


def _build(config: Config, section: str, module: ModuleType) -> nn.Module:
    """What `section` of the configuration names, a class of `module`."""
    named = getattr(config, section)
    with written_in(config.places, section):
        if not issubclass(find_constructor(module, named.type), nn.Module):
            raise InstanceError(f"{named.type} is no torch.nn.Module", "type")
        built: nn.Module = get_instance_v2(module, named.type, **named.args)
    return built
