"""One crawl: icrawler's pools wired up, started, watched and ended.

The one rule: it ends: when enough pictures stand, when no more can come, or at the deadline,
whatever the servers do. Threads that do not come back are left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from icrawler import Crawler, Parser

from depthgen import images
from depthgen.sources.likeness import fingerprint
from depthgen.sources.screen import NO_CONNECTION
from depthgen.sources.web.fetch import Fetcher, HostDelays, Rules
from depthgen.sources.web.ledger import Ledger
from depthgen.sources.web.permits import Permits
from depthgen.sources.web.pools import (
    FairQueue,
    ListFeeder,
    PageFeeder,
    PictureDownloader,
    ResultParser,
    Shared,
    Storage,
    Task,
)
from depthgen.sources.web.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from depthgen.sources.candidate import Judged
    from depthgen.sources.screen import Limits
    from depthgen.sources.web.search import Engine, Search
    from depthgen.workspace import Kind

_TICK_S = 0.1
_PARTING_S = 0.5
_PAGE_THREADS = 4
_PAGE_TIMEOUT_S = 30.0
_PAGE_BYTES = 16 << 20
# A page names about this many pictures: enough to have one of each keyword before downloads begin.
_PICTURES_A_PAGE = 40
# So many hosts without a connection, and nothing else before them: there is no network.
_LOST_AT_FIRST = 20
# So many pictures are written down at once, or about so many bytes of them.
_BATCH = 64
# And if they come no further apart than this.
_GATHER_S = 0.01
_BATCH_BYTES = 16 << 20

Ending = Literal["enough", "exhausted", "deadline", "no network"]


@dataclass(frozen=True)
class Job:
    """What to crawl: the searches of an engine, or the tasks of a list.

    limits: of the screening. settled: what was decided about an address before, else None.
    wanted: how many pictures more, None for all. until: `time.monotonic()` of the end.
    """

    kind: Kind
    source: str
    limits: Limits
    rules: Rules
    settled: Callable[[str], str | None]
    engine: Engine | None = None
    searches: Sequence[Search] = ()
    tasks: Sequence[Task] = ()
    wanted: int | None = None
    threads: int = 16
    per_host_delay_s: float = 0.0
    until: float = field(default=float("inf"))


class Silence:
    """Tells that there is no network: many hosts without a connection, and nothing else."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self._others = 0

    def note(self, batch: Sequence[Judged]) -> None:
        for each in batch:
            if each.verdict.reason == NO_CONNECTION:
                self._hosts.add(urlsplit(each.candidate.origin).netloc)
            else:
                self._others += 1

    @property
    def is_complete(self) -> bool:
        # Hosts, not addresses: one dead server may fill the top of a list.
        return not self._others and len(self._hosts) >= _LOST_AT_FIRST


