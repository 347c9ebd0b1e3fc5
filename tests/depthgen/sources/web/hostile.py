"""A web on 127.0.0.1 that misbehaves on purpose: Bing's result pages, and pictures behind them.

The one rule: the server writes down what it was asked and what it sent, so that a test can compare
a crawler's account with what happened. Nothing it does outlives `close`, not even a stall.
"""

from __future__ import annotations

import contextlib
import html
import json
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from requests.adapters import HTTPAdapter

from depthgen.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from requests import PreparedRequest, Response

    Headers = Iterable[tuple[str, str]]
    Behaviour = Callable[["Visit"], None]

PICTURE_HOST = "http://pictures.example"
BING = "https://www.bing.com"
RESULTS = "/images/async"
PAGE_SIZE = 35


@dataclass(frozen=True)
class Exhibit:
    """Something to be found: a name, which may be any text, and what a GET of it meets."""

    name: str
    behaviour: Behaviour
    title: str = ""

    @property
    def url(self) -> str:
        return f"{PICTURE_HOST}/p/{quote(self.name, safe='')}"


@dataclass(frozen=True)
class Request:
    """One GET as the server saw it; `keyword` is decoded, and empty but for result pages."""

    path: str
    keyword: str
    user_agent: str
    time: float


class Visit:
    """One GET, as a behaviour sees it. number: the how manieth of this address, from 1."""

    def __init__(self, handler: _Handler, key: str, number: int) -> None:
        self._handler, self._key = handler, key
        self.number = number
        self.port = handler.server.server_port
        self.query = {
            key: values[-1]
            for key, values in parse_qs(
                urlsplit(handler.path).query, keep_blank_values=True
            ).items()
        }

    def begin(self, status: int, headers: Headers = ()) -> None:
        """The status line and the headers; a body of unknown length has to `hang_up` after it."""
        self._handler.send_response(status)
        for name, value in headers:
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def write(self, data: bytes) -> None:
        """Bytes of the body. Raises `OSError` where the client or the server has gone."""
        if self._handler.server.web.closing.is_set():
            raise ConnectionAbortedError
        self._handler.wfile.write(data)
        self._handler.server.web.count(self._key, len(data))

    def send(self, body: bytes, status: int = 200, headers: Headers = ()) -> None:
        """A whole answer, after which the connection stays open."""
        self.begin(status, [("Content-Length", str(len(body))), *headers])
        self.write(body)

    def wait(self, seconds: float) -> None:
        if self._handler.server.web.closing.wait(seconds):
            raise ConnectionAbortedError

    def hang_up(self) -> None:
        self._handler.close_connection = True


