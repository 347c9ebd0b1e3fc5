"""What the threads of a crawl hand to each other: the queue, the ledger and the storage."""

from __future__ import annotations

import threading
from collections import Counter
from queue import Empty, Full

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthgen.sources import screen
from depthgen.sources.candidate import Candidate, Judged
from depthgen.sources.screen import Verdict
from depthgen.sources.web import pools
from depthgen.sources.web.ledger import Ledger
from depthgen.sources.web.pools import FairQueue, Storage
from depthgen.sources.web.search import Found, Search
from tests.depthgen.sources.web.crawling import task

LISTED = Search("fg", "")

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
