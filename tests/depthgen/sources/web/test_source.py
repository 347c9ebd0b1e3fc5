"""Whole searches: icrawler's feeder, our parser, downloader and screening, on a hostile web."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from depthgen.composite import CompositeOptions
from depthgen.composite import run as composite
from depthgen.errors import OptionsError, StageError
from depthgen.prepare.crop import CropOptions
from depthgen.prepare.crop import run as crop
from depthgen.prepare.mask import MaskOptions
from depthgen.prepare.mask import run as mask
from depthgen.sources.crawl import CrawlOptions, options_for, run, run_each
from depthgen.sources.screen import REASONS
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.crawling import cutouts, searching, verdicts
from tests.depthgen.sources.web.hostile import PICTURE_HOST, Exhibit, HostileWeb

if TYPE_CHECKING:
    from collections.abc import Callable

    from depthgen.workspace import Workspace
    from tests.depthgen.sources.web.hostile import Behaviour, Visit

    Lead = Callable[[HostileWeb], None]


def after(first: threading.Event, then: Behaviour) -> Behaviour:
    def behave(visit: Visit) -> None:
        first.wait(10)
        then(visit)

    return behave


def telling(event: threading.Event, then: Behaviour) -> Behaviour:
    def behave(visit: Visit) -> None:
        then(visit)
        event.set()

    return behave


# What stands between a hundred good pictures, how it is refused, and how often each occurs.
GOOD = show.cutout(1000, 96)
HOSTILE: tuple[tuple[str, Behaviour, str, int], ...] = (
    ("gone", show.status(404), "refused by its server", 67),
    ("forbidden", show.status(403), "refused by its server", 40),
    ("down", show.status(500), "server error", 5),
    ("stalls", show.stall(10, show.picture(GOOD)), "timed out", 3),
    ("drips", show.drip(GOOD, 0.3), "timed out", 2),
    ("dropped", show.dropped(GOOD), "broken off", 5),
    ("truncated", show.truncated(GOOD), "damaged", 30),
    ("html.png", show.picture(show.HTML_PAGE), "not a picture", 30),
    ("drawing.svg", show.picture(show.SVG, "image/svg+xml"), "not a picture", 10),
    ("nothing", show.picture(b""), "not a picture", 5),
    ("bomb", show.picture(show.bomb(12_000, 12_000)), "too many pixels", 4),
    ("claim", show.picture(show.claiming(30_000, 30_000)), "too many pixels", 4),
    ("inflating", show.inflating(64 << 20), "too large", 2),
    ("endless", show.endless(), "too large", 2),
    ("checkerboard", show.picture(show.checkerboard(1)), "a painted checkerboard", 20),
    ("icon", show.picture(show.cutout(7, 20)), "too small", 20),
    ("loop", show.redirect_loop(), "too many redirects", 5),
    ("inward", show.redirect("http://127.0.0.1:{port}/secret"), "a private address", 5),
    ("localhost", show.redirect("http://localhost:{port}/secret"), "a private address", 3),
    ("metadata", show.redirect("http://169.254.169.254/latest"), "a private address", 3),
    ("file", show.redirect("file:///etc/passwd"), "not a web address", 2),
    ("noai", show.robots(GOOD, "noai, noimageai"), "opted out", 5),
    ("noindex", show.robots(GOOD, "otherbot: nofollow", "noindex"), "opted out", 2),
)


def test_of_four_hundred_results_exactly_the_hundred_good_ones_are_kept(
    workspace: Workspace, lead_to: Lead
) -> None:
    good = cutouts(85)
    late = [
        Exhibit(f"late{n}", show.at_first(1, show.status(500), each.behaviour))
        for n, each in enumerate(cutouts(10, 200))
    ]
    moved = [
        Exhibit(f"moved{n}", show.redirect_chain(3, each.behaviour))
        for n, each in enumerate(cutouts(5, 300))
    ]
    bad = [
        Exhibit(f"{n}-{name}", behaviour)
        for name, behaviour, _, times in HOSTILE
        for n in range(times)
    ]
    expected = Counter({reason: 0 for _, _, reason, _ in HOSTILE})
    for _, _, reason, times in HOSTILE:
        expected[reason] += times
    opaque = [Exhibit(f"opaque{n}", show.picture(show.opaque(n))) for n in range(20)]
    expected["no transparency"] = len(opaque)
    # A copy would be the one that is kept if it came first.
    original, copies = threading.Event(), []
    good[0] = Exhibit("good0", telling(original, good[0].behaviour))
    for n, (factor, kind) in enumerate([(0.5, "PNG"), (2.0, "WEBP"), (0.75, "PNG"), (1.5, "PNG")]):
        again = show.again(show.cutout(0, 96), factor, kind)
        copies.append(Exhibit(f"again{n}", after(original, show.picture(again))))
    copies += [
        Exhibit(f"copy{n}", after(original, show.picture(show.cutout(0, 96)))) for n in (0, 1)
    ]
    expected |= {"near-duplicate": 4, "duplicate": 2}
    others = [*late, *moved, *bad, *opaque, *copies]
    # The good ones are spread among the others.
    results = [each for row in zip(good, others[: len(good)], strict=True) for each in row]
    results += others[len(good) :]
    assert len(results) == 400
    with HostileWeb(results) as web:
        lead_to(web)
        options = searching(max_bytes=8 << 20, retries=1, timeout_s=1.0, count=140)
        with pytest.raises(StageError, match="gave 100 cut-outs of the 140 asked for"):
            run(workspace, options)
        secrets = web.hits("/secret")
        hits = {each.name: web.hits(each.name) for each in results}
    seen = verdicts(workspace)
    kept = {name for name, each in seen.items() if each.verdict == "kept"}
    assert kept == {each.name for each in (*good, *late, *moved)}
    assert len(seen) == len(results)
    assert Counter(each.reason for each in seen.values() if each.reason) == +expected
    assert set(expected) <= set(REASONS)
    assert secrets == 0
    assert all(hits[name] == 1 for name in kept if name.startswith("good"))
    stored = {path.name: path.read_bytes() for path in workspace.sources("fg").iterdir()}
    assert sorted(stored) == sorted(f"fg_{n:03d}.png" for n in range(100))
    assert set(stored.values()) >= {show.cutout(seed, 96) for seed in range(85)}
    line = seen["good3"]
    assert line.page_url == f"{PICTURE_HOST}/page/good3"
    assert (line.title, line.keyword, line.source) == ("A good3 & more", "cat", "bing")
    assert (line.http_status, line.width, line.height) == (200, 96, 96)
    assert len(line.phash) == 64
    assert seen["0-gone"].http_status == 404
    assert seen["again0"].duplicate_of == seen["good0"].file


@pytest.mark.parametrize("keyword", ["cat & dog", "chat noir", "猫", 'the "real" one', "100 % {x}"])
def test_the_server_receives_a_keyword_whole(
    workspace: Workspace, lead_to: Lead, keyword: str
) -> None:
    with HostileWeb([], by_keyword={keyword: cutouts(1)}) as web:
        lead_to(web)
        run(workspace, searching(keywords=(keyword,), count=1))
        assert web.keywords == {keyword}
    assert verdicts(workspace)["good0"].keyword == keyword


def test_a_page_that_takes_eight_seconds_loses_nothing(workspace: Workspace, lead_to: Lead) -> None:
    def slow(page: Behaviour) -> Behaviour:
        return show.at_first(1, show.stall(8, page), page)

    with HostileWeb(cutouts(30), page_size=20, pages=slow) as web:
        lead_to(web)
        summary = run(workspace, searching(count=30, timeout_s=2.0))
    assert (summary.counts["added"], summary.counts["total"]) == (30, 30)


@pytest.mark.parametrize(
    "behaviour",
    [
        show.stall(60, show.picture(GOOD)),
        show.drip(GOOD, 0.5),
        show.status(503, headers=[("Retry-After", "20")]),
    ],
    ids=["stall", "drip", "not now"],
)
def test_a_crawl_ends_within_its_deadline_and_says_so(
    workspace: Workspace, lead_to: Lead, behaviour: Behaviour
) -> None:
    results = [*cutouts(3), *(Exhibit(f"bad{n}", behaviour) for n in range(12))]
    with HostileWeb(results) as web:
        lead_to(web)
        began = time.monotonic()
        options = searching(count=10, deadline_s=5.0, timeout_s=30.0)
        with pytest.raises(StageError, match="the deadline came first") as raised:
            run(workspace, options)
        assert time.monotonic() - began < 5.0
    assert "gave 3 cut-outs of the 10" in str(raised.value)
    assert "type the same command again" in str(raised.value)


def test_a_deadline_holds_while_no_page_answers(workspace: Workspace, lead_to: Lead) -> None:
    with HostileWeb(cutouts(3), pages=lambda page: show.stall(60, page)) as web:
        lead_to(web)
        began = time.monotonic()
        with pytest.raises(StageError, match="the deadline came first"):
            run(workspace, searching(count=3, deadline_s=3.0))
        # A page takes a minute; the half second is a busy machine's.
        assert time.monotonic() - began < 3.5


def test_fewer_than_asked_for_is_one_sentence_with_the_counts_by_reason(
    workspace: Workspace, lead_to: Lead
) -> None:
    bad = [Exhibit(f"opaque{n}", show.picture(show.opaque(n))) for n in range(8)]
    bad += [Exhibit(f"gone{n}", show.status(404)) for n in range(7)]
    bad += [Exhibit("down", show.status(503))]
    with HostileWeb([*cutouts(60), *bad]) as web:
        lead_to(web)
        with pytest.raises(StageError) as raised:
            run(workspace, searching(count=100, retries=0))
        pages = [each for each in web.requests if each.keyword]
    sentence = str(raised.value)
    assert "bing gave 60 cut-outs of the 100 asked for" in sentence
    assert "7 refused by its server" in sentence
    assert "8 no transparency" in sentence
    assert "failed: 1 server error" in sentence
    assert "--keyword" in sentence
    assert "--count 60" in sentence
    assert "\n" not in sentence
    assert len(list(workspace.sources("fg").iterdir())) == 60
    # A page without news ends a search: not all of Bing's fifty are asked for.
    assert len(pages) < 15


def test_each_keyword_has_its_share(workspace: Workspace, lead_to: Lead) -> None:
    all_found = threading.Event()  # which page comes first is for the machine to say
    words = {
        word: [replace(each, behaviour=after(all_found, each.behaviour)) for each in found]
        for at, word in enumerate(("cat", "dog", "bear"))
        for found in [cutouts(30, 100 * at)]
    }
    found = set()

    def counted(ordinary: Behaviour) -> Behaviour:
        def behave(visit: Visit) -> None:
            ordinary(visit)
            found.add(visit.query["q"])
            if len(found) == len(words):
                all_found.set()

        return behave

    with HostileWeb([], by_keyword=words, pages=counted) as web:
        lead_to(web)
        run(workspace, searching(keywords=tuple(words), count=18, threads=4, timeout_s=20.0))
    shares = Counter(each.keyword for each in verdicts(workspace).values())
    assert shares.total() == 18
    assert min(shares[word] for word in words) >= 4


def test_without_a_network_there_is_one_sentence_with_another_way(
    workspace: Workspace, lead_to: Lead
) -> None:
    with HostileWeb([]) as web:
        lead_to(web)
    options = options_for(None, {"retries": 0, "per_host_delay_s": 0.0})
    assert [(each.kind, each.wanted) for each in options] == [("fg", 100), ("bg", 100)]
    with pytest.raises(StageError, match="no page of results from bing could be loaded") as raised:
        list(run_each(workspace, options))
    assert "no connection" in str(raised.value)
    assert "--source folder" in str(raised.value)
    assert "`depthgen render`" in str(raised.value)


@pytest.mark.parametrize(
    ("page", "words"),
    [(show.picture(show.CAPTCHA), "captcha"), (show.status(429), "server error with status 429")],
    ids=["captcha", "429"],
)
def test_a_search_that_refuses_us_is_named(
    workspace: Workspace, lead_to: Lead, page: Behaviour, words: str
) -> None:
    with HostileWeb(cutouts(3), pages=lambda _: page) as web:
        lead_to(web)
        with pytest.raises(StageError, match=words):
            run(workspace, searching(retries=0))
        assert len(web.requests) <= 8


def test_pages_that_fail_between_good_ones_lose_only_themselves(
    workspace: Workspace, lead_to: Lead
) -> None:
    # Bing counts from 1: this page names the 20th to the 38th.
    def failing(page: Behaviour) -> Behaviour:
        return lambda visit: (
            show.status(500)(visit) if visit.query["first"] == "20" else page(visit)
        )

    with HostileWeb(cutouts(50), page_size=20, pages=failing) as web:
        lead_to(web)
        with pytest.raises(StageError, match="gave 31 cut-outs"):
            run(workspace, searching(count=50, retries=0))


def test_what_is_kept_goes_through_mask_crop_and_composite(
    workspace: Workspace, lead_to: Lead
) -> None:
    scenes = [Exhibit(f"room{n}", show.picture(show.background(n), "image/jpeg")) for n in range(4)]
    with HostileWeb([], by_keyword={"cat": cutouts(5), "room": scenes}) as web:
        lead_to(web)
        run(workspace, searching(count=5))
        run(workspace, searching("bg", keywords=("room",), count=4))
    mask(workspace, MaskOptions(workers=1))
    crop(workspace, CropOptions(size=64, workers=1))
    made = composite(workspace, CompositeOptions(placements=1, workers=1))
    assert made.counts["samples"] == 5 * 4 * 2


def test_a_licence_that_an_engine_cannot_filter_by_is_refused(workspace: Workspace) -> None:
    with pytest.raises(OptionsError, match="baidu has no licence filter"):
        run(workspace, CrawlOptions("baidu", license="commercial"))
    with pytest.raises(OptionsError, match="--license creativecommons or"):
        run(workspace, CrawlOptions("bing", license="mine"))


def test_a_licence_filter_is_asked_for_and_written_down(
    workspace: Workspace, lead_to: Lead
) -> None:
    with HostileWeb(cutouts(2)) as web:
        lead_to(web)
        run(workspace, searching(count=2, license="publicdomain"))
        assert all("license-L1" in each.path for each in web.requests if each.keyword)
        assert {each.user_agent.split("/")[0] for each in web.requests} == {"Mozilla"}
        assert all("depthgen" in each.user_agent for each in web.requests)
    assert {each.license for each in verdicts(workspace).values()} == {"publicdomain"}
