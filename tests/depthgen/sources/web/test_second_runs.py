"""Crawls into a workspace that holds something: gone on with, refused anew, and not doubled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from depthgen.errors import StageError
from depthgen.sources.crawl import CrawlOptions, run
from depthgen.sources.provenance import read_provenance
from depthgen.status import status
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.crawling import cutouts, searching, verdicts
from tests.depthgen.sources.web.hostile import Exhibit, HostileWeb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from depthgen.workspace import Workspace

    Lead = Callable[[HostileWeb], None]


def test_a_second_run_downloads_nothing_twice_and_goes_on_to_the_count(
    workspace: Workspace, lead_to: Lead
) -> None:
    bad = [Exhibit(f"opaque{n}", show.picture(show.opaque(n))) for n in range(10)]
    later = Exhibit("later", show.at_first(1, show.status(500), show.picture(show.cutout(50, 96))))
    results = [later, *cutouts(20), *bad]
    with HostileWeb(results) as web:
        lead_to(web)
        assert run(workspace, searching(count=8, retries=0, threads=1)).counts["total"] == 8
        done = len(web.requests)
        again = run(workspace, searching(count=8, retries=0, threads=1))
        assert (again.counts["tried"], len(web.requests)) == (0, done)
        with pytest.raises(StageError, match="gave 21 cut-outs of the 40"):
            run(workspace, searching(count=40, retries=0))
        assert {web.hits(each.name) for each in results[1:]} == {1}
        assert web.hits("later") == 2
    assert verdicts(workspace)["later"].verdict == "kept"
    files = [each.file for each in read_provenance(workspace.provenance) if each.file]
    assert sorted(files) == [f"fg/fg_{n:03d}.png" for n in range(21)]


def test_a_refusal_is_reconsidered_where_the_option_behind_it_has_changed(
    workspace: Workspace, lead_to: Lead
) -> None:
    small = Exhibit("small", show.picture(show.cutout(1, 40)))
    shy = Exhibit("shy", show.robots(show.cutout(2, 96), "noai"))
    heavy = Exhibit("heavy", show.picture(show.cutout(3, 256)))
    with HostileWeb([*cutouts(1, 9), small, shy, heavy]) as web:
        lead_to(web)
        runs: tuple[tuple[dict[str, Any], int], ...] = (
            ({"min_size": 64, "max_bytes": 30_000}, 1),
            ({"min_size": 64, "max_bytes": 30_000}, 1),
            ({"min_size": 32, "max_bytes": 30_000}, 2),
            ({"ignore_opt_out": True, "max_bytes": 30_000}, 3),
            ({}, 4),
        )
        for values, total in runs:
            with pytest.raises(StageError, match=f"gave {total} cut-outs"):
                run(workspace, searching(count=9, retries=0, **values))
        assert [web.hits(each) for each in ("good9", "small", "shy", "heavy")] == [1, 2, 2, 2]


def test_pictures_of_another_licence_filter_do_not_count(
    workspace: Workspace, lead_to: Lead
) -> None:
    with HostileWeb(cutouts(3)) as web:
        lead_to(web)
        run(workspace, searching(count=3))
        with pytest.raises(StageError, match=r"of whose finds 3 are there by other words, gave 0"):
            run(workspace, searching(count=3, license="publicdomain"))


def test_a_crawl_that_was_cut_off_is_unfinished_and_can_be_typed_again(
    workspace: Workspace, lead_to: Lead
) -> None:
    with HostileWeb([], pages=lambda _: show.status(503)) as web:
        lead_to(web)
        with pytest.raises(StageError):
            run(workspace, searching(retries=0))
    report = status(workspace)
    (stage,) = (each for each in report.stages if each.stage == "crawl_fg")
    assert (stage.state, stage.counts["total"]) == ("unfinished", 0)
    assert " crawl --kind fg --keyword cat" in report.next_command


def test_a_copy_that_a_kill_left_behind_is_taken_up_by_its_looks(
    workspace: Workspace, lead_to: Lead
) -> None:
    folder = workspace.sources("fg")
    folder.mkdir(parents=True)
    (folder / "fg_000.png").write_bytes(show.again(show.cutout(0, 96), 0.8))
    (folder / "fg_001.png").write_bytes(show.cutout(9, 96))
    with HostileWeb(cutouts(2)) as web:
        lead_to(web)
        summary = run(workspace, searching(count=2))
    files = sorted(each.file for each in verdicts(workspace).values())
    assert files == ["fg/fg_000.png", "fg/fg_002.png"]
    assert (folder / "fg_000.png").read_bytes() == show.cutout(0, 96)
    assert any("fg/fg_001.png has no line" in note for note in summary.notes)


def test_the_looks_of_a_picture_are_compared_over_runs_and_sources(
    workspace: Workspace, lead_to: Lead, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.png").write_bytes(show.cutout(0, 96))
    (folder / "twin.png").write_bytes(show.again(show.cutout(0, 96), 0.8))
    mine = run(workspace, CrawlOptions("folder", "fg", origin=folder))
    assert any("looks the same as fg/fg_000.png" in note for note in mine.notes)
    with HostileWeb(cutouts(3)) as web:
        lead_to(web)
        with pytest.raises(StageError, match="1 duplicate"):
            run(workspace, searching(count=3))
    dropped = run(workspace, CrawlOptions("folder", "fg", origin=folder, dedupe=True))
    assert dropped.counts["total"] == 4
