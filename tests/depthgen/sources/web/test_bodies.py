"""What a server sends: bodies over the limit, packed ones, false lengths, and what is no HTTP."""

from __future__ import annotations

import contextlib
import gzip
from typing import TYPE_CHECKING

import pytest

from depthgen.sources import screen
from depthgen.sources.web.fetch import FetchError
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.fetching import (
    BUFFERS,
    GOOD,
    MAX_BYTES,
    PICTURE,
    answer,
    fetched_from,
    fetcher_for,
    length,
    outcome,
    refusal,
    showing,
    url,
)
from tests.depthgen.sources.web.raw import RawServer, saying

if TYPE_CHECKING:
    from tests.depthgen.sources.web.hostile import Visit
    from tests.depthgen.sources.web.raw import Connection

pytestmark = pytest.mark.usefixtures("hasty")

# Bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_without_an_end_is_left_at_the_limit(chunked: bool) -> None:
    with showing(show.endless(1 << 30, chunked=chunked), timeout_s=10) as (web, fetcher):
        error = refusal(fetcher, url())
        assert error.reason == screen.TOO_LARGE
        assert MAX_BYTES < error.nbytes <= MAX_BYTES + (1 << 16)
        assert web.sent("0") < MAX_BYTES + BUFFERS


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    whole, more = show.picture(bytes(MAX_BYTES)), show.picture(bytes(MAX_BYTES + 1))
    with showing(whole, more) as (_, fetcher):
        assert len(fetcher(url(0)).data) == MAX_BYTES
        assert refusal(fetcher, url(1)).nbytes == MAX_BYTES + 1


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    def behave(visit: Visit) -> None:
        visit.begin(200, [("Content-Length", str(50 << 30))])
        while True:
            visit.write(bytes(1 << 16))

    with showing(behave) as (web, fetcher):
        error = refusal(fetcher, url())
        assert (error.reason, error.nbytes) == (screen.TOO_LARGE, 50 << 30)
        assert web.sent("0") < BUFFERS


def test_a_body_that_says_it_is_too_large_and_never_comes_is_too_large() -> None:
    def behave(visit: Visit) -> None:
        visit.begin(200, [("Content-Length", str(50 << 30))])
        visit.wait(10)

    with showing(behave) as (_, fetcher):
        assert refusal(fetcher, url()).reason == screen.TOO_LARGE


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_bomb_is_not_unpacked_beyond_the_limit(layers: int) -> None:
    body = gzip.compress(bytes(64 << 20))
    for _ in range(layers - 1):
        body = gzip.compress(body)
    packed = show.picture(body, headers=[("Content-Encoding", ", ".join(["gzip"] * layers))])
    with showing(packed, timeout_s=10) as (_, fetcher):
        error = refusal(fetcher, url())
    assert error.reason == screen.TOO_LARGE
    assert error.nbytes < MAX_BYTES + (1 << 17)


def test_a_packed_picture_is_unpacked() -> None:
    packed = show.picture(gzip.compress(GOOD), headers=[("Content-Encoding", "gzip")])
    with showing(packed) as (_, fetcher):
        assert fetcher(url()).data == GOOD


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x", ""])
def test_a_body_packed_otherwise_than_said_is_bytes_or_broken_off(encoding: str) -> None:
    with showing(show.picture(GOOD, headers=[("Content-Encoding", encoding)])) as (_, fetcher):
        assert outcome(fetcher) in (GOOD, screen.BROKEN_OFF)


# What is no HTTP --------------------------------------------------------------------------------


BROKEN = {
    "nothing": b"",
    "garbage": b"\x00\xff\xfe garbage\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status 0": b"HTTP/1.1 000 OK\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 OK\r\n\r\n",
    "status -5": b"HTTP/1.1 -5 OK\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a status line of 100 KB": b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n",
    "a header line of 100 KB": answer("X-Long: " + "a" * 100_000),
    "a thousand headers": answer(*["X-Many: a"] * 1000),
    "HTTP 9": b"HTTP/9.9 200 OK\r\n\r\n",
    "a length too large": answer(length(len(GOOD) + 1), body=GOOD),
    "chunks without a size": answer("Transfer-Encoding: chunked", body=b"zz\r\nabc\r\n"),
    "a chunk that ends early": answer("Transfer-Encoding: chunked", body=b"ffff\r\nabc"),
    "a chunk below zero": answer("Transfer-Encoding: chunked", body=b"-5\r\nabc\r\n"),
    "a chunk size of 100 KB": answer("Transfer-Encoding: chunked", body=b"0" * 100_000),
    "an immense chunk": answer("Transfer-Encoding: chunked", body=b"f" * 60_000 + b"\r\nabc"),
    "two lengths": answer(length(3), length(5), body=b"abcde"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_http_is_broken_off(name: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetched_from(BROKEN[name])
    assert caught.value.reason == screen.BROKEN_OFF


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([length(3)], b"abc"),
        ([length(-1)], b"abcdef"),
        ([length("many")], b"abcdef"),
        ([length("")], b"abcdef"),
        ([length("²")], b"abcdef"),
        ([length(6), length(6)], b"abcdef"),
        ([], b"abcdef"),
    ],
)
def test_a_length_that_lies_or_makes_no_sense_does_no_harm(
    headers: list[str], expected: bytes
) -> None:
    assert fetched_from(answer(*headers, body=b"abcdef")).data == expected


def test_a_length_of_five_thousand_digits_is_no_length_or_too_large() -> None:
    data = answer(length("9" * 5000), body=b"abcdef")
    with RawServer(saying(data)) as server, fetcher_for(server.origin) as fetcher:
        assert outcome(fetcher) in (b"abcdef", screen.TOO_LARGE, screen.BROKEN_OFF)


def test_the_hundreds_before_an_answer_are_passed_over() -> None:
    early = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 3
    assert fetched_from(early + answer(length(3), body=b"abc")).data == b"abc"


@pytest.mark.parametrize("status", ["103 Early Hints", "199 What"])
def test_an_answer_after_the_answer_is_not_taken_for_the_next_one(status: str) -> None:
    def two_answers(connection: Connection) -> None:
        while request := connection.request():
            connection.send(answer(status=status))
            connection.wait(0.05)
            late = b"answer to " + request.split()[1]
            with contextlib.suppress(OSError):
                connection.send(answer(length(len(late)), body=late))

    with RawServer(two_answers) as server, fetcher_for(server.origin) as fetcher:
        for name in ("a", "b", "c"):
            with contextlib.suppress(FetchError):
                assert fetcher(url(name)).data in (b"", f"answer to /p/{name}".encode())


# Connections ------------------------------------------------------------------------------------


def test_good_answers_share_a_connection() -> None:
    def polite(connection: Connection) -> None:
        while connection.request():
            connection.send(answer(length(3), body=b"abc"))

    with RawServer(polite) as server, fetcher_for(server.origin) as fetcher:
        assert [fetcher(url(n)).data for n in range(5)] == [b"abc"] * 5
        assert server.connections == 1


def test_no_error_spoils_the_answers_after_it() -> None:
    others = [
        *(show.status(404), show.status(500), show.dropped(GOOD), show.endless(4 << 20)),
        *(show.robots(GOOD, "noai"), show.stall(1, PICTURE), show.redirect("/p/8"), PICTURE),
        show.status(204),
    ]
    with showing(*others) as (_, fetcher):
        for index in range(len(others)):
            with contextlib.suppress(FetchError):
                fetcher(url(index))
            assert fetcher(url(7)).data == GOOD
