"""Baidu's picture search.

The one rule: an address in Baidu's cipher is read before its thumbnails are, for only the first is
the picture itself.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from icrawler.builtin.baidu import BaiduFeeder

from depthgen.sources.web.search import Found, PageError, addresses_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthgen.sources.web.search import Search

_MOST_RESULTS = 1000
_WEB = ("http://", "https://")
_THUMBNAILS = ("hoverURL", "middleURL", "thumbURL")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_TAG = re.compile(r"</?strong>")

# The cipher: three signs become words, letters and digits change places, x, y and z stay.
_SIGNS = {"_z2C$q": ":", "_z&e3B": ".", "AzdH3F": "/"}
_LETTERS = str.maketrans("wkv1ju2it3hs4g5rq6fp7eoa8dn9cm0bl", "abcdefghijklmnopqrstuvw0123456789")


class Baidu:
    """Baidu Images, by its JSON; it can filter neither by licence nor by transparency."""

    name = "baidu"
    licenses: Sequence[str] = ()

    def pages(self, search: Search) -> list[str]:
        """34 addresses, 30 results apart."""
        # The feeder puts the keyword into the address as it is, and the address in the clear, where
        # anyone on the way could read the search and put in other pictures.
        keyword = quote_plus(search.keyword)
        addresses = addresses_from(
            BaiduFeeder, keyword=keyword, offset=0, max_num=_MOST_RESULTS, filters=None
        )
        return [f"https://{each.removeprefix('http://')}" for each in addresses]

    def parse(self, content: bytes) -> list[Found]:
        """The pictures of a page, the largest version of each that it names.

        An empty `data`, or one of empty entries, is the end of the results. Raises `PageError` for
        what is no JSON, or has no `data`: Baidu's answer to a crawler that it has recognised.
        """
        answer = _tolerant_json(content.decode("utf-8", "replace"))
        if isinstance(answer, dict) and answer.get("antiFlag"):
            raise PageError("Baidu refuses to answer crawlers from here; try another source")
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list | None):
            raise PageError(
                "Baidu answered with a page that is not one of results; try again later"
            )
        if "data" not in answer:
            raise PageError("Baidu answered without any results; try again later")
        entries = (each for each in answer["data"] or () if isinstance(each, dict))
        return [found for each in entries if (found := _found(each))]


def _tolerant_json(text: str) -> Any:
    """JSON that may escape what needs no escape, as in `it\\'s`; None where it is none."""
    text = _ESCAPE.sub(lambda each: each[0] if each[1] in '"\\/bfnrtu' else each[1], text)
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _found(entry: dict[str, Any]) -> Found | None:
    urls = [decoded(str(entry.get("objURL") or ""))]
    urls += [str(entry.get(key) or "") for key in _THUMBNAILS]
    url = next((each for each in urls if each.startswith(_WEB)), "")
    title = str(entry.get("fromPageTitleEnc") or entry.get("fromPageTitle") or "")
    page_url = decoded(str(entry.get("fromURL") or ""))
    if not page_url.startswith(_WEB):
        page_url = ""
    return Found(url, page_url, html.unescape(_TAG.sub("", title)).strip()) if url else None


def decoded(address: str) -> str:
    """An address out of Baidu's cipher; one that is in the clear stays as it is."""
    if address.startswith(_WEB):
        return address
    for sign, meaning in _SIGNS.items():
        address = address.replace(sign, meaning)
    return address.translate(_LETTERS)
