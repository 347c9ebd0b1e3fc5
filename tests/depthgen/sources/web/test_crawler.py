"""Whole runs of the crawler: each address has its verdict, and nothing holds it up for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest

from depthgen.sources import screen
from depthgen.sources.web import crawler as crawler_module
from depthgen.sources.web import pools
from depthgen.sources.web.crawler import Job, WebCrawler
from depthgen.sources.web.pools import FairQueue, Task
from depthgen.sources.web.search import Found, PageError, Search
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.crawling import TIMEOUT_S, crawl, job, showing, task
from tests.depthgen.sources.web.hostile import PICTURE_HOST, Exhibit, HostileWeb
from tests.depthgen.sources.web.raw import RawServer, dripping_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthgen.sources.candidate import Judged
    from tests.depthgen.sources.web.hostile import Behaviour

    Lead = Callable[[HostileWeb], None]

GOOD = show.cutout(0, 64)


def workers(crawler: WebCrawler) -> list[threading.Thread]:
    return [*crawler.feeder.workers, *crawler.parser.workers, *crawler.downloader.workers]


# Whole crawls of lists --------------------------------------------------------------------------


def test_every_address_of_a_list_has_one_verdict(lead_to: Lead) -> None:
    behaviours = [
        show.picture(show.cutout(n, 64)) if n % 3 else show.status(404) for n in range(60)
    ]
    with HostileWeb(showing(*behaviours)) as web:
        lead_to(web)
        ending, verdicts, crawler = crawl(job([task(each.url) for each in showing(*behaviours)]))
    assert ending == "exhausted"
    assert Counter(verdicts.values()) == {"": 40, screen.HTTP_REFUSED: 20}
    assert not any(each.is_alive() for each in crawler.downloader.workers)


@pytest.mark.parametrize("threads", [1, 16])
def test_no_more_is_fetched_than_is_wanted_and_refusals_make_room(
    lead_to: Lead, threads: int
) -> None:
    behaviours = [show.picture(GOOD) if n % 4 == 3 else show.status(404) for n in range(80)]
    things = showing(*behaviours)
    with HostileWeb(things) as web:
        lead_to(web)
        ending, verdicts, _ = crawl(
            job([task(each.url) for each in things], wanted=5, threads=threads)
        )
        good = [each for n, each in enumerate(things) if n % 4 == 3]
        assert sum(web.hits(each.name) for each in good) == 5
    assert ending == "enough"
    assert Counter(verdicts.values())[""] == 5


@pytest.mark.parametrize("threads", [1, 4])
def test_a_list_that_ends_before_there_are_enough_ends_the_crawl(
    lead_to: Lead, threads: int
) -> None:
    things = showing(*[show.picture(GOOD)] * 3, *[show.status(404)] * 20)
    with HostileWeb(things) as web:
        lead_to(web)
        wanted = job([task(each.url) for each in things], wanted=4, threads=threads)
        ending, verdicts, _ = crawl(wanted)
    assert (ending, len(verdicts)) == ("exhausted", 23)


def test_nothing_that_came_in_is_dropped_while_more_is_wanted(
    lead_to: Lead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_SLOW_S", 0.3)
    # The first two lend their permits to the others, of which the last comes behind them.
    slow = show.stall(0.6, show.status(404))
    late = show.stall(0.6, show.picture(show.cutout(1, 64)))
    things = showing(slow, slow, show.picture(GOOD), late)
    busy = iter([True])

    def take(judged: Judged) -> bool:
        if next(busy, False):  # the disk is slow: all others come in meanwhile
            time.sleep(1.2)
        return not judged.verdict.reason

    with HostileWeb(things) as web:
        lead_to(web)
        wanted = job([task(each.url) for each in things], wanted=2, rules={"timeout_s": 5})
        ending, verdicts, _ = crawl(wanted, take)
    assert (ending, Counter(verdicts.values())[""]) == ("enough", 2)


def test_an_empty_list_ends_the_crawl() -> None:
    assert crawl(job())[0] == "exhausted"


def test_headers_that_never_end_are_given_up_and_the_others_come_in(lead_to: Lead) -> None:
    things = showing(*[show.picture(GOOD)] * 12)
    with HostileWeb(things) as web, RawServer(dripping_headers(0.05)) as server:
        lead_to(web)
        held = [f"{server.origin}/{n}" for n in range(6)]
        # As many as there are threads come first: without fresh threads nothing else would come.
        tasks = [task(each) for each in (*held, *(thing.url for thing in things))]
        begun = time.monotonic()
        ending, verdicts, _ = crawl(job(tasks, rules={"allow_private": True}))
    assert ending == "exhausted"
    assert time.monotonic() - begun < 6 * 3 * TIMEOUT_S
    assert {each: verdicts.pop(each) for each in held} == dict.fromkeys(held, screen.TIMED_OUT)
    assert verdicts == {each.url: "" for each in things}


def test_a_thread_that_was_given_up_is_not_heard_when_it_comes_back(lead_to: Lead) -> None:
    slow = threading.Event()

    def behave(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 404 Gone\r\nX-Drip: ")
        while not slow.is_set():
            connection.send(b"a")
            connection.wait(0.05)
        connection.send(b"\r\nContent-Length: 0\r\n\r\n")

    last = showing(show.stall(3 * TIMEOUT_S, show.picture(GOOD)))[0]
    with HostileWeb([last]) as web, RawServer(behave) as server:
        lead_to(web)
        seen: list[str] = []

        def take(judged: Judged) -> bool:
            seen.append(judged.verdict.reason)
            slow.set()
            return False

        rules = {"allow_private": True, "retries": 0}
        _, verdicts, _ = crawl(job([task(f"{server.origin}/x")], rules=rules, threads=1), take)
    assert verdicts == {f"{server.origin}/x": screen.TIMED_OUT}


def test_the_deadline_ends_a_crawl_that_a_server_holds_up(lead_to: Lead) -> None:
    things = showing(*[show.stall(10, show.picture(GOOD))] * 8)
    with HostileWeb(things) as web:
        lead_to(web)
        begun = time.monotonic()
        tasks = [task(each.url) for each in things]
        ending, _, _ = crawl(job(tasks, until=begun + 0.5, rules={"timeout_s": 5}))
        assert ending == "deadline"
        # Threads that compute are given half a second to part.
        assert time.monotonic() - begun < 1.5


def test_nobody_is_asked_in_haste_when_all_is_over(lead_to: Lead) -> None:
    things = showing(*[show.picture(GOOD)] * 8)
    with HostileWeb(things) as web:
        lead_to(web)
        until = time.monotonic() + 0.4
        tasks = [task(each.url) for each in things]
        _, _, crawler = crawl(job(tasks, until=until, per_host_delay_s=5.0, threads=8))
        for each in workers(crawler):
            each.join(5)
        assert len(web.requests) == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError(), RecursionError()])
def test_an_error_in_a_thread_reaches_the_caller(
    lead_to: Lead, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def look(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(pools, "screen", look)
    things = showing(*[show.picture(GOOD)] * 3)
    with HostileWeb(things) as web:
        lead_to(web)
        with pytest.raises(type(error)):
            crawl(job([task(each.url) for each in things]))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_an_error_of_the_caller_ends_all_threads(lead_to: Lead, error: BaseException) -> None:
    things = showing(*[show.picture(GOOD)] * 50)
    with HostileWeb(things) as web:
        lead_to(web)
        crawler = WebCrawler(job([task(each.url) for each in things]))

        def take(_: Sequence[Judged]) -> list[bool]:
            raise error

        with pytest.raises(type(error)):
            crawler.crawl(take)
        for each in workers(crawler):
            each.join(5)
            assert not each.is_alive()


def test_what_comes_in_waits_for_the_one_who_takes_it(lead_to: Lead) -> None:
    things = showing(*[show.picture(GOOD)] * 400)
    with HostileWeb(things) as web:
        lead_to(web)
        begun = False

        def take(_: Judged) -> bool:
            nonlocal begun
            if not begun:
                begun = True
                time.sleep(1.0)
                # Each may be of 32 MiB, and a disk may be slower than the net.
                assert len(web.requests) < 200
            return True

        crawl(job([task(each.url) for each in things]), take)


def test_large_pictures_come_in_small_batches(
    lead_to: Lead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawler_module, "_BATCH_BYTES", 2 * len(GOOD))
    things = showing(*[show.picture(GOOD)] * 30)
    with HostileWeb(things) as web:
        lead_to(web)
        sizes = []
        for batch in WebCrawler(job([task(each.url) for each in things])).batches():
            sizes.append(len(batch))
            time.sleep(0.05)  # the next ones come in meanwhile
    assert sum(sizes) == 30
    assert max(sizes) == 2


def test_a_task_that_comes_with_the_last_moment_is_not_lost(lead_to: Lead) -> None:
    things = showing(show.picture(GOOD))
    with HostileWeb(things) as web:
        lead_to(web)
        crawler = WebCrawler(job(threads=1))

        class Late(FairQueue):
            """Nothing is there; and just after, the last task comes, and its feeder has ended."""

            late = True

            def get(self, block: bool = True, timeout: float | None = None) -> Task:
                if self.late:
                    self.late = False
                    self.put(task(things[0].url))
                    crawler.signal.set(feeder_exited=True, parser_exited=True)
                    raise Empty
                return super().get(block, timeout)

        crawler.downloader.in_queue = Late()
        verdicts = []
        for batch in crawler.batches():
            verdicts += [judged.verdict.reason for judged in batch]
    assert verdicts == [""]


def test_dead_hosts_at_the_top_of_a_list_are_not_the_lack_of_a_network(lead_to: Lead) -> None:
    things = showing(*[show.picture(GOOD)] * 5)
    dead = [f"http://127.0.0.1:9/{n}" for n in range(60)]
    with HostileWeb(things) as web:
        lead_to(web)
        tasks = [task(each) for each in (*dead, *(thing.url for thing in things))]
        ending, verdicts, _ = crawl(job(tasks, rules={"allow_private": True}))
    assert ending == "exhausted"
    assert Counter(verdicts.values()) == {"": 5, screen.NO_CONNECTION: 60}


def test_twenty_hosts_without_a_connection_are_the_lack_of_a_network() -> None:
    tasks = [task(f"http://127.0.1.{n}:9/") for n in range(250)]
    ending, verdicts, _ = crawl(job(tasks, rules={"allow_private": True}))
    assert ending == "no network"
    assert 20 <= len(verdicts) < 250


# Searches ---------------------------------------------------------------------------------------


class Engine:
    """So many pages a search, each with pictures of its own, all of `PICTURE_HOST`."""

    name, licenses = "bing", ()

    def __init__(self, addresses: list[str], parse: Callable[[bytes], list[Found]]) -> None:
        self._addresses, self._parse = addresses, parse

    def pages(self, _: Search) -> list[str]:
        return self._addresses

    def parse(self, content: bytes) -> list[Found]:
        return self._parse(content)


def links(content: bytes) -> list[Found]:
    if content == b"captcha":
        raise PageError("a captcha")
    return [Found(each) for each in content.decode().split()]


def searching(pages: Sequence[Behaviour], parse: Callable[[bytes], list[Found]] = links) -> Job:
    addresses = [f"{PICTURE_HOST}/p/page{n}" for n in range(len(pages))]
    return job(engine=Engine(addresses, parse), searches=[Search("fg", "cat")])


def naming(numbers: range) -> Behaviour:
    names = "\n".join(f"{PICTURE_HOST}/p/{n}" for n in numbers)
    return show.picture(names.encode(), "text/html")


def served(pages: Sequence[Behaviour], pictures: int) -> list[Exhibit]:
    return [
        *(Exhibit(f"page{n}", each) for n, each in enumerate(pages)),
        *showing(*[show.picture(GOOD)] * pictures),
    ]


def test_a_slow_page_between_fast_ones_that_overlap_does_not_end_the_search(lead_to: Lead) -> None:
    pages = [naming(range(20 * n, 20 * n + 40)) for n in range(12)]
    pages[1] = show.stall(0.5, pages[1])
    # What comes after is asked for when the slow one has come.
    pages[4:] = [show.stall(0.4, each) for each in pages[4:]]
    with HostileWeb(served(pages, 260)) as web:
        lead_to(web)
        ending, verdicts, _ = crawl(searching(pages))
    assert (ending, len(verdicts)) == ("exhausted", 260)


def test_an_error_of_the_engine_reaches_the_caller(lead_to: Lead) -> None:
    def parse(_: bytes) -> list[Found]:
        raise RuntimeError("a bug")

    pages = [naming(range(3))]
    with HostileWeb(served(pages, 3)) as web:
        lead_to(web)
        with pytest.raises(RuntimeError, match="a bug"):
            crawl(searching(pages, parse))


def test_an_error_of_the_feeder_reaches_the_caller() -> None:
    class Broken(Engine):
        def pages(self, _: Search) -> list[str]:
            raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")

    broken = job(engine=Broken([], links), searches=[Search("fg", "\udcff")])
    with pytest.raises(UnicodeEncodeError):
        crawl(broken)


def test_captchas_end_the_search_and_are_told_of(lead_to: Lead) -> None:
    pages = [show.picture(b"captcha", "text/html")] * 20
    with HostileWeb(served(pages, 0)) as web:
        lead_to(web)
        ending, verdicts, crawler = crawl(searching(pages))
        # Those under way when it was noticed come on top.
        assert len(web.requests) <= 3 + 4
    assert (ending, verdicts) == ("exhausted", {})
    assert crawler.ledger.unreachable
    assert set(crawler.ledger.trouble) == {"a captcha"}


def test_what_is_settled_is_not_asked_for(lead_to: Lead) -> None:
    pages = [naming(range(6)), naming(range(0))]
    settled = {f"{PICTURE_HOST}/p/{n}": "" if n % 2 else screen.TOO_SMALL for n in range(4)}
    with HostileWeb(served(pages, 6)) as web:
        lead_to(web)
        base = searching(pages)
        crawler_job = Job(**{**vars(base), "settled": settled.get})
        _, verdicts, crawler = crawl(crawler_job)
        assert [web.hits(str(n)) for n in range(6)] == [0, 0, 0, 0, 1, 1]
    assert set(verdicts) == {f"{PICTURE_HOST}/p/{n}" for n in (4, 5)}
    assert crawler.storage.before == {screen.TOO_SMALL: 2, "": 2}
