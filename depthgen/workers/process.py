"""A worker process as its parent sees it.

A worker is a fresh interpreter that reads items from its standard input and writes results to its
standard output, so that it inherits nothing. The one rule: whoever starts processes ends them and
closes their pipes.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from depthgen.workers import wire
from depthgen.workers.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from depthgen.workers.wire import Answer

_STOP_TIMEOUT_S = 5.0
_PIPE_BYTES = 1 << 20


def default_workers() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(count: int) -> list[Process]:
    """All processes, or none: if one cannot be started, the others are ended again.

    Raises `WorkerError`.
    """
    processes: list[Process] = []
    try:
        for _ in range(count):
            processes.append(Process())
    except OSError as error:
        raise WorkerError(
            f"cannot start worker {len(processes) + 1} of {count}: {error.strerror}; "
            "take fewer workers"
        ) from error
    finally:
        if len(processes) < count:
            end(processes)
            for process in processes:
                process.close_pipes()
    return processes


def end(processes: list[Process]) -> None:
    """Returns when all have ended, whatever they were doing."""
    for process in processes:
        process.ask_to_end()
    for process in processes:
        process.end()


class Process:
    """One worker process and the two pipes to it."""

    def __init__(self) -> None:
        # One core each: a library that starts threads of its own would only fight the others.
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
        single = dict.fromkeys(names, "1")
        # Ctrl-C must not hit the new interpreter before it knows to ignore it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from depthgen.workers.serve import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | single | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._from = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        with suppress(AttributeError, OSError):  # Linux: fewer turns for a large result
            fcntl.fcntl(self._from.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._process.stdin.close()
        self._process.stdout.close()

    def send_work(self, payload: bytes) -> None:
        with suppress(OSError):  # a worker that died at once is reported with its first item
            self._to.send_bytes(payload)

    def ask(self, item: Any) -> Answer:
        """What the work on an item comes to. Raises `EOFError` or `OSError` if the worker died."""
        self._to.send_bytes(pickle.dumps((False, item)))
        return wire.receive(self._from)

    def ask_for_all(self, share: Any) -> Iterator[Answer]:
        """What the work on a share yields; an error is the last. Raises as `ask` does."""
        self._to.send_bytes(pickle.dumps((True, share)))
        done = True
        while done:
            answer = wire.receive(self._from)
            done, value = answer
            if isinstance(value, wire.End):
                return
            yield answer

    def obituary(self) -> str:
        """How the worker ended."""
        try:
            code = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def ask_to_end(self) -> None:
        self._process.terminate()

    def end(self) -> None:
        """Return when it has ended; one that does not listen is killed."""
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close_pipes(self) -> None:
        self._to.close()
        self._from.close()
