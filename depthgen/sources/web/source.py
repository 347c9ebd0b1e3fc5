"""The web as a source of the stage `crawl`: searches, and lists of URLs.

The one rule: what was decided about an address is not asked for again, unless the option that
decided it has changed or the failure may have passed.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from depthgen.errors import OptionsError
from depthgen.sources.screen import OPTED_OUT, PRIVATE
from depthgen.sources.urls import read_urls
from depthgen.sources.web.account import Account
from depthgen.sources.web.crawler import Job, Silence, WebCrawler, crawl_share, unseen
from depthgen.sources.web.engines import ENGINES
from depthgen.sources.web.fetch import Rules
from depthgen.sources.web.pools import Task
from depthgen.sources.web.search import LICENSES, Search
from depthgen.workers import default_workers, streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthgen.sources.candidate import Judged
    from depthgen.sources.intake import Intake
    from depthgen.sources.options import CrawlOptions
    from depthgen.sources.outcome import Outcome
    from depthgen.sources.web.crawler import Ending
    from depthgen.stage import Progress

# To part with threads, the manifest and the end of the process take some time, too.
_SHARE_OF_DEADLINE, _RESERVE_S = 0.2, 1.5
# Addresses; to start a process takes as long as to fetch some hundred of them.
_WORTH_PROCESSES = 500


def open_source(
    options: CrawlOptions, until: float = float("inf")
) -> Callable[[Intake, Progress], Outcome]:
    """Look at the options and the list; the result crawls, until `time.monotonic()` is `until`.

    Raises `OptionsError`, `StageError`.
    """
    seconds = min(options.seconds, until - time.monotonic())
    until = time.monotonic() + seconds - min(_RESERVE_S, _SHARE_OF_DEADLINE * seconds)
    if options.is_search:
        _check_license(options)
        return partial(_fill, options, until, ())
    assert options.origin is not None, "CrawlOptions checks this"
    listed = Search(options.kind, "")
    found = read_urls(options.origin, options.url_column)
    return partial(_fill, options, until, [Task(each, listed) for each in found])


def _check_license(options: CrawlOptions) -> None:
    known = ENGINES[options.source].licenses
    if not options.license or options.license in known:
        return
    if not known:
        raise OptionsError(f"{options.source} has no licence filter; leave --license out")
    if options.license not in LICENSES:
        known = LICENSES
    raise OptionsError(
        f"{options.source} has no licence filter {options.license!r}; use --license "
        f"{' or --license '.join(known)}"
    )


def _fill(
    options: CrawlOptions, until: float, listed: Sequence[Task], intake: Intake, progress: Progress
) -> Outcome:
    began = time.monotonic()
    overruled = {OPTED_OUT: options.ignore_opt_out, PRIVATE: options.allow_private}
    settled = partial(
        intake.settled, overruled=[reason for reason, is_so in overruled.items() if is_so]
    )
    before, tasks = _split(listed, settled)
    stood = before[""]
    if options.is_search:
        stood = intake.standing(options.source, options.searched, options.license)
    total = options.wanted or len(listed)
    progress(min(stood, total), total)
    missing = None if options.wanted is None else max(0, options.wanted - stood)
    job = _job(options, tasks, missing, until, settled)
    ending, crawler = _crawl(job, _taker(intake, progress, stood, before.total(), total, options))
    return Account(
        options=options,
        ending=ending,
        stood=stood,
        kept=intake.kept,
        added=intake.added,
        found=len(listed) or (crawler.ledger.handed_out if crawler else 0),
        reasons=intake.reasons,
        before=before + crawler.storage.before if crawler else before,
        seconds=time.monotonic() - began,
        trouble=crawler.ledger.trouble if crawler else {},
        unreachable=crawler is not None and crawler.ledger.unreachable,
    ).outcome()


def _crawl(
    job: Job, take: Callable[[Sequence[Judged]], Sequence[bool]]
) -> tuple[Ending, WebCrawler | None]:
    """Why it ended, and what did it, if that was here."""
    if job.wanted == 0:
        return "enough", None
    if job.engine is None and not job.tasks:
        return "exhausted", None
    processes = min(default_workers(), job.threads)
    if job.wanted is None and processes > 1 and len(job.tasks) >= _WORTH_PROCESSES:
        return _crawl_in_processes(job, processes, take), None
    crawler = WebCrawler(job)
    return crawler.crawl(take), crawler


def _crawl_in_processes(
    job: Job, processes: int, take: Callable[[Sequence[Judged]], Sequence[bool]]
) -> Ending:
    """A long list, a share for each process: one alone could use no more than one core."""
    shares = [
        replace(
            job,
            tasks=job.tasks[at::processes],
            threads=(job.threads + at) // processes,
            # Each of them keeps its own watch on a host.
            per_host_delay_s=job.per_host_delay_s * processes,
            settled=unseen,
        )
        for at in range(processes)
    ]
    silence, late = Silence(), False
    with streams(crawl_share, shares) as results:
        for each in results:
            if isinstance(each, str):
                late = late or each == "deadline"
                continue
            silence.note(each)
            take(each)
            if silence.is_complete:
                return "no network"
    return "deadline" if late else "exhausted"


def _split(
    listed: Sequence[Task], settled: Callable[[str], str | None]
) -> tuple[Counter[str], list[Task]]:
    """What was decided before about a list's addresses, and those that are to be fetched."""
    before: Counter[str] = Counter()
    tasks = []
    for task in listed:
        reason = settled(task.found.url)
        if reason is None:
            tasks.append(task)
        else:
            before[reason] += 1
    return before, tasks


def _job(
    options: CrawlOptions,
    tasks: Sequence[Task],
    missing: int | None,
    until: float,
    settled: Callable[[str], str | None],
) -> Job:
    keys = {"license": options.license, "key": options.flickr_key}
    words = options.searched if options.is_search else ()
    return Job(
        kind=options.kind,
        source=options.source,
        limits=options.limits,
        rules=Rules(
            options.timeout_s,
            options.limits.max_bytes,
            options.retries,
            options.allow_private,
            options.ignore_opt_out,
        ),
        settled=settled,
        engine=ENGINES[options.source] if options.is_search else None,
        searches=[Search(options.kind, word, **keys) for word in words],
        tasks=tasks,
        wanted=missing,
        threads=options.threads,
        per_host_delay_s=options.delay_s,
        until=until,
    )


def _taker(
    intake: Intake, progress: Progress, stood: int, seen: int, total: int, options: CrawlOptions
) -> Callable[[Sequence[Judged]], Sequence[bool]]:
    """Settles what comes in, and tells how far it is: by pictures, or by addresses of a list."""

    def take(batch: Sequence[Judged]) -> Sequence[bool]:
        stands = intake.settle_all(batch)
        tried = intake.kept + intake.reasons.total()
        progress(min(total, stood + intake.kept if options.wanted else seen + tried), total)
        return stands

    return take
