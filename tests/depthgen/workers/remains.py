"""What a process has besides itself: processes below it, and open files."""

from __future__ import annotations

import os
from pathlib import Path


def children(of: int | None = None) -> set[int]:
    """The processes below this one."""
    pid = os.getpid() if of is None else of
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
