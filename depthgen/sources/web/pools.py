"""icrawler's three pools of threads, with our own work in them: feeder, parser, downloader.

What is ours, and why: pages are fed for all keywords in turn; a page may take its time, and its
status and size are looked at; a downloader ends when no page is left to come, not when it was idle;
an error in a thread reaches the one who started it. The one rule: a thread never waits without
looking at `stop` now and then.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from math import ceil
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any

from icrawler import Downloader, Feeder, Parser
from icrawler.storage import BaseStorage
from icrawler.utils.thread_pool import Worker

from depthgen.sources.candidate import Candidate, Judged
from depthgen.sources.screen import TIMED_OUT, Limits, Verdict, screen
from depthgen.sources.web.fetch import FetchError
from depthgen.sources.web.search import Found, PageError, Search

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthgen.sources.web.fetch import Fetcher
    from depthgen.sources.web.ledger import Ledger
    from depthgen.sources.web.permits import Permits
    from depthgen.sources.web.search import Engine
    from depthgen.workspace import Kind

_TICK_S = 0.1
# A server may use a timeout's time for each of its packets; one that takes this many is given up.
_PATIENCE = 3
# After this long, another picture is tried beside the one that is under way.
_SLOW_S = 2.0
# Pictures of so many bytes wait to be taken.
_WAITING_BYTES = 64 << 20


@dataclass(frozen=True)
class Task:
    """A picture to download, and the search that found it; that of a list has no keyword."""

    found: Found
    search: Search


class FairQueue(Queue[Task]):
    """Gives out the tasks of all keywords in turn, so that the first one does not fill the set."""

    def _init(self, maxsize: int) -> None:
        self._waiting: dict[str, deque[Task]] = {}
        self._given: Counter[str] = Counter()

    def _qsize(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _put(self, item: Task) -> None:
        self._waiting.setdefault(item.search.keyword, deque()).append(item)

    def _get(self) -> Task:
        waiting = [keyword for keyword, tasks in self._waiting.items() if tasks]
        keyword = min(waiting, key=self._given.__getitem__)
        self._given[keyword] += 1
        return self._waiting[keyword].popleft()


class Arrivals(Queue[Judged | Exception]):
    """Pictures on their way to the one thread that takes them, and what a thread has died of.

    No more are let in while `most` wait, or 64 MiB of them; the last one may exceed that.
    """

    def __init__(self, most: int) -> None:
        self._least = ceil(_WAITING_BYTES / most)
        super().__init__(_WAITING_BYTES)

    def _init(self, maxsize: int) -> None:
        self._waiting: deque[Judged | Exception] = deque()
        self._weight = 0

    def _qsize(self) -> int:
        return self._weight

    def _put(self, item: Judged | Exception) -> None:
        self._waiting.append(item)
        self._weight += self._weigh(item)

    def _get(self) -> Judged | Exception:
        item = self._waiting.popleft()
        self._weight -= self._weigh(item)
        return item

    def _weigh(self, item: Judged | Exception) -> int:
        # A small one takes the place of one of `most`.
        return max(self._least, len(item.data) if isinstance(item, Judged) else 0)


class Storage(BaseStorage):
    """Hands what comes in to the one thread that numbers, writes and counts.

    settled: what was decided about an address before, None if it is to be fetched. most: so many
    wait to be taken, fewer if they are large. `before` counts what was decided before, by reason,
    "" for pictures that are there.
    """

    def __init__(
        self, settled: Callable[[str], str | None], most: int, stop: threading.Event
    ) -> None:
        self._settled, self._stop = settled, stop
        # Bounded, so that a long list does not pile up faster than it is written.
        self.arrivals = Arrivals(most)
        self.before: Counter[str] = Counter()
        self._lock = threading.Lock()

    def exists(self, id: str) -> bool:
        reason = self._settled(id)
        if reason is not None:
            with self._lock:
                self.before[reason] += 1
        return reason is not None

    def write(self, id: str, data: Judged | Exception) -> None:
        while not self._stop.is_set():
            with suppress(Full):
                self.arrivals.put(data, timeout=_TICK_S)
                return


@dataclass
class _UnderWay:
    """A download: its task, when it began, and whether its permit is lent to another."""

    task: Task
    since: float
    lent: bool = False


@dataclass
class Shared:
    """What the threads of one crawl have in common.

    fetch, fetch_page: for pictures and for result pages. stop: set when all is over.
    """

    kind: Kind
    source: str
    limits: Limits
    fetch: Fetcher
    fetch_page: Fetcher
    ledger: Ledger
    storage: Storage
    stop: threading.Event
    permits: Permits


class _Heard:
    """A pool whose threads tell what they die of, instead of dying unheard."""

    _work: Callable[..., None]

    def __init__(self, *pool: Any, shared: Shared) -> None:
        super().__init__(*pool)
        self._shared = shared

    def worker_exec(self, **arguments: Any) -> None:
        try:
            self._work(**arguments)
        except Exception as error:
            self._shared.storage.write("", error)


class PageFeeder(_Heard, Feeder):
    """Feeds the result pages of all searches: the first of each, then the second of each, …"""

    def _work(self, engine: Engine, searches: Sequence[Search]) -> None:
        rows = zip_longest(*(engine.pages(search) for search in searches))
        for at, row in enumerate(rows):
            for search, address in zip(searches, row, strict=True):
                if address:
                    self.out_queue.put((search, address, at))


class ListFeeder(_Heard, Feeder):
    """Feeds the addresses of a list straight to the downloader."""

    def _work(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.out_queue.put(task)


class ResultParser(_Heard, Parser):
    """Loads result pages and hands out what they name, not too far ahead of the downloads."""

    def __init__(self, *pool: Any, shared: Shared, engine: Engine, ahead: int) -> None:
        super().__init__(*pool, shared=shared)
        self._engine, self._ahead = engine, ahead

    def _work(self) -> None:
        shared = self._shared
        while not shared.stop.is_set():
            if self.out_queue.qsize() > self._ahead:
                shared.stop.wait(_TICK_S)
                continue
            # Asked before the queue is: what comes in between is not to be overlooked.
            last = self.signal.get("feeder_exited")
            try:
                search, address, at = self.in_queue.get(timeout=_TICK_S)
            except Empty:
                if last:
                    return
                continue
            if not shared.ledger.is_over(search):
                self._load(search, address, at)

    def _load(self, search: Search, address: str, at: int) -> None:
        shared = self._shared
        try:
            found = self._engine.parse(shared.fetch_page(address).data)
        except FetchError as error:
            status = f" with status {error.http_status}" if error.http_status else ""
            shared.ledger.page_failed(search, f"{error.reason}{status}")
            return
        except PageError as error:
            shared.ledger.page_failed(search, str(error))
            return
        for each in shared.ledger.page_loaded(search, found, at):
            if not shared.storage.exists(each.url):
                self.out_queue.put(Task(each, search))


class PictureDownloader(_Heard, Downloader):
    """Fetches and screens pictures; ends when the feeder and the parser have, and nothing waits."""

    def __init__(self, *pool: Any, shared: Shared) -> None:
        super().__init__(*pool, shared=shared)
        self._under_way: dict[Worker, _UnderWay] = {}

    def _work(self) -> None:
        worker, permits = threading.current_thread(), self._shared.permits
        while (task := self._next()) is not None and permits.take(self._shared.stop):
            with self.lock:
                self._under_way[worker] = _UnderWay(task, time.monotonic())
            judged = self._download(task)
            with self.lock:
                visit = self._under_way.pop(worker, None)
            if visit is None:
                return  # given up in the meantime
            if visit.lent:
                permits.reclaim()
            self.storage.write(task.found.url, judged)

    def _next(self) -> Task | None:
        while not self._shared.stop.is_set():
            last = self.signal.get("feeder_exited") and self.signal.get("parser_exited")
            try:
                return self.in_queue.get(timeout=_TICK_S)
            except Empty:
                if last:
                    return None
        return None

    def _download(self, task: Task) -> Judged:
        shared, candidate = self._shared, self._candidate(task)
        try:
            fetched = shared.fetch(task.found.url)
        except FetchError as error:
            return Judged(candidate, b"", Verdict(error.reason), error.nbytes, error.http_status)
        verdict = screen(fetched.data, shared.kind, shared.limits)
        return Judged(candidate, fetched.data, verdict, len(fetched.data), fetched.http_status)

    def _candidate(self, task: Task) -> Candidate:
        found, search = task.found, task.search
        return Candidate(
            origin=found.url,
            name=found.url,
            read=bytes,  # it is fetched, not read
            source=self._shared.source,
            page_url=found.page_url,
            title=found.title,
            keyword=search.keyword,
            license=search.license,
        )

    def lend_permits(self) -> None:
        """Let others try while a server takes its time."""
        with self.lock:
            for visit in self._under_way.values():
                if not visit.lent and visit.since < time.monotonic() - _SLOW_S:
                    visit.lent = True
                    self._shared.permits.give_back()

    def give_up_overdue(self) -> list[Judged]:
        """Take the tasks from threads that a server holds fast, and put fresh threads there.

        A server that sends a header one byte at a time never runs into a timeout.
        """
        since = time.monotonic() - _PATIENCE * self._shared.fetch.rules.timeout_s
        given_up = []
        with self.lock:
            for worker, visit in list(self._under_way.items()):
                begun = self._shared.fetch.attempts.get(worker.ident or 0)
                if begun is not None and begun < since:
                    del self._under_way[worker]
                    self.workers.remove(worker)
                    given_up.append(visit)
        for visit in given_up:
            if visit.lent:
                self._shared.permits.reclaim()
            worker = Worker(target=self.worker_exec, name=f"{self.name}-spare")
            self.workers.append(worker)
            worker.start()
        return [Judged(self._candidate(visit.task), b"", Verdict(TIMED_OUT)) for visit in given_up]
