"""What the tests of crawls share: lists and searches that do not wait long, and good pictures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from depthgen.sources.crawl import CrawlOptions
from depthgen.sources.provenance import Sighting, read_provenance
from depthgen.sources.screen import Limits
from depthgen.sources.web.crawler import Job, WebCrawler
from depthgen.sources.web.fetch import Rules
from depthgen.sources.web.pools import Task
from depthgen.sources.web.search import Found, Search
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.hostile import Exhibit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from depthgen.sources.candidate import Judged
    from depthgen.sources.web.crawler import Ending
    from depthgen.workspace import Workspace
    from tests.depthgen.sources.web.hostile import Behaviour

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


def searching(kind: str = "fg", **values: Any) -> CrawlOptions:
    """A search for one keyword that does not wait for politeness' sake."""
    given: dict[str, Any] = {"keywords": ("cat",), "per_host_delay_s": 0.0, "timeout_s": 2.0}
    return CrawlOptions("bing", kind, **{**given, **values})  # type: ignore[arg-type]


def cutouts(count: int, start: int = 0, size: int = 96) -> list[Exhibit]:
    """Cut-outs "good<start>", … of `size` pixels a side, each of looks of its own."""
    return [
        Exhibit(f"good{seed}", show.picture(show.cutout(seed, size)))
        for seed in range(start, start + count)
    ]


def verdicts(workspace: Workspace) -> dict[str, Sighting]:
    """The last line about each address, by the name of its exhibit."""
    lines = read_provenance(workspace.provenance)
    return {each.origin.rsplit("/", 1)[1]: each for each in lines}
