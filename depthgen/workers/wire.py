"""How a worker's answers go through its pipe.

An answer is (True, result) or (False, error). The one rule: whatever it holds, an answer arrives;
one that cannot be sent or read is replaced by the reason.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from depthgen.workers.errors import UntoldError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Answer: TypeAlias = tuple[bool, Any]


@dataclass(frozen=True)
class End:
    """Takes the place of a result when a share has no more; a result may be anything, None too."""


def send(pipe: Connection, answer: Answer) -> None:
    """Raises `OSError` if nobody listens any more."""
    reply, buffers = _packed(answer)
    pipe.send_bytes(pickle.dumps((reply, [buffer.nbytes for buffer in buffers])))
    for buffer in buffers:
        while buffer:
            buffer = buffer[os.write(pipe.fileno(), buffer) :]


def receive(pipe: Connection) -> Answer:
    """The other end of `send`. Raises `EOFError` or `OSError` if the worker ended meanwhile."""
    reply, sizes = pickle.loads(pipe.recv_bytes())
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        rest = memoryview(buffer)
        while rest:
            count = os.readv(pipe.fileno(), [rest])
            if not count:
                raise EOFError
            rest = rest[count:]
    try:
        answer: Answer = pickle.loads(reply, buffers=buffers)
    except Exception as error:  # of what was sent, even if it is an `EOFError`: the worker is well
        return False, error
    return answer


def _packed(answer: Answer) -> tuple[bytes, list[memoryview]]:
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
            unsent = UntoldError(f"{type(value).__name__}: {value}")
    return pickle.dumps((False, unsent)), []
