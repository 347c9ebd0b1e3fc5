"""How much memory there is to take, how much was taken, and whether it did not suffice.

The one rule: what a control group leaves counts as much as what the machine has, for in a container
the former is what ends a process.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import torch

__all__ = [
    "available_memory",
    "available_share",
    "is_out_of_memory",
    "peak",
    "reset_peak",
    "resident",
]

# Of control groups, version 2 and 1: limit, use, and what of the use is files that can be dropped.
GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
# torch has no type of its own for the memory of the host, of Apple's GPU, or outside its allocator.
MESSAGES = ("out of memory", "DefaultCPUAllocator", "not enough memory", "can't allocate memory")
CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken before the system swaps or kills; 0 where nothing tells (not Linux).

    root: where proc and sys are.
    """
    free = _table(root / "proc/meminfo").get("MemAvailable:", 0) * 1024
    return max(0, min([free, *(_left(folder) for folder in _groups(root) if folder.is_dir())]))


def available_share() -> int:
    """This process's part of the available memory, if several train on this machine."""
    return available_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_out_of_memory(error: Exception) -> bool:
    """True for what torch or NumPy raises where memory does not suffice, on a GPU or the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


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
    if device.type != "cpu":
        return None
    return _of_this_process("VmHWM:")


def resident() -> int:
    """Bytes of this process that are in memory now; 0 where nothing tells (not Linux)."""
    return _of_this_process("VmRSS:") or 0


def _of_this_process(name: str) -> int | None:
    kilobytes = _table(STATUS).get(name)
    return None if kilobytes is None else kilobytes * 1024


def _groups(root: Path) -> list[Path]:
    """The folders of this process's control groups and of those that they are in."""
    folders = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            own = top / path.lstrip("/")
            # In a container its own group may be seen as the top.
            folders += [own, *(each for each in own.parents if each.is_relative_to(top))]
    return folders


def _left(folder: Path) -> int:
    """What this group's limit leaves; a large number if it has none."""
    for limit_name, use_name, droppable in GROUP_FILES:
        limit, use = (_lines(folder / name) for name in (limit_name, use_name))
        if limit and use and limit[0].isdigit():
            return int(limit[0]) - int(use[0]) + _table(folder / "memory.stat").get(droppable, 0)
    return 2**63


def _table(path: Path) -> dict[str, int]:
    """First and second word of each line."""
    words = (line.split() for line in _lines(path))
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
