"""What a worker process runs.

The one rule: it ends when its parent does, in the midst of work as well: its pipe closes.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from depthgen.workers import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from depthgen.workers.wire import Answer


def serve() -> None:
    """Take the work first, then items until the pipe closes."""
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
        for answer in _answers(work, messages.get()):
            try:
                wire.send(outgoing, answer)
            except OSError:
                os._exit(0)


def _listen(incoming: Connection, messages: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            messages.put(incoming.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _answers(work: Answer, message: bytes) -> Iterator[Answer]:
    """One to an item; to a share each result and an `End`, or the error that came instead."""
    request = _try(pickle.loads, message)
    for loaded in (work, request):
        if not loaded[0]:
            yield loaded
            return
    is_share, item = request[1]
    answer = _try(work[1], item)
    if is_share and answer[0]:
        yield from _yielded(answer[1])
    else:
        yield answer


def _yielded(results: Iterator[Any]) -> Iterator[Answer]:
    end = wire.End()
    while True:
        answer = _try(lambda each: next(each, end), results)
        yield answer
        if not answer[0] or answer[1] is end:
            return


def _try(work: Callable[[Any], Any], item: Any) -> Answer:
    try:
        return True, work(item)
    except Exception as error:
        return False, error
