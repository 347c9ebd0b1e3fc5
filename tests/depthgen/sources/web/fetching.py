"""What the tests of fetching share: a fetcher for a server of the test, and what comes of it."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from depthgen.sources import screen
from depthgen.sources.web.fetch import Fetched, Fetcher, FetchError, HostDelays, Rules
from depthgen.sources.web.session import open_session
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.hostile import PICTURE_HOST, Detour, Exhibit, HostileWeb
from tests.depthgen.sources.web.raw import RawServer, saying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.depthgen.sources.web.hostile import Behaviour

GOOD = show.cutout(0, 64)
PICTURE = show.picture(GOOD)
TIMEOUT_S = 0.4
MAX_BYTES = 1 << 20
# What the kernel holds for both ends of a connection of its own machine.
BUFFERS = 8 << 20


@contextlib.contextmanager
def fetcher_for(origin: str, **rules: Any) -> Iterator[Fetcher]:
    """A fetcher with a session of the crawl's own, detoured to a server of the test."""
    given = {"timeout_s": TIMEOUT_S, "max_bytes": MAX_BYTES, "retries": 0, **rules}
    with open_session(4, False) as session:
        session.mount(PICTURE_HOST, Detour(origin))
        yield Fetcher(session, Rules(**given), HostDelays(0), threading.Event())


@contextlib.contextmanager
def showing(*behaviours: Behaviour, **rules: Any) -> Iterator[tuple[HostileWeb, Fetcher]]:
    """A web with exhibits "0", "1", …, and a fetcher for it."""
    things = [Exhibit(str(index), each) for index, each in enumerate(behaviours)]
    with HostileWeb(things) as web, fetcher_for(web.origin, **rules) as fetcher:
        yield web, fetcher


def url(name: object = 0) -> str:
    return f"{PICTURE_HOST}/p/{name}"


def refusal(fetcher: Fetcher, address: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetcher(address)
    assert caught.value.reason in screen.REASONS
    return caught.value


def outcome(fetcher: Fetcher) -> bytes | str:
    """The bytes, or the reason why there are none."""
    try:
        return fetcher(url()).data
    except FetchError as error:
        return error.reason


def answer(*headers: str, body: bytes = b"", status: str = "200 OK") -> bytes:
    lines = "".join(f"{each}\r\n" for each in (f"HTTP/1.1 {status}", *headers))
    return lines.encode("latin-1") + b"\r\n" + body


def length(value: object) -> str:
    return f"Content-Length: {value}"


def fetched_from(data: bytes, **rules: Any) -> Fetched:
    """What a fetcher makes of these bytes on the wire."""
    with RawServer(saying(data)) as server, fetcher_for(server.origin, **rules) as fetcher:
        return fetcher(url())
