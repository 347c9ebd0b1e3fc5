"""Search engines: keywords arrive whole, and a page is read whole or named for what it is."""

from __future__ import annotations

import contextlib
import html
import json
import logging
import subprocess
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from icrawler.builtin.baidu import BaiduParser
from icrawler.utils import Signal

from depthgen.sources.web.baidu import decoded
from depthgen.sources.web.engines import ENGINES
from depthgen.sources.web.flickr import license_ids
from depthgen.sources.web.search import LICENSES, Found, PageError, Search

KEYWORD_FIELD = {"bing": "q", "google": "q", "baidu": "word", "flickr": "text"}
KEYWORDS = ["cat & dog", "chat noir", "猫", '"quoted" cat', "50% off", "{}", "{0}{x}", "C++", "a#b"]


def fields(address: str) -> dict[str, str]:
    query = parse_qs(urlsplit(address).query, keep_blank_values=True)
    assert all(len(values) == 1 for values in query.values()), "a field came twice"
    return {name: values[0] for name, values in query.items()}


def pages(engine: str, keyword: str = "cat", kind: Any = "fg", **options: str) -> list[str]:
    return ENGINES[engine].pages(Search(kind, keyword, **options))


def found(engine: str, page: str | bytes) -> list[Found]:
    return ENGINES[engine].parse(page.encode() if isinstance(page, str) else page)


# Addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_keyword_is_whole_in_every_address(engine: str, keyword: str) -> None:
    for address in pages(engine, keyword):
        assert fields(address)[KEYWORD_FIELD[engine]] == keyword


