"""One writer at a time, whoever comes and however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from depthgen.errors import StageError
from depthgen.lock import hold_lock, holder

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = """
import sys, time
from pathlib import Path
from depthgen.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "lock"


@pytest.fixture(name="holder")
def holding_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_file_names_its_holder_and_is_gone_at_the_end(path: Path) -> None:
    before = open_files()
    with hold_lock(path):
        assert path.read_text().split() == [str(os.getpid()), socket.gethostname()]
    assert not path.exists()
    with pytest.raises(RuntimeError), hold_lock(path):
        raise RuntimeError
    assert not path.exists()
    assert open_files() <= before


def test_a_second_process_is_refused_by_the_name_of_the_first(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    before = open_files()
    wanted = f"in use by process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(StageError, match=wanted), hold_lock(path):
        pass
    assert path.exists()
    assert open_files() <= before


def test_a_killed_holders_lock_is_taken_over(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.read_text().startswith(str(holder.pid))
    with hold_lock(path):
        assert path.read_text().startswith(f"{os.getpid()} ")
    assert not path.exists()


def test_the_same_process_cannot_hold_it_twice(path: Path) -> None:
    with hold_lock(path):
        with pytest.raises(StageError, match="this very process"), hold_lock(path):
            pass
        # The lock still keeps others out.
        command = [sys.executable, "-c", HOLD, str(path)]
        other = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert f"in use by process {os.getpid()}" in other.stderr
    with hold_lock(path):
        pass


def test_a_lock_removed_under_its_holder_is_not_removed_from_its_next_one(path: Path) -> None:
    with hold_lock(path):
        path.unlink()
        path.write_text("1 elsewhere\n")
    assert path.read_text() == "1 elsewhere\n"


def test_a_file_removed_between_opening_and_locking_is_not_taken_for_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, tries = fcntl.lockf, []

    def remove_first(descriptor: int, operation: int) -> None:
        tries.append(descriptor)
        if len(tries) == 1:
            path.unlink()  # as a holder does that ends just now
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    with hold_lock(path):
        assert path.exists()
    assert len(tries) == 2


@pytest.mark.parametrize("call", ["lockf", "ftruncate"])
def test_a_disk_that_cannot_lock_or_write_is_not_taken_for_another_process(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = open_files()
    monkeypatch.setattr(fcntl if call == "lockf" else os, call, fail)
    with pytest.raises(StageError, match=r"cannot (lock|write) .*No locks"), hold_lock(path):
        pass
    assert open_files() <= before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StageError, match="file"), hold_lock(tmp_path / "file" / "lock"):
        pass


def test_asking_who_holds_the_lock_does_not_let_it_go(path: Path) -> None:
    assert holder(path) is None
    with hold_lock(path):
        assert holder(path.parent / ".." / path.parent.name / "lock") == (
            os.getpid(),
            socket.gethostname(),
        )
        command = [sys.executable, "-c", HOLD, str(path)]
        other = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert f"in use by process {os.getpid()}" in other.stderr
    assert holder(path) is None


@pytest.mark.parametrize("number", ["0", "-1", str(2**31), "9" * 30, "9" * 5000, "x", ""])
def test_a_number_that_no_process_has_holds_nothing(tmp_path: Path, number: str) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"{number} {socket.gethostname()}\n")
    assert holder(lock) is None
    lock.write_text(f"{number} elsewhere\n")
    assert holder(lock) is None


def test_a_process_of_another_host_is_taken_at_its_word(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{2**31 - 1} elsewhere\n")
    assert holder(tmp_path / "lock") == (2**31 - 1, "elsewhere")
