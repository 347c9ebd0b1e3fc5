"""What becomes of the memory that a step frees on a Linux CPU: the next step takes it again.

By itself glibc gives large blocks back at once, and the next step gets them anew, page by page and
zeroed, which can take as long as the step. The one rule: freed memory is kept only where there is
room for what that costs, and until the steps are over.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from vathos.utils.memory import available_share, peak, resident

if TYPE_CHECKING:
    import torch

__all__ = ["give_back", "keep_freed"]

# Parameters of glibc's mallopt(3), and what they are by default: the thresholds follow the blocks
# that are freed, up to these values, but no longer once one of them was set.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
DEFAULTS = {M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25, M_MMAP_MAX: 65536}
KEPT = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}
# Blocks that are kept do not fill up what other sizes leave between them: a step of ResUNet took
# 1.05 to 1.13 times as much, and 1.3 where blocks were kept from the start.
FRAGMENTED = 1.4
SHARE = 0.5  # of what is free; the other half is for a cache of samples that fills up later


def keep_freed(device: torch.device) -> None:
    """Let this process keep what it frees, where memory allows; call it after the first of many
    equal steps, for the room is judged by the most that was taken so far.

    Nothing changes on a GPU, without glibc, or where the environment sets glibc's allocator itself;
    nor after an allocation of this thread failed, for glibc then takes its large blocks elsewhere.
    """
    libc, most = _glibc(), peak(device)
    if device.type != "cpu" or libc is None or most is None:
        return
    if FRAGMENTED * most - resident() <= SHARE * available_share():
        for parameter, value in KEPT.items():
            libc.mallopt(parameter, value)


def give_back() -> None:
    """Return what was kept to the system, and from now on large blocks at once, as by default; but
    a block that fits where others were stays."""
    libc = _glibc()
    if libc is not None:
        for parameter, value in DEFAULTS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if its allocator is ours to set."""
    told = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or told or any(name.startswith("MALLOC_") for name in os.environ):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
