"""Whole crawls of lists of addresses: gone on with, and of hosts that are dead or private."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from depthgen.errors import StageError
from depthgen.sources.crawl import CrawlOptions, run
from depthgen.sources.provenance import read_provenance
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.crawling import cutouts
from tests.depthgen.sources.web.hostile import PICTURE_HOST, Exhibit, HostileWeb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from depthgen.workspace import Workspace

    Lead = Callable[[HostileWeb], None]


def list_of(path: Path, exhibits: Sequence[Exhibit]) -> Path:
    path.write_text("".join(f"{each.url}\n" for each in exhibits))
    return path


def test_a_list_of_addresses_is_crawled_whole_and_gone_on_with(
    workspace: Workspace, lead_to: Lead, tmp_path: Path
) -> None:
    bad = [Exhibit("gone", show.status(404)), Exhibit("down", show.status(500))]
    everything = [*cutouts(12), *bad]
    source = list_of(tmp_path / "list.txt", everything)
    with HostileWeb(everything) as web:
        lead_to(web)
        options = CrawlOptions("urls", "fg", origin=source, retries=0)
        first = run(workspace, options)
        assert first.counts == {
            "found": 14,
            "tried": 14,
            "added": 12,
            "refused": 1,
            "failed": 1,
            "total": 12,
        }
        list_of(source, [*everything, Exhibit("new", show.status(404))])
        second = run(workspace, CrawlOptions("urls", "fg", origin=source, retries=0))
        assert (second.counts["tried"], second.counts["added"]) == (2, 0)
        assert web.hits("down") == 2


def test_a_list_whose_hosts_all_stay_silent_ends_early(
    workspace: Workspace, tmp_path: Path
) -> None:
    source = tmp_path / "list.txt"
    source.write_text("".join(f"http://127.0.0.{1 + n % 250}:9/{n}.png\n" for n in range(490)))
    options = CrawlOptions("urls", "fg", origin=source, retries=0, allow_private=True)
    with pytest.raises(StageError, match=r"no address could be reached .*no connection"):
        run(workspace, options)
    assert len(read_provenance(workspace.provenance)) < 200


def test_a_dead_host_at_the_top_of_a_list_does_not_end_it(
    workspace: Workspace, lead_to: Lead, tmp_path: Path
) -> None:
    source = list_of(tmp_path / "list.txt", cutouts(2))
    dead = "".join(f"http://127.0.0.1:9/{n}.png\n" for n in range(600))
    source.write_text(dead + source.read_text())
    with HostileWeb(cutouts(2)) as web:
        urls = source.read_text().replace(PICTURE_HOST, web.origin)
        source.write_text(urls)
        options = CrawlOptions("urls", "fg", origin=source, retries=0, allow_private=True)
        summary = run(workspace, options)
    assert (summary.counts["failed"], summary.counts["added"]) == (600, 2)


def test_addresses_that_are_none_or_private_are_refused_with_their_reason(
    workspace: Workspace, tmp_path: Path
) -> None:
    source = tmp_path / "list.txt"
    source.write_text("ftp://x.example/a.png\nnonsense\nhttp://10.0.0.1/a.png\nhttp://[::1]/b\n")
    with pytest.raises(StageError, match="gave 0 backgrounds"):
        run(workspace, CrawlOptions("urls", origin=source))
    reasons = Counter(each.reason for each in read_provenance(workspace.provenance))
    assert reasons == {"not a web address": 2, "a private address": 2}


def test_a_few_dead_addresses_are_told_as_no_network_would_be(
    workspace: Workspace, tmp_path: Path
) -> None:
    source = tmp_path / "list.txt"
    source.write_text("http://127.0.0.1:9/a.png\nhttp://127.0.0.1:9/b.png\n")
    options = CrawlOptions("urls", "fg", origin=source, retries=0, allow_private=True)
    with pytest.raises(StageError, match="no address could be reached") as raised:
        run(workspace, options)
    assert "--source folder" in str(raised.value)
    assert "`depthgen render`" in str(raised.value)


def test_an_option_that_would_help_is_named(workspace: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text("http://10.0.0.1/a.png\n")
    with pytest.raises(StageError, match="--allow-private"):
        run(workspace, CrawlOptions("urls", "fg", origin=source))
