"""The hostile web does what it says; what a crawler makes of it is tested elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from itertools import combinations
from typing import TYPE_CHECKING

import imagehash
import numpy as np
import pytest
import requests
from bs4 import BeautifulSoup
from PIL import Image, ImageFile

from tests.depthgen.sources.web import exhibits as show
from tests.depthgen.sources.web.hostile import BING, PICTURE_HOST, RESULTS, Exhibit, HostileWeb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.depthgen.sources.web.hostile import Behaviour

GOOD = show.cutout(0, 64)


@contextlib.contextmanager
def showing(*behaviours: Behaviour) -> Iterator[tuple[HostileWeb, requests.Session]]:
    """A web with exhibits "0", "1", …, and a session that is detoured to it."""
    things = [Exhibit(str(index), each) for index, each in enumerate(behaviours)]
    with HostileWeb(things) as web, session_for(web) as session:
        yield web, session


@contextlib.contextmanager
def session_for(web: HostileWeb) -> Iterator[requests.Session]:
    with requests.Session() as session:
        for prefix in (BING, PICTURE_HOST):
            session.mount(prefix, web.detour())
        yield session


def url(name: object) -> str:
    return f"{PICTURE_HOST}/p/{name}"


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def on_white(data: bytes) -> Image.Image:
    picture = opened(data).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def distance(one: imagehash.ImageHash, other: imagehash.ImageHash) -> int:
    return int(one - other)


def phash(data: bytes) -> imagehash.ImageHash:
    return imagehash.phash(on_white(data), hash_size=16)


def test_result_pages_list_every_exhibit_whole_and_say_the_keyword_they_got() -> None:
    names = [f"{index}.png" for index in range(80)] + [
        "../../x.png",
        '猫\'s "b & c".png',
        "n" * 900,
    ]
    things = [Exhibit(each, show.picture(GOOD)) for each in names]
    with HostileWeb(things) as web, session_for(web) as session:
        seen = {}
        for first in range(0, 200, 20):
            address = f"{BING}{RESULTS}?q=cat+%26+dog&first={first}&qft=+filterui:photo-photo"
            page = session.get(address, headers={"User-Agent": "me"})
            for anchor in BeautifulSoup(page.content, "lxml").find_all("a", class_="iusc"):
                entry = json.loads(str(anchor["m"]))
                seen[entry["murl"]] = entry["t"]
        assert page.content == b""
        assert len(seen) == len(names)
        assert any('猫\'s "b & c".png' in title for title in seen.values())
        assert all(session.get(each).content == GOOD for each in seen)
        assert web.keywords == {"cat & dog"}
        assert {each.user_agent for each in web.requests if each.keyword} == {"me"}
        assert [web.hits(each) for each in names] == [1] * len(names)
        assert web.sent("../../x.png") == len(GOOD)


def test_keywords_may_have_results_of_their_own() -> None:
    cat, dog = Exhibit("cat", show.picture(GOOD)), Exhibit("dog", show.picture(GOOD))
    with HostileWeb([cat], by_keyword={"dog": [dog]}) as web, session_for(web) as session:
        assert "/p/cat" in session.get(f"{BING}{RESULTS}?q=cat&first=0").text
        assert "/p/dog" in session.get(f"{BING}{RESULTS}?q=dog&first=0").text


def test_result_pages_can_misbehave_address_by_address() -> None:
    pages = [f"{BING}{RESULTS}?q=cat&first={first}" for first in (0, 20)]
    with (
        HostileWeb([], pages=lambda page: show.at_first(1, show.status(429), page)) as web,
        session_for(web) as session,
    ):
        assert [session.get(each).status_code for each in pages * 2] == [429, 429, 200, 200]
    with (
        HostileWeb([], pages=lambda _: show.picture(show.CAPTCHA, "text/html")) as web,
        session_for(web) as session,
    ):
        assert "captcha" in session.get(pages[0]).text


def test_statuses_headers_and_bodies_are_the_ones_asked_for() -> None:
    late = show.status(503, headers=[("Retry-After", "7")])
    behaviours = [show.status(404), late, show.status(204), show.picture(b"", "text/plain")]
    with showing(*behaviours, show.robots(GOOD, "noai", "otherbot: noindex")) as (_, session):
        answers = [session.get(url(index)) for index in range(5)]
        assert [each.status_code for each in answers] == [404, 503, 204, 200, 200]
        assert answers[1].headers["Retry-After"] == "7"
        assert answers[3].content == b""
        assert answers[3].headers["Content-Type"] == "text/plain"
        assert answers[4].raw.headers.getlist("X-Robots-Tag") == ["noai", "otherbot: noindex"]


def test_what_fails_at_first_is_fine_afterwards() -> None:
    with showing(show.at_first(2, show.status(500), show.picture(GOOD))) as (web, session):
        assert [session.get(url(0)).status_code for _ in range(3)] == [500, 500, 200]
        assert web.hits("0") == 3


def test_a_dropped_connection_sends_half_of_what_it_promised() -> None:
    with showing(show.dropped(GOOD), show.truncated(GOOD)) as (web, session):
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            session.get(url(0))
        assert web.sent("0") == len(GOOD) // 2
        assert session.get(url(1)).content == GOOD[: len(GOOD) // 2]


def test_stalls_and_drips_take_the_time_they_say() -> None:
    short = b"1234"
    slow = [show.stall(0.2, show.picture(short)), show.stall_midway(short, 0.2)]
    with showing(*slow, show.drip(short, 0.1)) as (_, session):
        for index in range(3):
            start = time.monotonic()
            assert session.get(url(index)).content == short
            assert 0.2 <= time.monotonic() - start < 2


def test_closing_ends_every_stall_at_once() -> None:
    before = threading.active_count()
    stalls = [show.stall(60, show.picture(GOOD)), show.stall_midway(GOOD, 60), show.drip(GOOD)]
    with showing(*stalls, show.picture(GOOD)) as (web, session):
        session.get(url(3))  # leaves a connection open
        clients = [threading.Thread(target=gone, args=(session, url(index))) for index in range(3)]
        for each in clients:
            each.start()
        while not all(web.hits(str(index)) for index in range(3)):
            time.sleep(0.01)
        start = time.monotonic()
        web.close()
        for each in clients:
            each.join(5)
        assert time.monotonic() - start < 1
        while threading.active_count() > before:
            assert time.monotonic() - start < 2, "a thread of the server is left"
            time.sleep(0.01)


def gone(session: requests.Session, address: str) -> None:
    with contextlib.suppress(requests.RequestException):
        session.get(address)


def test_redirects_resolve_against_the_host_that_was_meant() -> None:
    fine = show.picture(GOOD)
    behaviours = [fine, show.redirect("/p/0"), show.redirect_chain(3, fine), show.redirect_loop()]
    with showing(*behaviours, show.redirect("http://127.0.0.1:{port}/secret")) as (web, session):
        answer = session.get(url(1))
        assert (answer.url, answer.content) == (url(0), GOOD)
        assert len(session.get(url(2)).history) == 3
        with pytest.raises(requests.TooManyRedirects):
            session.get(url(3))
        assert web.hits("3") > 20
        assert session.get(url(4)).url == f"{web.origin}/secret"
        assert web.hits("/secret") == 1


@pytest.mark.parametrize("chunked", [True, False])
def test_an_endless_body_ends_when_the_client_hangs_up_and_is_counted(chunked: bool) -> None:
    with showing(show.endless(chunked=chunked)) as (web, session):
        with session.get(url(0), stream=True) as answer:
            assert "Content-Length" not in answer.headers
            data = next(answer.iter_content(1 << 20))
        assert data.startswith(b"\x89PNG")
        time.sleep(0.2)
        sent = web.sent("0")
        assert len(data) <= sent < 1 << 26
        time.sleep(0.1)
        assert web.sent("0") == sent


def test_an_endless_body_of_a_size_has_that_size() -> None:
    with showing(show.endless(300_000), show.endless(300_000, chunked=False)) as (_, session):
        assert [len(session.get(url(each)).content) for each in (0, 1)] == [300_000] * 2


def test_an_inflating_body_is_small_on_the_wire_alone() -> None:
    with showing(show.inflating(20 << 20)) as (web, session):
        assert len(session.get(url(0)).content) > 20 << 20
        assert web.sent("0") < 100_000


def test_cutouts_are_good_and_unlike_each_other() -> None:
    pictures = [show.cutout(seed) for seed in range(100)]
    hashes = [phash(each) for each in pictures]
    assert min(distance(one, other) for one, other in combinations(hashes, 2)) >= 60
    for each in pictures:
        alpha = np.asarray(opened(each))[:, :, 3]
        assert 0.1 < (alpha == 255).mean() < 0.7
        assert not alpha[[0, -1]].any()
        assert not alpha[:, [0, -1]].any()
    assert len(set(map(show.background, range(5)))) == 5


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_same_picture_again_has_other_bytes_and_the_same_look(kind: str) -> None:
    for seed in range(5):
        first = show.cutout(seed)
        second = show.again(first, 0.5, kind)
        assert opened(second).size == (128, 128)
        assert distance(phash(first), phash(second)) <= 10


def test_fake_transparency_is_opaque() -> None:
    assert np.asarray(opened(show.opaque(1)))[:, :, 3].min() == 255
    assert opened(show.checkerboard(1)).mode == "RGB"
    corner = np.asarray(opened(show.checkerboard(1)))[:32, :32]
    assert set(np.unique(corner)) == {204, 255}
    assert corner[0, 0, 0] != corner[0, 16, 0]


def test_bombs_are_valid_large_and_small_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(show.claiming(30_000, 30_000)) < 100
    assert len(show.bomb(12_000, 12_000)) < 1_000_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert Image.open(io.BytesIO(show.claiming(30_000, 30_000))).size == (30_000, 30_000)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    small = opened(show.bomb(1201, 900))
    assert (small.size, small.mode, small.getextrema()) == ((1201, 900), "RGBA", ((0, 0),) * 4)
