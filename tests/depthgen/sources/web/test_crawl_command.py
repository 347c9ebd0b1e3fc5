"""`depthgen crawl` as it is typed: killed, stopped, gone on with, and without a network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from depthgen.sources.provenance import Sighting, read_provenance
from depthgen.workspace import Workspace
from tests.conftest import ROOT
from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.crawling import cutouts
from tests.depthgen.sources.web.hostile import Exhibit, HostileWeb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Depthgen = Callable[..., subprocess.CompletedProcess[str]]

# Has the command reach Bing and the picture host at a server of the test.
DETOUR = """
from depthgen.sources.web import crawler
from tests.depthgen.sources.web.hostile import BING, PICTURE_HOST, Detour
real = crawler.open_session
def open_session(*arguments):
    session = real(*arguments)
    for prefix in (BING, PICTURE_HOST):
        session.mount(prefix, Detour({origin!r}))
    return session
crawler.open_session = open_session
"""


def detour(web: HostileWeb) -> str:
    return DETOUR.format(origin=web.origin)


def started(tmp_path: Path, before: str, *arguments: object) -> subprocess.Popen[bytes]:
    code = f"import sys\n{before}\nimport cli\nsys.argv[0] = 'depthgen'\ncli.entry()\n"
    command = [sys.executable, "-c", code, "-w", str(tmp_path / "W"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.02)


def pictures(workspace: Workspace) -> list[bytes]:
    folder = workspace.sources("fg")
    return [path.read_bytes() for path in sorted(folder.glob("fg_*"))] if folder.exists() else []


def test_without_a_keyword_it_gathers_a_hundred_of_each_as_the_original_did(
    tmp_path: Path, depthgen: Depthgen
) -> None:
    words = ["people", "animals", "dogs", "cats", "bears", "goats", "deer", "cow", "human"]
    things = {word: cutouts(12, 20 * at, size=64) for at, word in enumerate(words)}
    rooms = {
        word: [
            Exhibit(f"{word}{n}", show.picture(show.background(1000 * at + n, (160, 120))))
            for n in range(35)
        ]
        for at, word in enumerate(("mall interior", "interior", "indoor"))
    }
    with HostileWeb([], by_keyword=things | rooms) as web:
        done = depthgen("crawl", "--per-host-delay", 0, before=detour(web))
        assert web.keywords == {*things, *rooms}
        filters = {
            each.keyword: each.path.split("qft=")[1] for each in web.requests if each.keyword
        }
    assert done.returncode == 0, done.stderr
    assert filters["dogs"] == "+filterui:photo-transparent"
    assert filters["indoor"] == "+filterui:photo-photo"
    seen = read_provenance(Workspace(tmp_path / "W").provenance)
    assert Counter(each.kind for each in seen if each.file) == {"fg": 100, "bg": 100}
    traced = depthgen("status", "--trace", "fg_012", "--json")
    (line,) = json.loads(traced.stdout)
    assert line["origin"].startswith("http://pictures.example/p/good")
    assert line["keyword"] in words


def test_a_crawl_that_was_killed_goes_on_and_loses_and_doubles_nothing(
    tmp_path: Path, depthgen: Depthgen
) -> None:
    workspace = Workspace(tmp_path / "W")
    search = ("crawl", "--kind", "fg", "--keyword", "cat", "--count", 60)
    typed = (*search, "--per-host-delay", 0.01, "--threads", 4)
    with HostileWeb(cutouts(60, size=64)) as web:
        for at_least in (5, 20, 40):
            process = started(tmp_path, detour(web), *typed)
            wait_for(lambda least=at_least: len(pictures(workspace)) >= least)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
            read_provenance(workspace.provenance)  # valid to its last line
        done = depthgen(*typed, before=detour(web))
        assert done.returncode == 0, done.stderr
        asked = [web.hits(f"good{n}") for n in range(60)]
    # What was on its way, or not yet written down, when a kill came is fetched again: about as many
    # as there are threads, and never all that stood.
    assert sum(asked) - 60 <= 3 * 8
    kept = pictures(workspace)
    assert len(kept) == len(set(kept)) == 60
    assert set(kept) == {show.cutout(n, 64) for n in range(60)}
    lines = workspace.provenance.read_bytes().splitlines()
    files = [json.loads(each)["file"] for each in lines]
    assert sorted(files) == [f"fg/fg_{n:03d}.png" for n in range(60)]
    assert not list(workspace.sources("fg").glob(".*"))


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_crawl_that_is_stopped_ends_at_once_and_lets_the_lock_go(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    workspace = Workspace(tmp_path / "W")
    stalled = [Exhibit(f"bad{n}", show.stall(60, show.status(404))) for n in range(40)]
    with HostileWeb([*cutouts(3, size=64), *stalled]) as web:
        process = started(
            tmp_path, detour(web), "crawl", "--kind", "fg", "--keyword", "cat", "--timeout", 50
        )
        # A picture's line comes after the picture.
        wait_for(lambda: workspace.provenance.exists())
        wait_for(lambda: workspace.provenance.read_text("utf-8").count("\n") == 3)
        began = time.monotonic()
        process.send_signal(signal_number)
        assert process.wait(10) == 130
        assert time.monotonic() - began < 5
    assert not workspace.lock.exists()
    assert len(read_provenance(workspace.provenance)) == 3


def list_of(tmp_path: Path, web: HostileWeb, count: int) -> Path:
    path = tmp_path / "list.csv"
    rows = [f"{web.origin}/p/room{n},room {n}\n" for n in range(count)]
    path.write_text("URL,caption\n" + "".join(rows))
    return path


def rooms(count: int) -> list[Exhibit]:
    return [
        Exhibit(f"room{n}", show.picture(show.background(n, (64, 48)), "image/jpeg"))
        for n in range(count)
    ]


def test_a_long_list_is_crawled_by_several_processes_killed_and_gone_on_with(
    tmp_path: Path, depthgen: Depthgen
) -> None:
    workspace = Workspace(tmp_path / "W")
    count = 700
    with HostileWeb(rooms(count)) as web:
        source = list_of(tmp_path, web, count)
        typed = ("crawl", "--source", "urls", "--kind", "bg", "--from", source, "--allow-private")
        process = started(tmp_path, "", *typed)
        wait_for(lambda: workspace.sources("bg").exists() and len(seen(workspace)) > 100)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not children_of(process.pid))
        known = len(seen(workspace))
        done = depthgen(*typed)
        assert done.returncode == 0, done.stderr
        again = depthgen(*typed)
        assert "tried 0" in again.stdout
    assert 100 < known < count
    lines = seen(workspace)
    assert len(lines) == len({each.origin for each in lines}) == count
    kept = {each.file for each in lines if each.file}
    assert len(kept) == len(list(workspace.sources("bg").glob("bg_*")))
    assert next(each for each in lines if each.origin.endswith("room7")).title == "room 7"


def seen(workspace: Workspace) -> list[Sighting]:
    return read_provenance(workspace.provenance)


def children_of(pid: int) -> list[str]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_without_a_network_the_command_says_what_else_there_is(
    depthgen: Depthgen,
) -> None:
    with HostileWeb([]) as web:
        nowhere = detour(web)
    done = depthgen("crawl", "--retries", 0, before=nowhere)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--source folder" in done.stderr
    assert "`depthgen render`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "gopher", "--kind", "fg"), "there is no source 'gopher'"),
        (("--keyword", "cat"), "--kind fg, --kind bg or --kind both"),
        (("--source", "gogle", "--keyword", "cat"), "there is no source 'gogle'"),
        (("--source", "urls", "--kind", "fg"), "--from FILE"),
        (("--source", "flickr"), "$FLICKR_API_KEY"),
        (("--source", "baidu", "--license", "commercial"), "no licence filter"),
        (("--from", "x", "--kind", "fg"), "--source folder or --source urls"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_before_anything_is_opened(
    tmp_path: Path, depthgen: Depthgen, arguments: tuple[str, ...], words: str
) -> None:
    done = depthgen("crawl", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert not (tmp_path / "W").exists()
