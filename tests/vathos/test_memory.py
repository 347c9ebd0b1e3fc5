"""Free memory and the most that was taken, by what the system's files say, and errors for want."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from vathos.utils.memory import available_memory, is_out_of_memory, peak, reset_peak

if TYPE_CHECKING:
    from pathlib import Path


CPU = torch.device("cpu")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 900 kB\nMemAvailable:     800 kB\n"}
VERSION_2 = {
    "proc/self/cgroup": "0::/jobs/one\n",
    "sys/fs/cgroup/jobs/memory.max": "409600\n",
    "sys/fs/cgroup/jobs/memory.current": "300000\n",
    "sys/fs/cgroup/jobs/memory.stat": "anon 1\ninactive_file 50000\n",
    "sys/fs/cgroup/jobs/one/memory.max": "max\n",
    "sys/fs/cgroup/jobs/one/memory.current": "300000\n",
}
VERSION_1 = {
    "proc/self/cgroup": "5:cpu:/\n4:cpuset,memory:/out/of/sight\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "500000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "450000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 20000\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (MACHINE, 800 * 1024),
        (MACHINE | VERSION_2, 409600 - 300000 + 50000),
        (MACHINE | VERSION_1, 500000 - 450000 + 20000),
        ({}, 0),
    ],
    ids=["machine", "group of version 2", "group of version 1", "no Linux"],
)
def test_the_tightest_of_machine_and_control_groups_counts(
    tmp_path: Path, files: dict[str, str], free: int
) -> None:
    assert available_memory(write(tmp_path, files)) == free


def test_this_machine_tells() -> None:
    assert available_memory() > 0


def test_what_has_no_room_in_memory_is_told_from_other_errors() -> None:
    for too_much in (
        partial(torch.empty, 2**50, dtype=torch.uint8),
        partial(np.empty, 2**50, np.uint8),
    ):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            too_much()
        assert is_out_of_memory(caught.value)
    for message in ("CUDA out of memory", "CUDA error: out of memory", "MPS backend out of memory"):
        assert is_out_of_memory(RuntimeError(message))
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_peak_is_that_since_it_was_reset() -> None:
    if peak(CPU) is None:
        pytest.skip("only Linux tells")
    large = torch.ones(40_000_000)  # 160 MB
    reset_peak(CPU)
    with_it = peak(CPU)
    del large
    reset_peak(CPU)
    without = peak(CPU)
    again = torch.ones(20_000_000)
    after = peak(CPU)
    assert with_it is not None
    assert without is not None
    assert after is not None
    assert with_it - without > 120e6
    assert after - without > 60e6
    del again
