"""What a search is, and what an engine has to know to run one.

The one rule: an engine only knows addresses and pages. It builds the addresses of its result pages
with icrawler's own feeder, and reads the pictures out of the bytes of a page; it never opens a
connection itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from queue import Queue
from typing import TYPE_CHECKING, Any, Protocol

from icrawler.utils import Signal

from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icrawler import Feeder

    from depthgen.workspace import Kind

LICENSES = (
    "creativecommons",
    "publicdomain",
    "noncommercial",
    "commercial",
    "noncommercial,modify",
    "commercial,modify",
)


class PageError(DepthgenError):
    """A page that is not one of results: a captcha, an error, another layout."""


@dataclass(frozen=True)
class Search:
    """One keyword for one kind of picture.

    license: one of `LICENSES`, or empty for any. key: what the engine asks for, where it does.
    """

    kind: Kind
    keyword: str
    license: str = ""
    key: str = ""


@dataclass(frozen=True)
class Found:
    """A picture that a page of results, or a list, names; `page_url` is where it stands."""

    url: str
    page_url: str = ""
    title: str = ""


class Engine(Protocol):
    """A search engine. `licenses`: those of `LICENSES` that it can filter by."""

    name: str
    licenses: Sequence[str]

    def pages(self, search: Search) -> list[str]:
        """The addresses of its result pages for a search, the first ones first."""
        ...

    def parse(self, content: bytes) -> list[Found]:
        """The pictures on a page, none past the last one. Raises `PageError` for another page."""
        ...


def addresses_from(feeder_class: type[Feeder], **arguments: Any) -> list[str]:
    """What an icrawler feeder would feed, all at once."""
    feeder = feeder_class(1, Signal(), None)
    # Its own queue holds five and would wait for a parser.
    feeder.out_queue = Queue()
    feeder.feed(**arguments)
    return list(feeder.out_queue.queue)