@pytest.mark.parametrize("engine", ENGINES)
@given(keyword=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_whole_in_an_address_of_plain_ascii(engine: str, keyword: str) -> None:
    address = pages(engine, keyword)[0]
    assert address.isascii()
    assert not set(address) & set(" #\n\t")
    assert fields(address)[KEYWORD_FIELD[engine]] == keyword


@pytest.mark.parametrize(
    ("engine", "start", "count", "field", "step"),
    [
        ("bing", "https://www.bing.com/images/async?", 50, "first", 20),
        ("google", "https://www.google.com/search?", 10, "start", 100),
        ("baidu", "https://image.baidu.com/search/acjson?", 34, "pn", 30),
        ("flickr", "https://api.flickr.com/services/rest/?", 40, "page", 1),
    ],
)
def test_addresses_walk_through_all_results_over_https(
    engine: str, start: str, count: int, field: str, step: int
) -> None:
    addresses = pages(engine)
    assert len(addresses) == count
    assert all(each.startswith(start) for each in addresses)
    positions = [int(fields(each)[field]) for each in addresses]
    assert positions == list(range(positions[0], positions[0] + count * step, step))


def test_foregrounds_are_asked_for_transparent_and_backgrounds_as_photos() -> None:
    assert "+filterui:photo-transparent" in pages("bing")[0]
    assert "+filterui:photo-photo" in pages("bing", kind="bg")[0]
    assert fields(pages("google")[0])["tbs"] == "ic:trans"
    assert fields(pages("google", kind="bg")[0])["tbs"] == "itp:photo"
    assert "content_type" not in fields(pages("flickr")[0])
    assert fields(pages("flickr", kind="bg")[0])["content_type"] == "1"


@pytest.mark.parametrize("engine", ENGINES)
def test_every_licence_that_an_engine_knows_narrows_its_search(engine: str) -> None:
    known = ENGINES[engine].licenses
    assert set(known) <= set(LICENSES)
    assert pages(engine)[0] not in {pages(engine, license=each)[0] for each in known}


def test_licences_are_asked_for_by_each_engines_own_name() -> None:
    assert "+filterui:license-L2_L3_L4" in pages("bing", license="commercial")[0]
    assert fields(pages("google", license="commercial,modify")[0])["tbs"] == "ic:trans,sur:fmc"
    assert ENGINES["baidu"].licenses == ()
    assert fields(pages("flickr", license="publicdomain")[0])["license"] == "9,10"


def test_flickrs_licence_ids_allow_what_the_name_says() -> None:
    assert [license_ids(each) for each in LICENSES] == [
        "1,2,3,4,5,6,9,10,11,12,13,14,15,16",
        "9,10",
        "1,2,3,4,5,6,9,10,11,12,13,14,15,16",
        "4,5,6,9,10,11,12,13",
        "1,2,4,5,9,10,11,12,14,15",
        "4,5,9,10,11,12",
    ]


def test_flickr_is_asked_with_the_key_for_addresses_of_every_size() -> None:
    asked = fields(pages("flickr", key="k&y")[0])
    assert asked["api_key"] == "k&y"
    assert asked["method"] == "flickr.photos.search"
    assert {"url_o", "url_k", "url_z", "license", "owner_name"} <= set(asked["extras"].split(","))
    assert (asked["safe_search"], asked["per_page"], asked["sort"]) == ("1", "100", "relevance")


# Bing --------------------------------------------------------------------------------------------


def anchor(entry: object, attributes: str = 'class="iusc"') -> str:
    text = entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
    return f'<div class="imgpt"><a {attributes} m="{html.escape(text)}" href="/x"><img/></a></div>'


def test_bings_pictures_come_with_page_and_title_whatever_their_format() -> None:
    entry = {
        "murl": "https://a.example/cut out.png?x=1&y=2",
        "purl": "https://a.example/page?a=1&b='2'",
        "t": 'A \ue000cat\ue001 & <b>"dog"</b> 猫',
    }
    others = [{"murl": f"http://b.example/{name}"} for name in ("x.webp", "y", "z.JPG")]
    page = "".join(map(anchor, [entry, *others]))
    assert found("bing", page) == [
        Found(entry["murl"], entry["purl"], 'A cat & <b>"dog"</b> 猫'),
        *(Found(each["murl"]) for each in others),
    ]


def test_bing_is_read_by_the_attribute_alone_where_the_class_has_another_name() -> None:
    entry = {"murl": "https://a.example/1.png"}
    assert found("bing", anchor(entry, 'class="new"')) == [Found("https://a.example/1.png")]


def test_entries_of_bing_that_name_no_picture_on_the_web_are_left_out() -> None:
    bad = ["not JSON", "[1]", {}, {"murl": None}, {"murl": "ftp://a/b.png"}, {"murl": "file:///x"}]
    good = {"murl": "https://a.example/1.png"}
    assert found("bing", "".join(map(anchor, [*bad, good]))) == [Found("https://a.example/1.png")]


def test_a_search_for_captcha_finds_pictures_of_captchas() -> None:
    entry = {"murl": "https://a.example/captcha.png", "t": "captcha challenge"}
    page = f"<!DOCTYPE html><html><body>{anchor(entry)}</body></html>"
    assert len(found("bing", page)) == 1


@pytest.mark.parametrize(
    "page",
    [
        "",
        " \n",
        "<div></div>",
        '<div class="dgControl hover"><ul></ul></div>',
        '<html><body><div class="dgControl"></div></body></html>',
    ],
)
def test_bing_has_no_more_results(page: str) -> None:
    assert found("bing", page) == []


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<html><body><form class='captcha'></form></body></html>", "captcha"),
        ("<!DOCTYPE html><title>Our systems found unusual traffic</title>", "captcha"),
        ("<html><body>An error occurred</body></html>", "not one of results"),
        ('{"error": 1}', "not one of results"),
        ("Service unavailable", "not one of results"),
        ("<?xml version='1.0'?><Error>Denied</Error>", "not one of results"),
        ('<div class="imgpt"><a class="iusc" data-m="{}"></a></div>', "layout"),
        (anchor("not JSON"), "layout"),
    ],
)
def test_a_page_of_bing_that_is_none_of_results_is_named(page: str, words: str) -> None:
    with pytest.raises(PageError, match=f"^Bing.*{words}"):
        found("bing", page)


