"""What tests of work in processes share: work to do, and a look at what is left behind."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

from tests.depthgen.workers.remains import children, open_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

# What the workers run has to be importable: a module of its own, on the path.
WORK = """
import os, signal, subprocess, sys, threading, time
from depthgen.errors import StageError

def square(x): return x * x
def slow_first(x):
    time.sleep(0.3 if x == 0 else 0)
    return x
def pid(x):
    time.sleep(0.02)
    return os.getpid()
def refuse(x):
    if x == 3: raise StageError("three is not allowed")
    return x
def divide(x): return 6 // (x - 3)
class TwoPartError(Exception):
    def __init__(self, a, b): super().__init__(f"{a} and {b}")
class LoudStageError(StageError):
    def __init__(self, a, b): super().__init__(f"{a} and {b}")
def fail_oddly(x): raise TwoPartError("this", "that")
def kill_self(x):
    if x == 3: os.kill(os.getpid(), signal.SIGKILL)
    return x
def leave(x): sys.exit(7)
def unsendable(x): return threading.Lock()
class Trap:
    def __reduce__(self): return spring, ()
def spring(): raise ValueError("sprung")
def trap(x): return Trap()
def missing_file(x): raise FileNotFoundError(2, "not here")
def talk(x):
    print("text on stdout")
    sys.stdout.flush()
    os.write(1, b"bytes on descriptor 1")
    subprocess.run(["echo", "from a child"], check=True)
    return x, sys.stdin.read(), os.read(0, 10)
def sleep(x):
    time.sleep(x)
    return x
def big(x): return bytes([x]) * 20_000_000
def count(share):
    for at in range(share[1]): yield share[0], at
def count_to_the_third(share):
    for each in count(share):
        if share[0] == "bad" and each[1] == 3: raise StageError("three is not allowed")
        yield each
        time.sleep(0.01)
def kill_self_in_the_midst(share):
    yield 0
    os.kill(os.getpid(), signal.SIGKILL)
def yield_all(share): return iter(share)
def yield_traps(share): yield from [1, Trap(), 3]
def yield_end_of_file(share): yield from [1, Spring(EOFError("sprung")), 3]
class Spring:
    def __init__(self, error): self.error = error
    def __reduce__(self): return throw, (self.error,)
def throw(error): raise error
def yield_unsendable(share): yield from [1, threading.Lock(), 3]
def give_a_list(share): return [share]
def stall(share):
    yield share
    time.sleep(60)
def for_ever(share):
    while True: yield bytes(share)
def note_each(path):
    for at in range(1000):
        with open(path, "a") as file: file.write(".")
        yield bytes(2_000_000)
def yield_array(share):
    import numpy as np
    yield np.arange(share)
    yield np.zeros(0)
class NeedsFile:
    def __init__(self, path): self.path = path
    def __setstate__(self, state): raise StageError("the file is gone")
    def __call__(self, x): return x
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "work_for_workers.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_for_workers")
    del sys.modules["work_for_workers"]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    files, processes = open_files(), children()
    yield
    assert children() <= processes
    assert open_files() <= files
