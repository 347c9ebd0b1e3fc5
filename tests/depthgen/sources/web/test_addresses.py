"""Addresses that are none, and redirects: those that lead there and those that do not."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from depthgen.sources import screen
from depthgen.sources.web.fetch import Fetched, FetchError
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.fetching import (
    BUFFERS,
    GOOD,
    PICTURE,
    answer,
    fetched_from,
    fetcher_for,
    length,
    refusal,
    showing,
    url,
)
from tests.depthgen.sources.web.hostile import Exhibit, HostileWeb

if TYPE_CHECKING:
    from tests.depthgen.sources.web.hostile import Visit

pytestmark = pytest.mark.usefixtures("hasty")


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


@settings(max_examples=150)
@given(address=addresses)
@example("http://[")
def test_no_address_gets_anything_but_a_refusal(address: str) -> None:
    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with pytest.MonkeyPatch.context() as patch, fetcher_for("http://127.0.0.1:9") as fetcher:
        patch.setattr(socket, "getaddrinfo", no_such_name)
        refusal(fetcher, address)


@settings(max_examples=60)
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