# Google ------------------------------------------------------------------------------------------


def result(url: str, page_url: str, title: str) -> str:
    thumbnail = ["https://encrypted-tbn0.gstatic.com/images?q=tbn:x&usqp=y", 183, 275]
    more = {"2000": [None, "a.example"], "2003": [None, "id", page_url, title, None, 1]}
    text = json.dumps([1, [0, "id", thumbnail, [url, 1080, 1920], None, 0, more]])
    return text.replace("=", "\\u003d").replace("&", "\\u0026").replace("'", "\\x27")


def google_page(*results: str) -> str:
    return f"<html><script>AF_initDataCallback({{data:[{','.join(results)}]}});</script></html>"


def test_googles_pictures_come_unescaped_with_page_and_title_and_without_thumbnails() -> None:
    expected = [
        Found("https://a.example/x.png?a=1&b=2", "https://a.example/p?q=1", 'A "cat" & it\'s 猫'),
        Found("http://b.example/no-suffix", "http://b.example/", "B"),
    ]
    listed = [result(each.url, each.page_url, each.title) for each in expected]
    assert found("google", google_page(*listed, listed[0])) == expected


def test_a_picture_of_google_does_not_take_the_page_of_the_next() -> None:
    page = google_page('["https://a.example/1.png",5,5]', result("http://b.example/2", "p", "t"))
    assert found("google", page)[0] == Found("https://a.example/1.png")


def test_googles_older_layout_is_read_by_the_names_of_pictures() -> None:
    urls = ["https://a.example/1.jpg", "http://b.example/2.PNG", "https://www.google.com/logo.png"]
    page = "<script>" + ",".join(f'{{"ou":"{each}"}}' for each in urls) + "</script>"
    assert found("google", page) == [Found(each) for each in urls[:2]]


@pytest.mark.parametrize("page", ["", "\n", google_page(), google_page('["x",1,2]')])
def test_google_has_no_more_results(page: str) -> None:
    assert found("google", page) == []


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ('<html><form id="captcha-form"></form></html>', "captcha"),
        ("<html>detected unusual traffic from your network</html>", "captcha"),
        ('<html><form action="https://consent.google.com/save"></form></html>', "consent"),
        ("<html><noscript>enable JavaScript</noscript></html>", "not one of results"),
        ('<img src="https://encrypted-tbn0.gstatic.com/images?q=x"/>', "not one of results"),
        ('{"error": 1}', "not one of results"),
    ],
)
def test_a_page_of_google_that_is_none_of_results_is_named(page: str, words: str) -> None:
    with pytest.raises(PageError, match=f"^Google.*{words}"):
        found("google", page)


# Baidu -------------------------------------------------------------------------------------------

CIPHERED = "ippr_z2C$qAzdH3FAzdH3Fj2i_z&e3B"  # http://egh.


def test_baidus_cipher_is_read() -> None:
    assert decoded(CIPHERED) == "http://egh."
    assert decoded("https://a.example/b") == "https://a.example/b"


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-%?=", max_size=40))
def test_baidus_cipher_is_read_as_icrawler_reads_it(rest: str) -> None:
    ciphered = f"ippr_z2C$qAzdH3FAzdH3F{rest}_z&e3B{rest}"
    assert decoded(ciphered) == BaiduParser(1, Signal(), None)._decode_url(ciphered)


def baidu_page(*entries: object) -> str:
    return json.dumps({"queryExt": "x", "data": [*entries, {}]})


