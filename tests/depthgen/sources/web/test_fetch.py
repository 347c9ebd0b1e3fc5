"""One address at a time, against servers on 127.0.0.1 that do what servers should not."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from depthgen.sources import screen
from depthgen.sources.web import fetch
from depthgen.sources.web.fetch import Fetched, Fetcher, FetchError, HostDelays, Rules, opts_out
from depthgen.sources.web.session import open_session
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.hostile import PICTURE_HOST, Detour, Exhibit, HostileWeb
from tests.depthgen.sources.web.raw import RawServer, saying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.depthgen.sources.web.hostile import Behaviour, Visit
    from tests.depthgen.sources.web.raw import Connection

GOOD = show.cutout(0, 64)
PICTURE = show.picture(GOOD)
TIMEOUT_S = 0.4
MAX_BYTES = 1 << 20
# What the kernel holds for both ends of a connection of its own machine.
BUFFERS = 8 << 20


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_BACKOFF_S", 0.01)


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


def fetched_from(data: bytes, **rules: Any) -> Fetched:
    """What a fetcher makes of these bytes on the wire."""
    with RawServer(saying(data)) as server, fetcher_for(server.origin, **rules) as fetcher:
        return fetcher(url())


# Reasons, and trying again ----------------------------------------------------------------------


def test_a_picture_comes_whole_with_its_status() -> None:
    with showing(PICTURE) as (web, fetcher):
        assert fetcher(url()) == Fetched(GOOD, 200)
        assert web.hits("0") == 1


@pytest.mark.parametrize(
    ("behaviour", "reason", "status"),
    [
        (show.status(404), screen.HTTP_REFUSED, 404),
        (show.status(403), screen.HTTP_REFUSED, 403),
        (show.status(410), screen.HTTP_REFUSED, 410),
        (show.status(304), screen.HTTP_REFUSED, 304),
        (show.status(302), screen.HTTP_REFUSED, 302),
        (show.status(500), screen.SERVER_ERROR, 500),
        (show.status(503), screen.SERVER_ERROR, 503),
        (show.status(408), screen.SERVER_ERROR, 408),
        (show.status(425), screen.SERVER_ERROR, 425),
        (show.status(429), screen.SERVER_ERROR, 429),
        (show.stall(5, PICTURE), screen.TIMED_OUT, None),
        (show.stall_midway(GOOD, 5), screen.TIMED_OUT, None),
        (show.drip(GOOD, 0.05), screen.TIMED_OUT, 200),
        (show.dropped(GOOD), screen.BROKEN_OFF, None),
        (show.redirect_loop(), screen.REDIRECTS, None),
        (show.redirect("http://127.0.0.1:{port}/secret"), screen.PRIVATE, None),
        (show.redirect("http://localhost:{port}/secret"), screen.PRIVATE, None),
        (show.redirect("http://LOCALHOST.:{port}/secret"), screen.PRIVATE, None),
        (show.redirect("http://[::1]:{port}/secret"), screen.PRIVATE, None),
        (show.redirect("http://169.254.169.254/latest"), screen.PRIVATE, None),
        (show.redirect("file:///etc/passwd"), screen.NO_ADDRESS, None),
        (show.redirect("ftp://pictures.example/x"), screen.NO_ADDRESS, None),
        (show.redirect("data:image/png;base64,AAAA"), screen.NO_ADDRESS, None),
        (show.robots(GOOD, "noai"), screen.OPTED_OUT, 200),
        (show.endless(), screen.TOO_LARGE, 200),
        (show.inflating(64 << 20), screen.TOO_LARGE, 200),
    ],
)
def test_each_way_to_fail_has_its_reason_and_only_a_passing_one_is_tried_again(
    behaviour: Behaviour, reason: str, status: int | None
) -> None:
    with showing(behaviour, retries=1) as (web, fetcher):
        error = refusal(fetcher, url())
        assert (error.reason, error.http_status) == (reason, status)
        if reason != screen.REDIRECTS:
            assert web.hits("0") == 1 + error.passing
        assert web.hits("/secret") == 0


def test_no_one_at_the_address_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        origin = f"http://127.0.0.1:{server.getsockname()[1]}"
    with fetcher_for(origin) as fetcher:
        error = refusal(fetcher, url())
    assert (error.reason, error.passing) == (screen.NO_CONNECTION, True)


@pytest.mark.parametrize("bad", [show.status(500), show.dropped(GOOD), show.status(429)])
def test_what_passes_is_fetched_in_the_end(bad: Behaviour) -> None:
    with showing(show.at_first(2, bad, PICTURE), retries=2) as (web, fetcher):
        assert fetcher(url()).data == GOOD
        assert web.hits("0") == 3


def test_many_retries_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # The seventh pause doubles to above the longest wait.
    monkeypatch.setattr(fetch, "_LONGEST_WAIT_S", 0.1)
    with showing(show.status(500), retries=8) as (web, fetcher):
        refusal(fetcher, url())
        assert web.hits("0") == 9


def test_a_short_retry_after_is_waited_for() -> None:
    busy = show.status(503, headers=[("Retry-After", "1")])
    with showing(show.at_first(1, busy, PICTURE), retries=1) as (web, fetcher):
        assert fetcher(url()).data == GOOD
        first, second = (each.time for each in web.requests)
    assert 1.0 <= second - first < 1.5


@pytest.mark.parametrize("value", ["31", "86400", "Mon, 01 Jan 2300 00:00:00 GMT"])
def test_a_long_retry_after_gives_up_at_once(value: str) -> None:
    busy = show.status(503, headers=[("Retry-After", value)])
    with showing(busy, retries=3) as (web, fetcher):
        begun = time.monotonic()
        assert refusal(fetcher, url()).reason == screen.SERVER_ERROR
        assert time.monotonic() - begun < 0.5
        assert web.hits("0") == 1


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "-1", "1.5", "9" * 5000, "Mon, 01 Jan 10000 00:00:00 GMT"),
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 1990 00:00:00 GMT",
    ],
)
def test_a_retry_after_that_makes_no_sense_is_still_a_server_error(value: str) -> None:
    with showing(show.status(503, headers=[("Retry-After", value)])) as (_, fetcher):
        assert refusal(fetcher, url()).reason == screen.SERVER_ERROR


def test_a_stop_ends_the_wait_for_another_attempt() -> None:
    busy = show.status(503, headers=[("Retry-After", "20")])
    with showing(busy, retries=3) as (web, fetcher):
        threading.Timer(0.2, fetcher._stop.set).start()
        begun = time.monotonic()
        assert refusal(fetcher, url()).reason == screen.SERVER_ERROR
        assert time.monotonic() - begun < 1
        assert web.hits("0") == 1


def test_after_a_stop_nobody_is_asked_for_anything_any_more() -> None:
    with showing(PICTURE) as (web, fetcher):
        fetcher._hosts = HostDelays(30)
        fetcher(url())
        threading.Timer(0.1, fetcher._stop.set).start()
        with contextlib.suppress(FetchError):
            fetcher(url())
        assert web.hits("0") == 1


# Seconds ----------------------------------------------------------------------------------------


def slow_chain(visit: Visit) -> None:
    visit.wait(0.7 * TIMEOUT_S)
    show.redirect_chain(5, PICTURE)(visit)


@pytest.mark.parametrize(
    "behaviour",
    [
        show.stall(10, PICTURE),
        show.stall_midway(GOOD, 10),
        show.drip(GOOD, 0.05),
        show.drip(GOOD, 0.9 * TIMEOUT_S),
        slow_chain,
    ],
    ids=["stall", "midway", "fast drip", "slow drip", "slow redirects"],
)
def test_one_attempt_takes_at_most_twice_the_timeout(behaviour: Behaviour) -> None:
    with showing(behaviour) as (_, fetcher):
        begun = time.monotonic()
        assert refusal(fetcher, url()).reason == screen.TIMED_OUT
        assert time.monotonic() - begun < 2 * TIMEOUT_S + 0.2


def test_waiting_for_the_hosts_sake_is_not_the_servers_time() -> None:
    with showing(show.redirect_chain(2, PICTURE)) as (_, fetcher):
        fetcher._hosts = HostDelays(TIMEOUT_S)
        assert fetcher(url()).data == GOOD


def test_no_attempt_is_left_noted_when_it_is_over() -> None:
    with showing(PICTURE, show.status(500), retries=1) as (_, fetcher):
        fetcher(url(0))
        refusal(fetcher, url(1))
        refusal(fetcher, "nonsense")
        assert fetcher.attempts == {}


# Redirects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_each_kind_of_redirect_is_followed(code: int) -> None:
    with showing(show.redirect("/p/1", code), PICTURE) as (_, fetcher):
        assert fetcher(url()) == Fetched(GOOD, 200)


def test_five_redirects_are_followed_and_six_are_too_many() -> None:
    with showing(show.redirect_chain(5, PICTURE), show.redirect_chain(6, PICTURE)) as (
        web,
        fetcher,
    ):
        assert fetcher(url(0)).data == GOOD
        assert refusal(fetcher, url(1)).reason == screen.REDIRECTS
        assert (web.hits("0"), web.hits("1")) == (6, 6)


UMLAUT = "bär".encode().decode("latin-1")  # UTF-8, as header lines go


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/p/x", "x"),
        ("x", "x"),
        ("../p/x", "x"),
        ("//pictures.example/p/x", "x"),
        ("HTTP://PICTURES.EXAMPLE/p/x", "x"),
        ("/p/x#fragment", "x"),
        ("/p/x?a=b&c=%20", "x"),
        ("/p/a b", "a b"),
        ("/p/a%20b", "a b"),
        (f"/p/{UMLAUT}", "bär"),
        ("/p/b%C3%A4r", "bär"),
    ],
)
def test_a_redirect_may_be_relative_and_sloppily_written(location: str, name: str) -> None:
    things = [Exhibit("start", show.redirect(location)), Exhibit(name, PICTURE)]
    with HostileWeb(things) as web, fetcher_for(web.origin) as fetcher:
        assert fetcher(url("start")).data == GOOD
        assert web.hits(name) == 1


MALFORMED = [
    *("", " ", "http", "http:", "http://", "https://", "http:///x", "//", "://", "http://?", "x"),
    *("http://[::1", "http://[", "http://]", "http://[]/", "http://[x]/", "http://[::1]x/"),
    *("javascript:alert(1)", "mailto:a@b", "about:blank", "file:///etc/passwd", "ftp://a/b"),
    *("http://exa mple/", "http://a:99999/", "http://a:-1/", "http://a:b/", "http://:80/"),
    *(f"http://{'a' * 64}.example/", f"http://{'a' * 300}/", "http://a..b/", "http://.a/"),
    *("http://%00/", "http://\x00/", "http://a\x00b/", "http://a%00b/", "http://*/", "http://%/"),
    *("http://xn--/", "http://xn--a/", "http://\ud800/", "http://a/\ud800", "http://\u2100/"),
    *("http://user:pw@/", "http://@/", "http://a@b@c:x/", "http://１２７.0.0.1:x/", "\x85http://"),
]


@pytest.mark.parametrize("address", MALFORMED)
def test_a_malformed_address_is_refused_and_not_tried_again(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with fetcher_for("http://127.0.0.1:9", timeout_s=1.0) as fetcher:
        error = refusal(fetcher, address)
    assert error.reason in (screen.NO_ADDRESS, screen.PRIVATE, screen.NO_CONNECTION)


@pytest.mark.parametrize(
    "location",
    [
        *("http://[::1", "http://[", "http://[x]/", "//[", "http://exa mple/", "http:///x"),
        *("http://a:99999/", "http://a:b/", "javascript:alert(1)", "http://", "//", "\xff\xfe"),
        *(f"http://{'a' * 64}/", "http://\xff/", "http://a\tb/", "http://\u00b2/"),
    ],
)
def test_a_redirect_to_a_malformed_address_is_a_refusal(location: str) -> None:
    with showing(show.redirect(location)) as (_, fetcher):
        error = refusal(fetcher, url())
    # An address without a host leads to the same server.
    same = (screen.REDIRECTS, screen.HTTP_REFUSED)
    assert error.reason in (screen.NO_ADDRESS, screen.NO_CONNECTION, *same)


pieces = st.sampled_from(
    [*"[]:/@%?#\\. \t\n\0", "http:", "//", "127.1", "a", "\ud800", "ß", "xn--", "٣", "９", "。"]
)
addresses = st.one_of(st.text(), st.text().map("http://".__add__), st.lists(pieces).map("".join))


@settings(max_examples=150, deadline=None)
@given(address=addresses)
@example("http://[")
def test_no_address_gets_anything_but_a_refusal(address: str) -> None:
    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with pytest.MonkeyPatch.context() as patch, fetcher_for("http://127.0.0.1:9") as fetcher:
        patch.setattr(socket, "getaddrinfo", no_such_name)
        refusal(fetcher, address)


@settings(max_examples=60, deadline=None)
@given(location=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40))
@example("http://[")
def test_no_location_gets_anything_but_bytes_or_a_refusal(location: str) -> None:
    data = answer(f"Location: {location}", length(0), status="302 Found")
    with pytest.raises(FetchError):
        fetched_from(data)


@pytest.mark.parametrize("chunked", [True, False])
def test_the_body_of_a_redirect_is_not_read(chunked: bool) -> None:
    def behave(visit: Visit) -> None:
        how = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")
        visit.begin(302, [("Location", "/p/1"), how])
        for _ in range(64 << 4):
            visit.write((b"10000\r\n%b\r\n" if chunked else b"%b") % bytes(1 << 16))
        visit.hang_up()

    with showing(behave, PICTURE, timeout_s=5) as (web, fetcher):
        assert fetcher(url()).data == GOOD
        assert web.sent("0") < BUFFERS


def test_a_redirect_whose_body_does_not_come_is_followed_all_the_same() -> None:
    def behave(visit: Visit) -> None:
        visit.begin(302, [("Location", "/p/1"), ("Content-Length", "100")])
        visit.wait(10)

    with showing(behave, PICTURE) as (_, fetcher):
        assert fetcher(url()).data == GOOD


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


def length(value: object) -> str:
    return f"Content-Length: {value}"


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


# X-Robots-Tag -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([""], False),
        (["all"], False),
        (["noai"], True),
        (["noimageai"], True),
        (["NoAI"], True),
        (["noindex"], True),
        (["noimageindex"], True),
        (["none"], True),
        (["nofollow, noarchive"], False),
        (["nofollow, noai"], True),
        (["nofollow,noai"], True),
        (["nofollow", "noai"], True),
        (["noairplanes"], False),
        (["not noai"], False),
        (["otherbot: noai"], False),
        (["otherbot: noai, noindex"], False),
        (["otherbot: noai", "noindex"], True),
        (["otherbot: nofollow, depthgen: noai"], True),
        (["otherbot: noai, depthgen: nofollow"], False),
        (["depthgen: noai"], True),
        (["DepthGen : nofollow , noai"], True),
        (["depthgen: nofollow"], False),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], True),
        (["unavailable_after: Tue, 25 Jun 2030 15:00:00 GMT, noai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
        (["max-snippet:-1, max-image-preview: large, noai"], True),
        (["max-image-preview: none"], False),
        ([",,, ,:,", "::"], False),
    ],
)
def test_opting_out(values: list[str], expected: bool) -> None:
    assert opts_out(values) is expected


def test_who_opts_out_is_heard_unless_told_otherwise() -> None:
    asking = show.robots(GOOD, "otherbot: all", "noai")
    with showing(asking) as (_, fetcher):
        assert refusal(fetcher, url()).reason == screen.OPTED_OUT
    with showing(asking, ignore_opt_out=True) as (_, fetcher):
        assert fetcher(url()).data == GOOD


# Politeness -------------------------------------------------------------------------------------


def test_requests_to_one_host_are_apart_and_two_hosts_do_not_wait_for_each_other() -> None:
    hosts, stop, delay_s = HostDelays(0.1), threading.Event(), 0.1
    passed: dict[str, list[float]] = defaultdict(list)

    def ask(host: str) -> None:
        for _ in range(2):
            hosts.wait(host, stop)
            passed[host].append(time.monotonic())

    threads = [threading.Thread(target=ask, args=(host,)) for host in ("a", "b") * 3]
    begun = time.monotonic()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for host in ("a", "b"):
        times = sorted(passed[host])
        assert times[0] - begun < 0.05
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(gaps) == 5
        # Each wakes a little late, not always as late as the one before.
        assert min(gaps) > delay_s - 0.02
    assert time.monotonic() - begun < 6 * delay_s + 0.2


def test_no_delay_is_none_and_a_stop_ends_it() -> None:
    begun = time.monotonic()
    for _ in range(1000):
        HostDelays(0).wait("a", threading.Event())
    stop = threading.Event()
    stop.set()
    slow = HostDelays(10)
    for _ in range(3):
        slow.wait("a", stop)
    assert time.monotonic() - begun < 0.5
