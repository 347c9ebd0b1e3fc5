"""Google's picture search.

The one rule: pictures are read out of the data in a page's scripts, never out of its markup, which
changes often and holds thumbnails only.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from icrawler.builtin.google import GoogleFeeder

from depthgen.sources.web.search import Found, PageError, addresses_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthgen.sources.web.search import Search

_MOST_RESULTS = 1000
_FILTERS = {"fg": {"color": "transparent"}, "bg": {"type": "photo"}}

_STRING = r'"((?:[^"\\]|\\.)*)"'
# ["https://…",height,width]
_PICTURE = re.compile(r'\[\s*"(https?:(?:[^"\\]|\\.)*)"\s*,\s*\d+\s*,\s*\d+\s*\]')
# What follows a picture: "2003":[null,"id","https://page…","title",…
_ORIGIN = re.compile(rf'"2003":\s*\[\s*null\s*,\s*{_STRING}\s*,\s*{_STRING}\s*,\s*{_STRING}')
# The layout before that, as icrawler knows it: any quoted address that ends like a picture.
_NAMED = re.compile(r'"(https?:(?:[^"\\]|\\.)+?\.(?:jpe?g|png|webp|gif|bmp))"', re.IGNORECASE)
_HEXADECIMAL = re.compile(r"(?<!\\)((?:\\\\)*)\\x([0-9a-fA-F]{2})")
# Thumbnails, logos and the like.
_OWN_HOSTS = ("gstatic.com", "google.com")

_WALL_MARKS = ("unusual traffic", "captcha-form", "/sorry/index", "consent.google.com/save")
_DATA_MARK = "AF_initDataCallback"


class Google:
    """Google Images, by the result pages that it serves to a browser."""

    name = "google"
    licenses: Sequence[str] = (
        "noncommercial",
        "commercial",
        "noncommercial,modify",
        "commercial,modify",
    )

    def pages(self, search: Search) -> list[str]:
        """10 addresses, 100 results apart."""
        filters = dict(_FILTERS[search.kind])
        if search.license:
            filters["license"] = search.license
        return addresses_from(
            GoogleFeeder, keyword=search.keyword, offset=0, max_num=_MOST_RESULTS, filters=filters
        )

    def parse(self, content: bytes) -> list[Found]:
        """The pictures in the data of a page's scripts, each once, or by an older layout.

        A page without pictures is the end of the results if it is blank or carries Google's data
        block with none in it. Raises `PageError` for a captcha, a consent form, and any page
        without that block, such as the one for those without JavaScript.
        """
        page = content.decode("utf-8", "replace")
        found = _of_today(page) or _of_old(page)
        if not found:
            _check_that_it_is_the_end(page)
        return found


def _of_today(page: str) -> list[Found]:
    found: dict[str, Found] = {}
    matches = [each for each in _PICTURE.finditer(page) if _is_picture(_plain(each[1]))]
    ends = [each.start() for each in matches[1:]] + [len(page)]
    for match, end in zip(matches, ends, strict=False):
        origin = _ORIGIN.search(page, match.end(), end)
        page_url, title = (_plain(origin[2]), _plain(origin[3])) if origin else ("", "")
        url = _plain(match[1])
        found.setdefault(url, Found(url, page_url, html.unescape(title)))
    return list(found.values())


def _of_old(page: str) -> list[Found]:
    urls = (_plain(each[1]) for each in _NAMED.finditer(page))
    return [Found(url) for url in dict.fromkeys(urls) if _is_picture(url)]


def _plain(text: str) -> str:
    """What a string in a script says; JavaScript has an escape that JSON lacks."""
    text = _HEXADECIMAL.sub(r"\1\\u00\2", text)
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return ""


def _is_picture(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if not url.startswith(("http://", "https://")):
        return False
    return not any(host == own or host.endswith(f".{own}") for own in _OWN_HOSTS)


def _check_that_it_is_the_end(page: str) -> None:
    if any(mark in page for mark in _WALL_MARKS):
        raise PageError(
            "Google asks for a captcha or for consent instead of answering; try another source"
        )
    if page.strip() and _DATA_MARK not in page:
        raise PageError(
            "Google answered with a page that is not one of results; try another source"
        )
