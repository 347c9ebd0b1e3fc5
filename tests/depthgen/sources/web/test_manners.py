"""Who opts out is heard, and no host is asked faster than it should be."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from itertools import pairwise

import pytest

from depthgen.sources import screen
from depthgen.sources.web.fetch import HostDelays, opts_out
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.fetching import GOOD, refusal, showing, url

pytestmark = pytest.mark.usefixtures("hasty")

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
