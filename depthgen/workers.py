"""Work over processes: an ordered, bounded map, and streams. No other module knows how it is done.

A worker is a fresh interpreter that reads items from its standard input and writes results to its
standard output, so that it inherits nothing, and ends by itself when its parent does: its pipe
closes. The one rule: the results of a map come in the order of its items, whoever finished first;
those of streams as they come.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_WORKER = 3
_STOP_TIMEOUT_S = 5.0
_TICK_S = 0.1
_PIPE_BYTES = 1 << 20


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


@contextmanager
def streams(
    work: Callable[[Item], Iterator[Result]], shares: Sequence[Item]
) -> Iterator[Iterator[Result]]:
    """Work on each share in a process of its own; yields an iterator of what comes of them.

    work: picklable, from an importable module; it gives an iterator. A process waits while a few of
    its results wait to be taken. Raises `WorkerError` (from the iterator) if a share fails or its
    worker dies. However the `with` block ends, no worker outlives it.
    """
    processes = _start(len(shares))
    arrived: queue.Queue[tuple[bool, Any] | None] = queue.Queue(_IN_FLIGHT_PER_WORKER * len(shares))
    stop = threading.Event()
    payload = pickle.dumps(work)
    threads = [
        threading.Thread(target=_draw, args=(process, payload, share, arrived, stop), daemon=True)
        for process, share in zip(processes, shares, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield _stream(arrived, len(shares))
    finally:
        stop.set()
        _end(processes)
        for thread in threads:
            thread.join()
        for process in processes:
            process.close_pipes()


def _stream(arrived: queue.Queue[tuple[bool, Any] | None], active: int) -> Iterator[Any]:
    while active:
        answer = arrived.get()
        if answer is None:
            active -= 1
            continue
        done, value = answer
        if not done:
            raise value
        yield value


def _draw(
    process: _Process,
    payload: bytes,
    share: Any,
    arrived: queue.Queue[tuple[bool, Any] | None],
    stop: threading.Event,
) -> None:
    """Put what a process yields into `arrived`, and None at its end."""
    process.send_work(payload)
    try:
        for done, value in process.ask_for_all(share):
            _put(arrived, (done, value if done else _failure("a share", value)), stop)
    except (EOFError, OSError):
        death = WorkerError(
            f"a worker died ({process.obituary()}); run the same command again, it goes on where "
            "it stopped"
        )
        _put(arrived, (False, death), stop)
    _put(arrived, None, stop)


def _put(arrived: queue.Queue[Any], item: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(queue.Full):
            arrived.put(item, timeout=_TICK_S)
            return


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
    what = str(error) if isinstance(error, _UntoldError) else f"{type(error).__name__}: {error}"
    failure = WorkerError(f"{name} failed: {what}")
    failure.__cause__ = error
    return failure


class _Pool:
    """The worker processes, each with a thread here that feeds it one item at a time."""

    def __init__(
        self,
        work: Callable[[Any], Any],
        items: Iterable[Any],
        workers: int,
        describe: Callable[[Any], str],
    ) -> None:
        self._items = iter(items)
        self._taken = 0
        self._describe = describe
        # What came back, by item: (True, result) or (False, error).
        self._results: dict[int, tuple[bool, Any]] = {}
        self._stopping = False
        self._active = workers
        self._changed = threading.Condition()
        self._slots = threading.Semaphore(workers * _IN_FLIGHT_PER_WORKER)
        payload = pickle.dumps(work)
        self._processes = _start(workers)
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
        process.send_work(payload)
        while (task := self._next()) is not None:
            index, item = task
            done, value = self._ask(process, item)
            with self._changed:
                self._results[index] = done, value
                self._stopping = self._stopping or not done
                self._changed.notify_all()
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def _next(self) -> tuple[int, Any] | None:
        """The next item and its number, or None when there is none, or no more are wanted."""
        self._slots.acquire()
        with self._changed:
            if self._stopping:
                return None
            try:
                item = next(self._items)
            except StopIteration:
                self._stopping = True
                return None
            except BaseException as error:  # it takes the place of the item that it kept back
                self._stopping = True
                self._results[self._taken] = False, error
                return None
            self._taken += 1
            return self._taken - 1, item

    def _ask(self, process: _Process, item: Any) -> tuple[bool, Any]:
        """(True, result) or (False, error); whatever goes wrong here is the item's error too."""
        name = "an item"
        try:
            name = self._describe(item)
            done, value = process.ask(item)
        except (EOFError, OSError):
            return False, WorkerError(
                f"a worker died ({process.obituary()}) on {name}; "
                "run the same command again, it goes on where it stopped"
            )
        except Exception as error:
            return False, _failure(name, error)
        return done, value if done else _failure(name, value)

    def close(self) -> None:
        with self._changed:
            self._stopping = True
        _end(self._processes)
        for _ in self._threads:
            self._slots.release()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.close_pipes()