class HostileWeb(Closing):
    """The server; a context manager.

    exhibits: found by every keyword, in this order, unless `by_keyword` has the keyword.
    page_size: results on a page; the feeder steps by 20, so fewer would leave some unseen.
    pages: turns the ordinary behaviour of result pages into another.
    """

    def __init__(
        self,
        exhibits: Sequence[Exhibit],
        *,
        by_keyword: Mapping[str, Sequence[Exhibit]] | None = None,
        page_size: int = PAGE_SIZE,
        pages: Callable[[Behaviour], Behaviour] = lambda ordinary: ordinary,
    ) -> None:
        self._results, self._by_keyword = list(exhibits), dict(by_keyword or {})
        everything = [*self._results, *(e for each in self._by_keyword.values() for e in each)]
        self._exhibits = {each.name: each for each in everything}
        self._page_size, self._page = page_size, pages(self._result_page)
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._visits: Counter[str] = Counter()
        self._sent: defaultdict[str, int] = defaultdict(int)
        self.closing = threading.Event()
        self._server = _Server(self)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    @property
    def requests(self) -> list[Request]:
        """Every GET so far, the first ones first."""
        with self._lock:
            return list(self._requests)

    @property
    def keywords(self) -> set[str]:
        """Every keyword that a result page was asked for."""
        return {each.keyword for each in self.requests if each.keyword}

    def hits(self, name: str) -> int:
        """GETs of an exhibit, or of a path that starts with a slash."""
        with self._lock:
            return self._visits[name if name.startswith("/") else _picture_key(name)]

    def sent(self, name: str) -> int:
        """Bytes of body written for an exhibit, the buffers on the way included."""
        with self._lock:
            return self._sent[_picture_key(name)]

    def detour(self) -> Detour:
        """What to mount on a session for `BING` and `PICTURE_HOST`."""
        return Detour(self.origin)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()

    def count(self, key: str, sent: int) -> None:
        with self._lock:
            self._sent[key] += sent

    def serve(self, handler: _Handler) -> None:
        """Answer one GET."""
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        key, behaviour = self._find(parts.path, handler.path)
        keyword = query.get("q", [""])[-1] if parts.path == RESULTS else ""
        agent = handler.headers.get("User-Agent", "")
        with self._lock:
            self._requests.append(Request(handler.path, keyword, agent, time.monotonic()))
            self._visits[key] += 1
            number = self._visits[key]
        behaviour(Visit(handler, key, number))

    def _find(self, path: str, address: str) -> tuple[str, Behaviour]:
        """What is visited, by which name it is counted: pictures whatever the query."""
        if path == RESULTS:
            return address, self._page
        exhibit = self._exhibits.get(unquote(path.removeprefix("/p/")))
        if path.startswith("/p/") and exhibit is not None:
            return _picture_key(exhibit.name), exhibit.behaviour
        return path, lambda visit: visit.send(b"nothing here", 404)

    def _result_page(self, visit: Visit) -> None:
        results = self._by_keyword.get(visit.query.get("q", ""), self._results)
        # Bing counts from 1, and takes 0 for 1.
        start = max(int(visit.query.get("first", "1")) - 1, 0)
        page = result_page(results[start : start + self._page_size])
        visit.send(page, headers=[("Content-Type", "text/html; charset=utf-8")])


def result_page(exhibits: Sequence[Exhibit]) -> bytes:
    """A fragment as Bing serves it; without any results it is blank."""
    entries = []
    for each in exhibits:
        page_url = f"{PICTURE_HOST}/page/{quote(each.name, safe='')}"
        title = f"A \ue000{each.title or each.name}\ue001 & more"
        meta = {"sid": "", "purl": page_url, "murl": each.url, "t": title}
        attribute = html.escape(json.dumps(meta, ensure_ascii=False, separators=(",", ":")))
        entries.append(
            f'<li><div class="iuscp"><div class="imgpt"><a class="iusc" m="{attribute}" '
            'href="/images/search?view=detailV2"><img class="mimg" src="/th"/></a></div></div></li>'
        )
    frame = f'<div class="dgControl hover"><ul class="dgControl_list">{"".join(entries)}</ul></div>'
    return frame.encode() if entries else b""


def _picture_key(name: str) -> str:
    return f"/p/{name}"


class Detour(HTTPAdapter):
    """Sends the requests of a session to another server, which learns the host that was meant."""

    def __init__(self, origin: str) -> None:
        super().__init__(pool_maxsize=64)
        self._origin = origin

    def send(self, request: PreparedRequest, *arguments: Any, **options: Any) -> Response:
        meant = request.url or ""
        parts = urlsplit(meant)
        sent = request.copy()
        sent.url = self._origin + parts._replace(scheme="", netloc="", fragment="").geturl()
        sent.headers["Host"] = parts.netloc
        response = super().send(sent, *arguments, **{**options, "proxies": None})
        # Redirects are relative to what was meant.
        response.url, response.request = meant, request
        return response


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, web: HostileWeb) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.web = web
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._open.discard(request)

    def close_connections(self) -> None:
        """Wake the threads that wait for another request on a connection kept alive."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes, and the second would wait 40 ms for the first.
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self.server.web.serve(self)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the requests are in `HostileWeb.requests`."""
