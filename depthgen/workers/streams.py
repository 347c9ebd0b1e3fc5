"""Shares of work, each in a process of its own that yields results as long as it likes.

The one rule: the results of a share come in its order, those of different shares as they come; and
each share's thread says when it is over, however it came to that, so that nobody waits for ever.
"""

from __future__ import annotations

import pickle
import queue
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from depthgen.workers import process as processes
from depthgen.workers.errors import death, failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from depthgen.workers.process import Process
    from depthgen.workers.wire import Answer

    # None: a share is over.
    _Arrived: TypeAlias = queue.Queue[Answer | None]

Item = TypeVar("Item")
Result = TypeVar("Result")

_TICK_S = 0.1


@contextmanager
def streams(
    work: Callable[[Item], Iterator[Result]], shares: Sequence[Item]
) -> Iterator[Iterator[Result]]:
    """Work on each share in a process of its own; yields an iterator of what comes of them.

    work: picklable, from an importable module; it gives an iterator. For each share one result
    waits to be taken and one more is on its way; then its process waits, as a result may be large.
    Raises `WorkerError` (from the iterator) if a share fails or its worker dies. However the `with`
    block ends, no worker outlives it.
    """
    payload = pickle.dumps(work)
    started = processes.start(len(shares))
    arrived: _Arrived = queue.Queue(len(shares))
    stop = threading.Event()
    threads = [
        threading.Thread(target=_draw, args=(process, payload, share, arrived, stop), daemon=True)
        for process, share in zip(started, shares, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield _stream(arrived, len(shares))
    finally:
        stop.set()
        processes.end(started)
        for thread in threads:
            thread.join()
        for process in started:
            process.close_pipes()


def _stream(arrived: _Arrived, active: int) -> Iterator[Any]:
    while active:
        answer = arrived.get()
        if answer is None:
            active -= 1
            continue
        done, value = answer
        if not done:
            raise value
        yield value
        del answer, value  # not kept while the next is awaited


def _draw(
    process: Process, payload: bytes, share: Any, arrived: _Arrived, stop: threading.Event
) -> None:
    """Put what a share comes to into `arrived`, and None at its end."""
    try:
        process.send_work(payload)
        for done, value in process.ask_for_all(share):
            _put(arrived, (done, value if done else failure("a share", value)), stop)
    except (EOFError, OSError):
        _put(arrived, (False, death(process.obituary(), "a share")), stop)
    except Exception as error:
        _put(arrived, (False, failure("a share", error)), stop)
    finally:
        _put(arrived, None, stop)


def _put(arrived: _Arrived, answer: Answer | None, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(queue.Full):
            arrived.put(answer, timeout=_TICK_S)
            return
