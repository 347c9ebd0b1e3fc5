"""The threads of a crawl: what they hand to each other, and that nothing holds them up for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter
from queue import Empty, Full
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthgen.sources import screen
from depthgen.sources.candidate import Candidate, Judged
from depthgen.sources.screen import Limits, Verdict
from depthgen.sources.web import crawler as crawler_module
from depthgen.sources.web import pools
from depthgen.sources.web.crawler import Job, WebCrawler
from depthgen.sources.web.fetch import Rules
from depthgen.sources.web.ledger import Ledger
from depthgen.sources.web.pools import FairQueue, Storage, Task
from depthgen.sources.web.search import Found, PageError, Search
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.hostile import PICTURE_HOST, Exhibit, HostileWeb
from tests.depthgen.sources.web.raw import RawServer, dripping_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthgen.sources.web.crawler import Ending
    from tests.depthgen.sources.web.hostile import Behaviour

    Lead = Callable[[HostileWeb], None]

LISTED = Search("fg", "")
GOOD = show.cutout(0, 64)
TIMEOUT_S = 0.3


def task(address: str, keyword: str = "") -> Task:
    return Task(Found(address), Search("fg", keyword))


def job(tasks: Sequence[Task] = (), **values: Any) -> Job:
    """A list of addresses, by a few threads that do not wait long."""
    rules = Rules(**{"timeout_s": TIMEOUT_S, "retries": 0, **values.pop("rules", {})})
    given = {"threads": 4, "until": time.monotonic() + 20, "settled": lambda _: None, **values}
    return Job("fg", "urls", Limits(), rules, tasks=tasks, **given)


def crawl(
    job: Job, take: Callable[[Judged], bool] = lambda judged: not judged.verdict.reason
) -> tuple[Ending, dict[str, str], WebCrawler]:
    """How it ended, and the verdict about each address; fails where one has two."""
    verdicts: dict[str, str] = {}

    def note(batch: Sequence[Judged]) -> list[bool]:
        for judged in batch:
            assert judged.candidate.origin not in verdicts
            verdicts[judged.candidate.origin] = judged.verdict.reason
        return [take(judged) for judged in batch]

    crawler = WebCrawler(job)
    return crawler.crawl(note), verdicts, crawler


def showing(*behaviours: Behaviour) -> list[Exhibit]:
    return [Exhibit(str(index), each) for index, each in enumerate(behaviours)]


def workers(crawler: WebCrawler) -> list[threading.Thread]:
    return [*crawler.feeder.workers, *crawler.parser.workers, *crawler.downloader.workers]


# The queue --------------------------------------------------------------------------------------


@given(words=st.lists(st.sampled_from("abcd"), max_size=60))
def test_each_keyword_has_its_turn_while_it_has_tasks_and_nothing_is_lost(
    words: list[str],
) -> None:
    queue = FairQueue()
    for number, word in enumerate(words):
        queue.put(task(str(number), word))
    left, given, out = Counter(words), Counter(dict.fromkeys(words, 0)), []
    while not queue.empty():
        if all(left.values()):
            assert max(given.values()) - min(given.values()) <= 1
        out.append(queue.get_nowait())
        given[out[-1].search.keyword] += 1
        left[out[-1].search.keyword] -= 1
    assert Counter(out) == Counter(task(str(n), word) for n, word in enumerate(words))
    for word in set(words):  # first in, first out
        mine = [int(each.found.url) for each in out if each.search.keyword == word]
        assert mine == sorted(mine)


@given(steps=st.lists(st.one_of(st.none(), st.sampled_from("abc")), max_size=80))
def test_the_queue_is_never_wrong_about_its_length(steps: list[str | None]) -> None:
    queue, inside = FairQueue(), 0
    for number, step in enumerate(steps):
        if step is not None:
            queue.put(task(str(number), step))
            inside += 1
        elif inside:
            queue.get_nowait()
            inside -= 1
        else:
            with pytest.raises(Empty):
                queue.get_nowait()
        assert queue.qsize() == inside


def test_a_task_comes_to_one_of_many_threads() -> None:
    queue, got, tasks = FairQueue(), [], [task(str(n), "abc"[n % 3]) for n in range(300)]

    def take() -> None:
        while True:
            try:
                got.append(queue.get(timeout=0.2))
            except Empty:
                return

    threads = [threading.Thread(target=take) for _ in range(8)]
    for each in threads:
        each.start()
    for one in tasks:
        queue.put(one)
    for each in threads:
        each.join()
    assert Counter(got) == Counter(tasks)


# The ledger -------------------------------------------------------------------------------------


def found(*numbers: int) -> list[Found]:
    return [Found(f"http://a/{each}") for each in numbers]


def test_each_address_is_handed_out_once_over_all_threads_and_searches() -> None:
    ledger, handed, start = Ledger(), [], threading.Barrier(8)

    def read(keyword: str) -> None:
        start.wait()
        for page in range(50):
            numbers = range(20 * page, 20 * page + 35)
            handed.extend(ledger.page_loaded(Search("fg", keyword), found(*numbers)))

    threads = [threading.Thread(target=read, args=("ab"[n % 2],)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert Counter(handed) == Counter(found(*range(1015)))
    assert (ledger.handed_out, ledger.loaded) == (1015, 400)


def test_a_page_that_names_an_address_twice_hands_it_out_once() -> None:
    assert Ledger().page_loaded(LISTED, found(1, 1, 2)) == found(1, 2)


def test_two_failed_pages_in_a_row_end_a_search_and_no_other() -> None:
    ledger, one, other = Ledger(), Search("fg", "a"), Search("fg", "b")
    ledger.page_loaded(other, found(1))
    for problem, over in (("x", False), ("y", True)):
        ledger.page_failed(one, problem)
        assert ledger.is_over(one) is over
    assert not ledger.is_over(other)
    assert ledger.trouble == {"x": 1, "y": 1}
    assert not ledger.unreachable


def test_a_page_that_loads_forgives_the_one_before() -> None:
    ledger = Ledger()
    for start in range(0, 10, 2):
        ledger.page_loaded(LISTED, found(start, start + 1))
        ledger.page_failed(LISTED, "x")
        assert not ledger.is_over(LISTED)


def test_three_failed_pages_before_any_has_loaded_end_all() -> None:
    ledger = Ledger()
    searches = [Search("fg", word) for word in "abcd"]
    for search in searches[:3]:
        assert not ledger.is_over(searches[3])
        ledger.page_failed(search, "x")
    assert ledger.is_over(searches[3])
    assert ledger.unreachable


@pytest.mark.parametrize("page", [[], found(1), found(2, 1)])
def test_a_page_without_news_ends_its_search(page: list[Found]) -> None:
    ledger, other = Ledger(), Search("fg", "other")
    ledger.page_loaded(LISTED, found(1, 2, 3))
    assert not ledger.is_over(LISTED)
    assert ledger.page_loaded(LISTED, page) == []
    assert ledger.is_over(LISTED)
    assert not ledger.is_over(other)


def test_what_another_search_has_named_is_news_to_this_one() -> None:
    ledger, other = Ledger(), Search("fg", "other")
    ledger.page_loaded(other, found(1, 2))
    assert ledger.page_loaded(LISTED, found(1, 2)) == []
    assert not ledger.is_over(LISTED)


def test_the_storage_counts_what_was_decided_before_and_hands_on_what_comes() -> None:
    settled = {"new": None, "kept": "", "refused": screen.TOO_SMALL}
    storage = Storage(settled.__getitem__, 2, threading.Event())
    assert [storage.exists(each) for each in ("new", "kept", "refused")] == [False, True, True]
    assert storage.before == {screen.TOO_SMALL: 1, "": 1}
    error = ValueError()
    storage.write("", error)
    assert storage.arrivals.get_nowait() is error


def test_a_full_storage_holds_a_thread_up_until_there_is_room_or_all_is_over() -> None:
    stop = threading.Event()
    storage = Storage(lambda _: None, 1, stop)

    def write() -> None:
        for _ in range(3):
            storage.write("", OSError())

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    storage.arrivals.get(timeout=1)
    thread.join(0.2)
    assert thread.is_alive()
    stop.set()
    thread.join(1)
    assert not thread.is_alive()


def picture_of(nbytes: int) -> Judged:
    candidate = Candidate(origin="", name="", read=bytes, source="urls")
    return Judged(candidate, bytes(nbytes), Verdict())


@pytest.mark.parametrize(("nbytes", "fit"), [(1000, 1), (999, 2), (400, 3), (1, 8), (0, 8)])
def test_large_pictures_fill_the_storage_before_there_are_many(
    monkeypatch: pytest.MonkeyPatch, nbytes: int, fit: int
) -> None:
    monkeypatch.setattr(pools, "_WAITING_BYTES", 1000)
    arrivals = Storage(lambda _: None, 8, threading.Event()).arrivals
    picture = picture_of(nbytes)
    for _ in range(2):  # what was taken makes room
        for _ in range(fit):
            arrivals.put_nowait(picture)
        with pytest.raises(Full):
            arrivals.put_nowait(picture)
        for _ in range(fit):
            assert arrivals.get_nowait() is picture
        with pytest.raises(Empty):
            arrivals.get_nowait()


def test_a_picture_larger_than_all_that_may_wait_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_WAITING_BYTES", 1000)
    arrivals = Storage(lambda _: None, 8, threading.Event()).arrivals
    arrivals.put_nowait(picture_of(5000))
    with pytest.raises(Full):
        arrivals.put_nowait(picture_of(1))


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