def test_baidus_pictures_are_the_largest_version_with_page_and_title() -> None:
    page = baidu_page(
        {
            "objURL": CIPHERED,
            "thumbURL": "https://t/1",
            "fromURL": CIPHERED,
            "fromPageTitleEnc": "a <strong>cat</strong> &amp; dog",
        },
        {"objURL": "", "hoverURL": "", "middleURL": "https://m/2", "thumbURL": "https://t/2"},
        {
            "objURL": "rubbish",
            "fromURL": "rubbish",
            "thumbURL": "https://t/3",
            "fromPageTitle": "<strong>x</strong>",
        },
        {"objURL": "rubbish"},
    )
    assert found("baidu", page) == [
        Found("http://egh.", "http://egh.", "a cat & dog"),
        Found("https://m/2"),
        Found("https://t/3", "", "x"),
    ]


def test_baidus_loose_json_is_read() -> None:
    title = r"it\'s \"x\" \-\\"
    page = f'{{"data":[{{"thumbURL":"https:\\/\\/t/1","fromPageTitle":"{title}"}},{{}}]}}'
    assert found("baidu", page) == [Found("https://t/1", "", 'it\'s "x" -\\')]


@pytest.mark.parametrize("page", [baidu_page(), '{"data":[]}', '{"data":null}'])
def test_baidu_has_no_more_results(page: str) -> None:
    assert found("baidu", page) == []


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<html></html>",
        "[]",
        "{}",
        '{"data":{}}',
        '{"antiFlag":1,"message":"Forbid", "data":[]}',
    ],
)
def test_a_page_of_baidu_that_is_none_of_results_is_named(page: str) -> None:
    with pytest.raises(PageError, match=r"^Baidu"):
        found("baidu", page)


# Flickr ------------------------------------------------------------------------------------------


def flickr_page(*photos: object) -> str:
    return json.dumps({"photos": {"page": 1, "photo": photos}, "stat": "ok"})


def test_flickrs_pictures_are_the_largest_version_with_page_and_title() -> None:
    photo = {"id": "7", "owner": "12@N05", "title": "A cat", "url_z": "https://f/z.jpg"}
    page = flickr_page(photo, photo | {"url_o": "https://f/o.png"}, {"id": "8"}, "x")
    where = "https://www.flickr.com/photos/12@N05/7"
    assert found("flickr", page) == [
        Found("https://f/z.jpg", where, "A cat"),
        Found("https://f/o.png", where, "A cat"),
    ]


def test_flickr_has_no_more_results() -> None:
    assert found("flickr", flickr_page()) == []


def test_flickrs_refusal_is_told_in_its_own_words() -> None:
    refusal = {"stat": "fail", "code": 100, "message": "Invalid API Key (Key has expired)"}
    with pytest.raises(PageError, match=r"^Flickr .*Invalid API Key \(Key has expired\).*100"):
        found("flickr", json.dumps(refusal))


@pytest.mark.parametrize("page", ["", "<html></html>", "[]", "{}", '{"stat":"ok","photos":[]}'])
def test_a_page_of_flickr_that_is_none_of_results_is_named(page: str) -> None:
    with pytest.raises(PageError, match=r"^Flickr"):
        found("flickr", page)


# All ---------------------------------------------------------------------------------------------

BITS = [
    "<a ",
    'class="iusc" ',
    'm="',
    '"',
    ">",
    "{",
    '"murl":',
    "https://x",
    "[",
    "1,2]",
    "<?xml",
    "\\x2",
]


@pytest.mark.parametrize("engine", ENGINES)
@given(page=st.one_of(st.binary(), st.lists(st.sampled_from(BITS)).map("".join).map(str.encode)))
def test_any_bytes_are_results_or_a_page_error(engine: str, page: bytes) -> None:
    with contextlib.suppress(PageError):
        assert all(each.url.startswith("http") for each in ENGINES[engine].parse(page))


def test_engines_go_by_their_names() -> None:
    assert {name: each.name for name, each in ENGINES.items()} == {
        name: name for name in ("bing", "google", "baidu", "flickr")
    }


def test_importing_the_engines_leaves_logging_alone() -> None:
    code = (
        "import logging; import depthgen.sources.web.engines; root = logging.getLogger(); "
        f"assert (root.handlers, root.level) == ([], {logging.WARNING})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
