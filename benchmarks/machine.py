"""What a benchmark ran on: a figure without it says nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine(*libraries: str) -> str:
    """One line: processor, cores, Python, system and the given libraries' versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "CPU")
    versions = "".join(f", {name} {version(name)}" for name in libraries)
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores · Python {platform.python_version()}"
        f"{versions} · {platform.system()} {platform.release()}"
    )
