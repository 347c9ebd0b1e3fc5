"""A picture that a source offers, and the judgement of it.

The one rule: judging reads and decodes but keeps no state, so that any number of threads can do it;
what is decided by it is up to `Intake`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthgen.sources.screen import UNREADABLE, Limits, Verdict, screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from depthgen.workspace import Kind


@dataclass(frozen=True)
class Offer:
    """A file that a source offers; `read` gives its bytes or raises `OSError`.

    origin: its absolute path, its URL, or what it was rendered from. name: for messages.
    """

    origin: str
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Candidate(Offer):
    """A picture that a source offers, and the depth map that belongs to it, if there is one.

    page_url, title, keyword, license: where on the web it was found, and by what search.
    """

    source: str
    depth: Offer | None = None
    page_url: str = ""
    title: str = ""
    keyword: str = ""
    license: str = ""


@dataclass(frozen=True)
class Judged:
    """A candidate, its bytes and what screening found. nbytes: how many there are, as far as known.

    http_status: of the last answer, for what came from the web.
    """

    candidate: Candidate
    data: bytes
    verdict: Verdict
    nbytes: int = 0
    http_status: int | None = None


def judge(candidate: Candidate, kind: Kind, limits: Limits) -> Judged:
    """Read a candidate and screen it; nothing is raised for a bad one."""
    try:
        data = candidate.read()
    except OSError:
        return Judged(candidate, b"", Verdict(UNREADABLE))
    return Judged(candidate, data, screen(data, kind, limits), len(data))
