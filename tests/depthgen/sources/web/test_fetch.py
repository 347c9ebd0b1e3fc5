"""One address at a time: each way to fail, trying again, and the seconds it may take."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from depthgen.sources import screen
from depthgen.sources.web import fetch
from depthgen.sources.web.fetch import Fetched, FetchError, HostDelays
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.fetching import (
    GOOD,
    PICTURE,
    TIMEOUT_S,
    fetcher_for,
    refusal,
    showing,
    url,
)

if TYPE_CHECKING:
    from tests.depthgen.sources.web.hostile import Behaviour, Visit

pytestmark = pytest.mark.usefixtures("hasty")

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
