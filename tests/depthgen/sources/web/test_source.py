"""Whole crawls: icrawler's feeder, our parser, downloader and screening, against a hostile web."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from depthgen.composite import CompositeOptions
from depthgen.composite import run as composite
from depthgen.errors import OptionsError, StageError
from depthgen.prepare.crop import CropOptions
from depthgen.prepare.crop import run as crop
from depthgen.prepare.mask import MaskOptions
from depthgen.prepare.mask import run as mask
from depthgen.sources.crawl import CrawlOptions, options_for, run, run_each
from depthgen.sources.provenance import Sighting, read_provenance
from depthgen.sources.screen import REASONS
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.hostile import PICTURE_HOST, Exhibit, HostileWeb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from depthgen.workspace import Workspace
    from tests.depthgen.sources.web.hostile import Behaviour, Visit

    Lead = Callable[[HostileWeb], None]


def searching(kind: str = "fg", **values: Any) -> CrawlOptions:
    """A search for one keyword that does not wait for politeness' sake."""
    given: dict[str, Any] = {"keywords": ("cat",), "per_host_delay_s": 0.0, "timeout_s": 2.0}
    return CrawlOptions("bing", kind, **{**given, **values})  # type: ignore[arg-type]


def cutouts(count: int, start: int = 0) -> list[Exhibit]:
    return [
        Exhibit(f"good{seed}", show.picture(show.cutout(seed, 96)))
        for seed in range(start, start + count)
    ]


def verdicts(workspace: Workspace) -> dict[str, Sighting]:
    """The last line about each address, by the name of its exhibit."""
    lines = read_provenance(workspace.provenance)
    return {each.origin.rsplit("/", 1)[1]: each for each in lines}


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
