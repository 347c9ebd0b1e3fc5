"""Flickr's picture search, by its API.

The one rule: what the API refuses is told in the API's own words, for only they say whether the key
or the search is wrong.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from icrawler.builtin.flickr import FlickrFeeder

from depthgen.sources.web.search import LICENSES, Found, PageError, addresses_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthgen.sources.web.search import Search

_PER_PAGE = 100
# Original, 2048, 1600, 1024, 800 and 640 pixels; not every picture has all of them.
_SIZES = ("url_o", "url_k", "url_h", "url_l", "url_c", "url_z")
_EXTRAS = ",".join((*_SIZES, "license", "owner_name"))

# Flickr's licence ids (flickr.photos.licenses.getInfo) and what each keeps back: nc, no commercial
# use; nd, no changes; sa, only under the same licence. 1 to 6 are Creative Commons 2.0, 11 to 16
# are 4.0, 9 is CC0 and 10 the Public Domain Mark. Left out: 0, all rights reserved; 7, whose owner
# merely knows of no rights; and 8, works of the US government, which are free in one country.
_KEPT_BACK = {
    1: ("nc", "sa"),
    2: ("nc",),
    3: ("nc", "nd"),
    4: (),
    5: ("sa",),
    6: ("nd",),
    9: (),
    10: (),
    11: (),
    12: ("sa",),
    13: ("nd",),
    14: ("nc",),
    15: ("nc", "sa"),
    16: ("nc", "nd"),
}
_PUBLIC_DOMAIN = "9,10"
# What each of `LICENSES` cannot do with; the licences that allow more are always among those found.
_OBSTACLES = {
    "creativecommons": (),
    "noncommercial": (),
    "commercial": ("nc",),
    "noncommercial,modify": ("nd",),
    "commercial,modify": ("nc", "nd"),
}


class Flickr:
    """Flickr, for those who have a key."""

    name = "flickr"
    licenses: Sequence[str] = LICENSES

    def pages(self, search: Search) -> list[str]:
        """40 addresses of 100 results; the API repeats itself past 4,000."""
        options: dict[str, Any] = {
            "text": search.keyword,
            "sort": "relevance",
            "safe_search": 1,
            "extras": _EXTRAS,
            "per_page": _PER_PAGE,
        }
        # A cut-out is no photo, a scene is.
        if search.kind == "bg":
            options["content_type"] = 1
        if search.license:
            options["license"] = license_ids(search.license)
        return addresses_from(FlickrFeeder, apikey=search.key, **options)

    def parse(self, content: bytes) -> list[Found]:
        """The pictures of a page, the largest version of each that the API gave.

        A page without photos is the end of the results. Raises `PageError` with Flickr's message
        where it refuses, and for what is no answer of the API.
        """
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and answer.get("stat") == "fail":
            message, code = answer.get("message", "no reason given"), answer.get("code", "?")
            raise PageError(
                f"Flickr refuses the search: {message} (code {code}); check the key and the keyword"
            )
        try:
            photos = list(answer["photos"]["photo"])
        except (KeyError, TypeError):
            raise PageError(
                "Flickr answered with something that is no list of photos; try again later"
            ) from None
        return [found for each in photos if isinstance(each, dict) and (found := _found(each))]


def license_ids(name: str) -> str:
    """The ids of Flickr's licences that one of `LICENSES` means, separated by commas."""
    if name == "publicdomain":
        return _PUBLIC_DOMAIN
    obstacles = set(_OBSTACLES[name])
    return ",".join(str(each) for each, kept in _KEPT_BACK.items() if not obstacles & set(kept))


def _found(photo: dict[str, Any]) -> Found | None:
    url = next((str(photo[size]) for size in _SIZES if photo.get(size)), "")
    if not url:
        return None
    page_url = f"https://www.flickr.com/photos/{photo.get('owner', '')}/{photo.get('id', '')}"
    return Found(url, page_url, str(photo.get("title") or ""))
