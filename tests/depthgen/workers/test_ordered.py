"""A map over processes: in order, bounded, and with no process left behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from depthgen.errors import DepthgenError
from depthgen.workers import WorkerError, default_workers, ordered_map
from tests.depthgen.workers.remains import children

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def run(work: Any, items: Any, workers: int = 2) -> list[Any]:
    with ordered_map(work, items, workers) as results:
        return list(results)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(work: ModuleType, workers: int) -> None:
    assert run(work.square, range(50), workers) == [x * x for x in range(50)]
    assert run(work.slow_first, range(12), workers) == list(range(12))
    assert run(work.square, [], workers) == []


def test_one_worker_is_the_caller_and_more_are_not(work: ModuleType) -> None:
    assert set(run(work.pid, range(3), 1)) == {os.getpid()}
    pids = set(run(work.pid, range(20), 2))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_less_than_one_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"), ordered_map(str, [], 0):
        pass
    assert default_workers() >= 1


def test_no_more_items_are_taken_than_are_in_flight(work: ModuleType) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(10_000):
            taken.append(item)
            yield item

    with ordered_map(work.square, items(), 2) as results:
        for consumed in range(1, 4):
            next(results)
            time.sleep(0.1)
            assert consumed < len(taken) <= consumed + 6


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_item_after_the_results_before_it(
    work: ModuleType, workers: int
) -> None:
    with ordered_map(work.divide, range(9), workers, "item {}".format) as results:
        assert [next(results) for _ in range(3)] == [-2, -3, -6]
        with pytest.raises(WorkerError, match="item 3 failed: ZeroDivisionError") as caught:
            next(results)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("workers", [1, 2])
def test_our_own_errors_keep_their_type_and_words(work: ModuleType, workers: int) -> None:
    with pytest.raises(DepthgenError, match=r"^three is not allowed$") as caught:
        run(work.refuse, range(9), workers)
    assert type(caught.value).__name__ == "StageError"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fail_oddly", "item 0 failed: TwoPartError: this and that"),
        ("unsendable", r"item 0 failed: TypeError: its result cannot be sent back: .*lock"),
        ("trap", "item 0 failed: ValueError: sprung"),
        ("missing_file", r"item 0 failed: FileNotFoundError: .*not here"),
        ("leave", r"a worker died \(exit code 7\) on item 0"),
    ],
)
def test_whatever_goes_wrong_with_an_item_is_its_error(
    work: ModuleType, name: str, what: str
) -> None:
    with (
        ordered_map(getattr(work, name), range(5), 2, "item {}".format) as results,
        pytest.raises(WorkerError, match=what),
    ):
        next(results)


def test_an_item_that_cannot_be_sent_is_named(work: ModuleType) -> None:
    with pytest.raises(WorkerError, match=r"function .*<lambda> at .* failed: AttributeError"):
        run(work.square, [1, lambda: None, 3])


def test_items_that_fail_end_the_results_with_their_own_error(work: ModuleType) -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        raise KeyError("no more")

    for workers in (1, 2):
        with ordered_map(work.square, items(), workers) as results:
            assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
            with pytest.raises(KeyError, match="no more"):
                next(results)


def test_a_name_that_cannot_be_told_is_an_error_as_well(work: ModuleType) -> None:
    with (
        ordered_map(work.divide, [3], 2, lambda item: str(1 // 0)) as results,
        pytest.raises(WorkerError, match="an item failed: ZeroDivisionError"),
    ):
        next(results)


def test_work_that_a_worker_cannot_load_says_why(work: ModuleType) -> None:
    with pytest.raises(DepthgenError, match="the file is gone"):
        run(work.NeedsFile("x"), range(4))


def test_work_that_cannot_be_sent_starts_no_process() -> None:
    with pytest.raises(Exception, match="lambda"):
        run(lambda x: x, range(4))


def test_if_a_process_cannot_be_started_the_others_are_ended(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen
    started: list[subprocess.Popen[bytes]] = []

    def fail_the_third(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", fail_the_third)
    with pytest.raises(WorkerError, match="cannot start worker 3 of 4: Resource"):
        run(work.square, range(4), 4)
    assert all(process.poll() is not None for process in started)


def test_a_killed_worker_ends_the_work_and_names_the_item(work: ModuleType) -> None:
    with ordered_map(work.kill_self, range(9), 2, "item {}".format) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(WorkerError, match=r"died \(signal 9\) on item 3;.*again"):
            next(results)


def test_what_the_work_prints_or_reads_leaves_the_protocol_alone(
    work: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(work.talk, range(5)) == [(x, "", b"") for x in range(5)]
    printed = capfd.readouterr()
    assert not printed.out
    assert printed.err.count("bytes on descriptor 1") == 5
    assert printed.err.count("text on stdout") == printed.err.count("from a child") == 5


def test_large_items_and_results_pass(work: ModuleType) -> None:
    assert [len(result) for result in run(work.big, range(4))] == [20_000_000] * 4
    assert run(work.sleep, [0] * 3) == [0] * 3


@pytest.mark.parametrize("how", ["break", "error", "unused"])
def test_leaving_early_ends_busy_workers_at_once(work: ModuleType, how: str) -> None:
    start = time.monotonic()
    try:
        with ordered_map(work.sleep, [0.0, *[60.0] * 9], 2) as results:
            if how != "unused":
                assert next(results) == 0
            if how == "error":
                raise RuntimeError
    except RuntimeError:
        assert how == "error"
    assert time.monotonic() - start < 10


SCRIPT = """
import sys
from depthgen.workers import ordered_map
from work_for_workers import sleep
if __name__ == "__main__":
    with ordered_map(sleep, [0.0] * 2 + [60.0] * 9, 2) as results:
        next(results), next(results)
        print("ready", flush=True)
        next(results)
"""


@pytest.fixture
def busy(work: ModuleType, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose two workers sleep for a minute, in a group of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        yield process
        process.kill()


def all_gone(pids: set[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(is_running(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_all_and_only_the_parent_speaks(busy: subprocess.Popen[str]) -> None:
    assert busy.stdout is not None
    assert busy.stderr is not None
    assert busy.stdout.readline() == "ready\n"
    workers = children(busy.pid)
    assert len(workers) == 2
    os.killpg(busy.pid, signal.SIGINT)  # as the terminal does it
    assert busy.wait(10) == -signal.SIGINT
    assert all_gone(workers, 1)
    assert busy.stderr.read().count("KeyboardInterrupt") == 1


def test_ctrl_c_while_the_workers_start_prints_no_traceback_of_theirs(
    busy: subprocess.Popen[str],
) -> None:
    assert busy.stderr is not None
    deadline = time.monotonic() + 10
    while len(workers := children(busy.pid)) < 2 and time.monotonic() < deadline:
        pass
    os.killpg(busy.pid, signal.SIGINT)
    assert busy.wait(10) == -signal.SIGINT
    assert all_gone(workers, 1)
    assert busy.stderr.read().count("KeyboardInterrupt") == 1


def test_workers_go_when_their_parent_is_killed_even_in_the_midst_of_work(
    busy: subprocess.Popen[str],
) -> None:
    assert busy.stdout is not None
    assert busy.stdout.readline() == "ready\n"
    workers = children(busy.pid)
    assert len(workers) == 2
    busy.kill()
    busy.wait()
    assert all_gone(workers, 1)
