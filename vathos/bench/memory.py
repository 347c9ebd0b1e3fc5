"""How much memory a step took, and how much it would take.

The one rule: a batch that does not fit is a finding, never the end of the program: a GPU says so by
itself, and on a CPU, where the system would end the process, it is foretold and not tried.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vathos.utils.memory import available_memory

if TYPE_CHECKING:
    from vathos.bench.demand import Demand

__all__ = ["foretell", "peak", "reset_peak"]

# Beside what is kept for it, the backward pass holds the gradients of the layer it is at, and the
# convolutions copies in their own layout.
SCRATCH = 1.5
# Of the parameters' own size: they, their gradients, and two moments of the optimiser.
STATES = 4
CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def foretell(demand: Demand, batch_size: int, parameter_bytes: int) -> str | None:
    """Why a step of this batch size should not be tried on this CPU; None if it should."""
    kept = demand.kept_fixed + batch_size * demand.kept
    needed, free = int(SCRATCH * kept) + STATES * parameter_bytes, available_memory()
    if not free or needed <= free:
        return None
    return f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def reset_peak(device: torch.device) -> None:
    """Let `peak` begin here, after giving back what nobody holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        try:
            CLEAR.write_text("5")
        except OSError:
            return  # no Linux, or not allowed: the peak is then that of the whole process


def peak(device: torch.device) -> int | None:
    """Bytes at most since `reset_peak`: on CUDA those of all tensors, on a Linux CPU those of the
    process that were in memory, Python and torch included; None elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or not STATUS.exists():
        return None
    words = (line.split() for line in STATUS.read_text().splitlines())
    return next((int(each[1]) * 1024 for each in words if each[0] == "VmHWM:"), None)
