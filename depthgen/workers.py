"""An ordered, bounded map over processes: the only module that knows how work is spread.

A worker is a fresh interpreter that reads items from its standard input and writes results to its
standard output, so that it inherits nothing, and ends by itself when its parent does: its pipe
closes. The one rule: results come in the order of the items, whoever finished first.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_WORKER = 3
_STOP_TIMEOUT_S = 5.0


class WorkerError(DepthgenError):
    """An item whose work failed, or whose worker died; the message names the item."""


def default_workers() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    describe: Callable[[Item], str] = str,
) -> Iterator[Iterator[Result]]:
    """Apply `work` to each item in `workers` processes; yields an iterator of results, in order.

    work: picklable, from an importable module; it is sent to each worker once. With one worker it
        runs in the caller. describe: what to call an item in an error message.
    Raises `WorkerError` (from the iterator) if an item fails or a worker dies. However the `with`
    block ends, no worker outlives it.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if workers == 1:
        yield _run_here(work, items, describe)
        return
    with closing(_Pool(work, items, workers, describe)) as pool:
        yield pool.results()


def _run_here(
    work: Callable[[Item], Result], items: Iterable[Item], describe: Callable[[Item], str]
) -> Iterator[Result]:
    for item in items:
        try:
            result = work(item)
        except DepthgenError:
            raise
        except Exception as error:
            raise _failure(describe(item), error) from error
        yield result


def _failure(name: str, error: BaseException) -> DepthgenError:
    if isinstance(error, DepthgenError):
        return error
    return WorkerError(f"{name} failed: {type(error).__name__}: {error}")


class _Pool:
    """The worker processes, each with a thread here that feeds it one item at a time."""

    def __init__(
        self,
        work: Callable[[Any], Any],
        items: Iterable[Any],
        workers: int,
        describe: Callable[[Any], str],
    ) -> None:
        self._items = enumerate(items)
        self._describe = describe
        # What came back, by item: (True, result) or (False, error).
        self._results: dict[int, tuple[bool, Any]] = {}
        self._stopping = False
        self._active = workers
        self._changed = threading.Condition()
        self._slots = threading.Semaphore(workers * _IN_FLIGHT_PER_WORKER)
        self._processes = [_Process() for _ in range(workers)]
        payload = pickle.dumps(work)
        self._threads = [
            threading.Thread(target=self._feed, args=(process, payload), daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[Any]:
        index = 0
        while True:
            with self._changed:
                while index not in self._results and self._active:
                    self._changed.wait()
                if index not in self._results:
                    return
                done, value = self._results.pop(index)
            if not done:
                raise value
            self._slots.release()
            yield value
            index += 1

    def _feed(self, process: _Process, payload: bytes) -> None:
        done = True
        try:
            process.send_work(payload)
            while done and (task := self._next()) is not None:
                index, item = task
                done, value = self._ask(process, item)
                with self._changed:
                    self._results[index] = done, value
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._active -= 1
                self._stopping = self._stopping or not done
                self._changed.notify_all()

    def _next(self) -> tuple[int, Any] | None:
        self._slots.acquire()
        with self._changed:
            return None if self._stopping else next(self._items, None)

    def _ask(self, process: _Process, item: Any) -> tuple[bool, Any]:
        try:
            done, value = process.ask(item)
        except (EOFError, OSError):
            return False, WorkerError(
                f"a worker died ({process.obituary()}) on {self._describe(item)}; "
                "run the same command again, it goes on where it stopped"
            )
        return done, value if done else _failure(self._describe(item), value)

    def close(self) -> None:
        with self._changed:
            self._stopping = True
        for process in self._processes:
            process.end()
        for _ in self._threads:
            self._slots.release()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.close_pipes()


class _Process:
    """One worker process and the two pipes to it."""

    def __init__(self) -> None:
        # One core each: a library that starts threads of its own would only fight the others.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from depthgen.workers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | single | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._from = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.stdin.close()
        self._process.stdout.close()

    def send_work(self, payload: bytes) -> None:
        with suppress(OSError):  # a worker that died at once is reported with its first item
            self._to.send_bytes(payload)

    def ask(self, item: Any) -> tuple[bool, Any]:
        self._to.send(item)
        answer: tuple[bool, Any] = self._from.recv()
        return answer

    def obituary(self) -> str:
        try:
            code = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close_pipes(self) -> None:
        self._to.close()
        self._from.close()


def serve() -> None:
    """What a worker process runs: the work first, then items until the pipe closes."""
    # The parent answers Ctrl-C; what the work prints goes to stderr, stdout belongs to the results.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming = Connection(os.dup(0), writable=False)
    outgoing = Connection(os.dup(1), readable=False)
    os.dup2(2, 1)
    try:
        work = pickle.loads(incoming.recv_bytes())
        while True:
            item = incoming.recv()
            try:
                answer = True, work(item)
            except Exception as error:
                answer = False, error
            outgoing.send(_sendable(answer))
    except (EOFError, OSError):  # the parent has ended, or closed the pipe
        os._exit(0)


def _sendable(answer: tuple[bool, Any]) -> tuple[bool, Any]:
    done, value = answer
    if done:
        return answer
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # an error that cannot travel still tells what it was
        return False, RuntimeError(f"{type(value).__name__}: {value}")
    return answer