class WebCrawler(Crawler):
    """Runs one `Job`. `ledger` and `storage` tell afterwards what was seen."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stop = threading.Event()
        self.ending: Ending = "deadline"
        self.ledger = Ledger()
        store = Storage(job.settled, 2 * _BATCH, self._stop)
        self._session = open_session(job.threads, job.rules.allow_private)
        hosts = HostDelays(job.per_host_delay_s)
        pages = Rules(
            _PAGE_TIMEOUT_S, _PAGE_BYTES, job.rules.retries, job.rules.allow_private, True
        )
        self._shared = Shared(
            kind=job.kind,
            source=job.source,
            limits=job.limits,
            fetch=Fetcher(self._session, job.rules, hosts, self._stop),
            fetch_page=Fetcher(self._session, pages, hosts, self._stop),
            ledger=self.ledger,
            storage=store,
            stop=self._stop,
            permits=Permits(job.wanted),
        )
        shared: dict[str, Any] = {"shared": self._shared}
        ahead = max(4 * job.threads, _PICTURES_A_PAGE * len(job.searches))
        searching = job.engine is not None
        super().__init__(
            feeder_cls=PageFeeder if searching else ListFeeder,
            parser_cls=ResultParser if searching else Parser,
            downloader_cls=PictureDownloader,
            parser_threads=_PAGE_THREADS if searching else 0,
            downloader_threads=job.threads,
            storage=store,
            extra_feeder_args=shared,
            extra_parser_args=shared | {"engine": job.engine, "ahead": ahead} if searching else {},
            extra_downloader_args=shared,
        )
        # icrawler's own queues lose an item that did not fit in at once, and remember all for ever.
        self.feeder.out_queue = self.parser.in_queue = Queue() if searching else FairQueue()
        self.parser.out_queue = FairQueue()
        self.downloader.in_queue = (self.parser if searching else self.feeder).out_queue

    def set_logger(self, log_level: int = logging.INFO) -> None:
        """Leave the root logger alone; icrawler would take it over."""
        self.logger = logging.getLogger(__name__)

    def set_session(self, headers: dict[str, str] | None = None) -> None:
        """Give the pools our own session instead of one that poses as a browser."""
        self.session = self._session

    def crawl(self, take: Callable[[Sequence[Judged]], Sequence[bool]]) -> Ending:
        """Run to the end. take: called with what came in; says of each whether it stands."""
        missing, silence = self._job.wanted, Silence()
        if missing == 0:
            return "enough"
        with closing(self.batches()) as batches:
            for batch in batches:
                silence.note(batch)
                while batch and missing != 0:
                    part = batch[:missing]
                    batch = batch[len(part) :]
                    stand = sum(take(part))
                    for _ in range(len(part) - stand):
                        self._shared.permits.give_back()
                    missing = None if missing is None else missing - stand
                if missing == 0:
                    return "enough"
                if silence.is_complete and not self.ledger.loaded:
                    return "no network"
        return self.ending

    def batches(self) -> Generator[list[Judged]]:
        """Run, and give what comes in as it comes; at the end `ending` says why it is one."""
        job = self._job
        self.signal.reset()
        if job.engine is not None:
            self.feeder.start(engine=job.engine, searches=job.searches)
        else:
            self.feeder.start(tasks=job.tasks)
        self.parser.start()
        self.downloader.start()
        try:
            while time.monotonic() < job.until:
                alive = self._look_after_threads()
                batch = self._arrivals()
                if batch:
                    yield batch
                elif not alive:
                    self.ending = "exhausted"
                    return
        finally:
            self._stop.set()
            self._part_with_threads()
            self.session.close()

    def _part_with_threads(self) -> None:
        """Wait for those that compute: a process must not end in the midst of it.

        Those that wait for a server are left behind.
        """
        until = time.monotonic() + _PARTING_S
        for pool in (self.feeder, self.parser, self.downloader):
            for worker in pool.workers:
                worker.join(max(0.0, until - time.monotonic()))

    def _look_after_threads(self) -> bool:
        """Tell each pool when the one before it has ended; whether any downloader still works."""
        feeding = self.feeder.is_alive()
        parsing = feeding or self.parser.is_alive()
        self.signal.set(feeder_exited=not feeding, parser_exited=not parsing)
        return self.downloader.is_alive()

    def _arrivals(self) -> list[Judged]:
        """What has come since, or after a moment. Raises what a thread has died of.

        Where a permit may hang on it, it is not kept waiting for the next.
        """
        self.downloader.lend_permits()
        batch, nbytes = self.downloader.give_up_overdue(), 0
        arrivals = self._shared.storage.arrivals
        gather_s = _GATHER_S if self._job.wanted is None else 0.0
        with suppress(Empty):
            while len(batch) < _BATCH and nbytes < _BATCH_BYTES:
                each = arrivals.get(timeout=gather_s if batch else _TICK_S)
                if isinstance(each, Exception):
                    raise each
                batch.append(each)
                nbytes += len(each.data)
        return batch


def crawl_share(job: Job) -> Iterator[list[Judged] | Ending]:
    """What a process does with its share of a list: all that comes in, then why that ended."""
    images.use_one_thread()
    fingerprint(np.zeros((1, 1, 3), np.uint8))  # loads its libraries before the first server waits
    crawler = WebCrawler(job)
    yield from crawler.batches()
    yield crawler.ending


def unseen(url: str) -> None:
    """What is known of an address that was looked up already: `Job.settled` of a share."""
