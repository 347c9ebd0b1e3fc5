"""A server of raw sockets, for what `http.server` is too polite to say.

The one rule: it answers each connection by one function, counts them, and nothing outlives `close`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from depthgen.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = Callable[["Connection"], None]


class Connection:
    """One connection, as an answer sees it. number: the how manieth of this server, from 1."""

    def __init__(self, stream: socket.socket, number: int, closing: threading.Event) -> None:
        self.stream, self._closing = stream, closing
        self.number = number

    def request(self) -> bytes:
        """The next request, up to its empty line; empty where the client has gone."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.stream.recv(1 << 16)
            if not piece:
                return b""
            data += piece
        return data

    def send(self, data: bytes) -> None:
        """Raises `OSError` where the client or the server has gone."""
        if self._closing.is_set():
            raise ConnectionAbortedError
        self.stream.sendall(data)

    def wait(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise ConnectionAbortedError


class RawServer(Closing):
    """A context manager. `connections`: how many have come."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._closing = threading.Event()
        self._open: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._socket.accept()
                self.connections += 1
                self._open.append(stream)
                connection = Connection(stream, self.connections, self._closing)
                arguments = (stream, connection)
                threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, stream: socket.socket, connection: Connection) -> None:
        with contextlib.suppress(OSError), stream:
            self._answer(connection)

    def close(self) -> None:
        self._closing.set()
        for each in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def saying(data: bytes) -> Answer:
    """The same bytes to any request, then the end."""

    def answer(connection: Connection) -> None:
        connection.request()
        connection.send(data)

    return answer


def dripping_headers(pause_s: float) -> Answer:
    """A status line, then a header that never ends, a byte at a time."""

    def answer(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while True:
            connection.send(b"a")
            connection.wait(pause_s)

    return answer
