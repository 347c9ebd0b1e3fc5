"""Streams from processes: all that a share yields, and an end to it whatever happens."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from depthgen.errors import DepthgenError
from depthgen.workers import WorkerError, streams

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def run(work: Any, shares: Any) -> list[Any]:
    with streams(work, shares) as results:
        return list(results)


def test_all_that_the_shares_yield_comes_each_in_its_order(work: ModuleType) -> None:
    shares = [("a", 40), ("b", 0), ("c", 25)]
    results = run(work.count, shares)
    assert len(results) == 65
    for name, count in shares:
        assert [at for each, at in results if each == name] == list(range(count))


def test_no_share_is_no_result(work: ModuleType) -> None:
    assert run(work.count, []) == []


def test_each_share_has_a_process_of_its_own(work: ModuleType) -> None:
    start = time.monotonic()
    with streams(work.stall, ["a", "b"]) as results:
        assert {next(results), next(results)} == {"a", "b"}
    assert time.monotonic() - start < 10


def test_none_and_other_empty_things_are_results(work: ModuleType) -> None:
    share = [None, 0, False, (), (True, None), None]
    assert run(work.yield_all, [share]) == share


def test_arrays_are_results(work: ModuleType) -> None:
    first, second = run(work.yield_array, [5])
    np.testing.assert_array_equal(first, range(5))
    assert second.shape == (0,)


def test_an_error_in_one_share_is_raised_as_it_is(work: ModuleType) -> None:
    seen: list[tuple[str, int]] = []
    with (
        streams(work.count_to_the_third, [("bad", 9), ("good", 500)]) as results,
        pytest.raises(DepthgenError, match=r"^three is not allowed$"),
    ):
        seen.extend(results)
    assert [at for name, at in seen if name == "bad"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("kill_self_in_the_midst", r"a worker died \(signal 9\) on a share;.*again"),
        ("yield_traps", "a share failed: ValueError: sprung"),
        ("yield_end_of_file", "a share failed: EOFError: sprung"),
        ("yield_unsendable", "a share failed: TypeError: its result cannot be sent back: .*lock"),
    ],
)
def test_whatever_goes_wrong_comes_after_the_results_before_it(
    work: ModuleType, name: str, what: str
) -> None:
    with streams(getattr(work, name), ["x"]) as results:
        next(results)
        with pytest.raises(WorkerError, match=what):
            next(results)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("leave", r"a worker died \(exit code 7\)"),
        ("divide", "a share failed: TypeError"),
        ("give_a_list", "a share failed: TypeError: 'list' object is not an iterator"),
    ],
)
def test_work_that_yields_nothing_at_all_is_an_error(
    work: ModuleType, name: str, what: str
) -> None:
    with pytest.raises(WorkerError, match=what):
        run(getattr(work, name), ["x"])


def test_a_share_that_cannot_be_sent_is_an_error(work: ModuleType) -> None:
    with pytest.raises(WorkerError, match=r"a share failed: .*lambda"):
        run(work.count, [lambda: None, ("a", 3)])


def test_work_that_cannot_be_sent_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process"))
    with pytest.raises(Exception, match="lambda"):
        run(lambda x: iter(x), ["x"])


def test_work_that_a_worker_cannot_load_says_why(work: ModuleType) -> None:
    with pytest.raises(DepthgenError, match="the file is gone"):
        run(work.NeedsFile("x"), ["x"])


@pytest.mark.parametrize("how", ["break", "error", "unused"])
@pytest.mark.parametrize("nbytes", [10, 5_000_000])
def test_leaving_early_ends_workers_that_would_go_on_for_ever(
    work: ModuleType, how: str, nbytes: int
) -> None:
    start = time.monotonic()
    try:
        with streams(work.for_ever, [nbytes, nbytes]) as results:
            if how != "unused":
                assert len(next(results)) == nbytes
                time.sleep(0.3)  # until all that may wait does
            if how == "error":
                raise RuntimeError
    except RuntimeError:
        assert how == "error"
    assert time.monotonic() - start < 5


def test_a_fast_worker_waits_for_a_slow_taker(work: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "yielded"
    with streams(work.note_each, [path]) as results:
        for taken in range(1, 5):
            next(results)
            time.sleep(0.3)
            # One waits, one is in the hands of our thread, one in the pipe.
            assert taken < path.stat().st_size <= taken + 3
