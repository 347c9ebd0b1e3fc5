"""Where to compute, and how precisely.

The one rule: what was asked for and is not there is a logged warning and the next best thing, never
a crash and never silence.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from vathos.errors import ConfigError

__all__ = ["choose_device", "choose_precision", "device_name", "setup_device", "synchronise"]

log = logging.getLogger(__name__)


def setup_device(
    model: nn.Module, target_device: int | str = "auto"
) -> tuple[torch.device, list[int]]:
    """Move `model` to the device and return (device, indices of the GPUs used).

    `target_device` is the index of a GPU, or one of auto, GPU, CPU. The list is empty on a CPU.
    (The original's documentation promises this order; its code returned the model first.)
    """
    device = choose_device(target_device)
    model.to(device)
    ids = [device.index or 0] if device.type == "cuda" else []
    return device, ids


def choose_device(target: int | str) -> torch.device:
    """The torch device for auto, GPU, CPU or the index of a GPU.

    Raises `ConfigError` for TPU, which `TPUTrainer` sets up.
    """
    if target == "TPU":
        raise ConfigError("device: TPU is not a device of this function; use GPU, CPU or auto")
    if target == "CPU":
        return torch.device("cpu")
    index = target if isinstance(target, int) else 0
    if torch.cuda.is_available() and 0 <= index < torch.cuda.device_count():
        return torch.device("cuda", index)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if target != "auto":
        log.warning("device: %s was asked for and is not there; running on the CPU", target)
    return torch.device("cpu")


def choose_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type for auto, float32, bf16 or fp16 on this device; None computes in float32.

    `auto` is bf16 where the hardware multiplies it natively: emulated, it is slower than float32.
    fp16 needs a CUDA GPU, for only there are gradients scaled so as not to vanish in it.
    """
    if precision == "float32":
        return None
    if precision == "fp16":
        if device.type == "cuda":
            return torch.float16
        precision = "auto"
        instead = "bf16" if _has_bf16(device) else "float32"
        log.warning("precision: fp16 needs a CUDA GPU; this %s takes %s", device.type, instead)
    native = _has_bf16(device)
    if precision == "bf16" and not native:
        log.warning("precision: bf16 has no hardware on this %s and may be slow", device.type)
    return torch.bfloat16 if native or precision == "bf16" else None


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = _of_this_processor()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def device_name(device: torch.device) -> str:
    """What the device is called by its maker, as far as torch knows; else its type."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return str(_of_this_processor().get("cpu_name", "cpu"))
    return device.type


def synchronise(device: torch.device) -> None:
    """Wait until the device, a GPU or the CPU, has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _of_this_processor() -> dict[str, Any]:
    """What torch tells of the processor; torch 2.9 tells nothing."""
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return told
