"""Bing's picture search.

The one rule: a page is judged by the pictures on it first. Only a page without any is asked what it
is, so that a search for "captcha" does not end at its own results.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from bs4 import BeautifulSoup, SoupStrainer  # type: ignore[attr-defined]
from icrawler.builtin.bing import BingFeeder

from depthgen.sources.web.search import LICENSES, Found, PageError, addresses_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthgen.sources.web.search import Search

# Past this Bing repeats itself.
_MOST_RESULTS = 1000
_TYPES = {"fg": "transparent", "bg": "photo"}
# Bing puts these two round the words of the search.
_HIGHLIGHTS = str.maketrans("", "", "\ue000\ue001")
_PICTURE_MARKS = ("iusc", "imgpt", "mimg")
_FRAME_OF_RESULTS = "dgControl"
_DOCUMENT_MARKS = ("<html", "<!doctype", "<?xml")
_WALL_MARKS = ("captcha", "challenge", "turnstile", "unusual traffic")


class Bing:
    """Bing Images, by its asynchronous result pages, which hold about 35 pictures each."""

    name = "bing"
    licenses: Sequence[str] = LICENSES

    def pages(self, search: Search) -> list[str]:
        """50 addresses, 20 results apart, so that two neighbours share pictures."""
        filters = {"type": _TYPES[search.kind]}
        if search.license:
            filters["license"] = search.license
        # The feeder puts the keyword into the address as it is.
        keyword = quote_plus(search.keyword)
        return addresses_from(
            BingFeeder, keyword=keyword, offset=0, max_num=_MOST_RESULTS, filters=filters
        )

    def parse(self, content: bytes) -> list[Found]:
        """The pictures that the `m` attributes of a page's anchors tell of, whatever their format.

        A page without pictures is the end of the results if it is blank, a fragment, or Bing's
        empty frame of results. Raises `PageError` for a whole document of another kind (a captcha),
        for what is no HTML, and for pictures that are told of in a way we cannot read.
        """
        page = content.decode("utf-8", "replace")
        found = [each for text in _metadata(page) if (each := _found(text))]
        if not found:
            _check_that_it_is_the_end(page)
        return found


def _metadata(page: str) -> list[str]:
    # Beautiful Soup warns of XML and of text without a tag.
    if "<" not in page or page.lstrip("\ufeff\n\r\t ").startswith("<?xml"):
        return []
    soup = BeautifulSoup(page, "lxml", parse_only=SoupStrainer("a"))
    anchors = soup.find_all("a", class_="iusc", m=True) or soup.find_all("a", m=True)
    return [str(each["m"]) for each in anchors]


def _found(text: str) -> Found | None:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    url, page_url, title = (str(entry.get(key) or "").strip() for key in ("murl", "purl", "t"))
    if not url.lower().startswith(("http://", "https://")):
        return None
    return Found(url, page_url, title.translate(_HIGHLIGHTS))


def _check_that_it_is_the_end(page: str) -> None:
    text = page.strip().lower()
    if any(mark in text for mark in _PICTURE_MARKS):
        raise PageError("Bing's result page has a layout that we cannot read; try another source")
    is_document = any(mark in text for mark in _DOCUMENT_MARKS)
    if not text or _FRAME_OF_RESULTS.lower() in text or (text[0] == "<" and not is_document):
        return
    if any(mark in text for mark in _WALL_MARKS):
        raise PageError("Bing asks for a captcha instead of answering; wait a while and try again")
    raise PageError("Bing's page is not one of results; try again later")
