"""Memory that is freed is kept for the next step where there is room: each in a process of its own,
for what was kept or could not be had before would decide."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vathos.utils import allocator

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(allocator._glibc() is None, reason="glibc's allocator is not ours")


def run(*arguments: str, **variables: str) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, env=os.environ | variables, cwd=ROOT, check=True)


def test_memory_is_kept_for_as_long_as_there_are_steps() -> None:
    # One thread, for its tests fork.
    command = ("-m", "pytest", "-p", "no:cacheprovider", "tests/vathos/allocator_alone.py")
    run(*command, OPENBLAS_NUM_THREADS="1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")],
)
def test_nothing_is_kept_where_the_environment_sets_the_allocator(
    variable: str, value: str
) -> None:
    program = "from tests.vathos.allocator_alone import *; keep_freed(CPU); assert not is_kept()"
    run("-c", program, **{variable: value})