def _start(count: int) -> list[_Process]:
    """All processes, or none: if one cannot be started, the others are ended again."""
    processes: list[_Process] = []
    try:
        for _ in range(count):
            processes.append(_Process())
    except OSError as error:
        raise WorkerError(
            f"cannot start worker {len(processes) + 1} of {count}: {error.strerror}; "
            "take fewer workers"
        ) from error
    finally:
        if len(processes) < count:
            _end(processes)
            for process in processes:
                process.close_pipes()
    return processes


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.ask_to_end()
    for process in processes:
        process.end()


class _Process:
    """One worker process and the two pipes to it."""

    def __init__(self) -> None:
        # One core each: a library that starts threads of its own would only fight the others.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
        # Ctrl-C must not hit the new interpreter before it knows to ignore it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from depthgen.workers import serve; serve()"],
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

    def ask(self, item: Any) -> tuple[bool, Any]:
        message = pickle.dumps(item)
        self._to.send_bytes(message)
        return self._hear()

    def ask_for_all(self, share: Any) -> Iterator[tuple[bool, Any]]:
        """What the work on a share yields; an error is the last."""
        self._to.send_bytes(pickle.dumps(share))
        while (answer := self._hear()) != (True, None):
            yield answer
            if not answer[0]:
                return

    def _hear(self) -> tuple[bool, Any]:
        reply, buffers = _receive(self._from)
        try:
            answer: tuple[bool, Any] = pickle.loads(reply, buffers=buffers)
        except (EOFError, OSError) as error:  # not the pipe's: the worker is well
            return False, error
        return answer

    def obituary(self) -> str:
        try:
            code = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def ask_to_end(self) -> None:
        self._process.terminate()

    def end(self) -> None:
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    incoming = Connection(os.dup(0), writable=False)
    outgoing = Connection(os.dup(1), readable=False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, messages), daemon=True).start()
    work = _try(pickle.loads, messages.get())
    while True:
        message = messages.get()
        answer = work if not work[0] else _try(lambda each: work[1](pickle.loads(each)), message)
        for each in _yielded(answer[1]) if isinstance(answer[1], Iterator) else (answer,):
            reply, buffers = _packed(each)
            try:
                _send(outgoing, reply, buffers)
            except OSError:
                os._exit(0)


def _yielded(results: Iterator[Any]) -> Iterator[tuple[bool, Any]]:
    """Each result of a stream, then None, or the error that ended it."""
    while True:
        answer = _try(lambda each: next(each, None), results)
        yield answer
        if answer[1] is None or not answer[0]:
            return


def _listen(incoming: Connection, messages: queue.SimpleQueue[bytes]) -> None:
    """Hand messages on; end the process when the parent has ended, in the midst of work as well."""
    try:
        while True:
            messages.put(incoming.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _try(work: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return True, work(item)
    except Exception as error:
        return False, error


def _packed(answer: tuple[bool, Any]) -> tuple[bytes, list[memoryview]]:
    """The answer as bytes, or the reason why it has none.

    Arrays travel beside the pickle (PEP 574): a unit's megabytes are copied once, into the pipe.
    """
    done, value = answer
    buffers: list[pickle.PickleBuffer] = []
    try:
        reply = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
        if not done:
            pickle.loads(reply, buffers=buffers)
        return reply, [buffer.raw() for buffer in buffers]
    except Exception as error:
        if done:
            unsent: Exception = TypeError(f"its result cannot be sent back: {error}")
        else:  # an error that cannot travel still tells what it was
            unsent = _UntoldError(f"{type(value).__name__}: {value}")
    return pickle.dumps((False, unsent)), []


def _send(pipe: Connection, reply: bytes, buffers: list[memoryview]) -> None:
    pipe.send_bytes(pickle.dumps((reply, [buffer.nbytes for buffer in buffers])))
    for buffer in buffers:
        while buffer:
            buffer = buffer[os.write(pipe.fileno(), buffer) :]


def _receive(pipe: Connection) -> tuple[bytes, list[bytearray]]:
    """The other end of `_send`. Raises `EOFError` if the worker ended meanwhile."""
    reply, sizes = pickle.loads(pipe.recv_bytes())
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        rest = memoryview(buffer)
        while rest:
            count = os.readv(pipe.fileno(), [rest])
            if not count:
                raise EOFError
            rest = rest[count:]
    return reply, buffers


class _UntoldError(Exception):
    """Stands for an error that cannot be sent; its message holds the type."""
