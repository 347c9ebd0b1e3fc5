"""What a crawl has seen of result pages: which addresses, which pages failed, which search is over.

The one rule: every parser thread writes here, under one lock, so that no address is handed out
twice, however many pages name it.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthgen.sources.web.search import Found, Search

# So many failed pages of a search in a row, and the rest of it is not asked for.
_FAILURES_A_SEARCH = 2
# So many failed pages before any has loaded, and there is no one to ask.
_FAILURES_AT_FIRST = 3


class Ledger:
    """loaded: pages that held results or said that there are none. trouble: what was wrong with
    the others, by sentence. handed_out: addresses.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._seen_by: dict[Search, set[str]] = {}
        self._over: set[Search] = set()
        self._failures: Counter[Search] = Counter()
        self._furthest: Counter[Search] = Counter()
        self.loaded = 0
        self.trouble: Counter[str] = Counter()

    @property
    def handed_out(self) -> int:
        return len(self._seen)

    @property
    def unreachable(self) -> bool:
        """Whether pages failed, and none has loaded."""
        return not self.loaded and bool(self.trouble)

    def is_over(self, search: Search) -> bool:
        """Whether further pages of a search are not worth asking for."""
        with self._lock:
            if not self.loaded and self.trouble.total() >= _FAILURES_AT_FIRST:
                return True
            return search in self._over

    def page_loaded(
        self, search: Search, found: Sequence[Found], at: int | None = None
    ) -> list[Found]:
        """Note a page; returns what no page has named before. One without news ends its search.

        at: the how manieth it is of its search. An earlier page that comes late tells of no end:
        those around it may have named all that it names.
        """
        with self._lock:
            self.loaded += 1
            self._failures[search] = 0
            seen = self._seen_by.setdefault(search, set())
            late = at is not None and at < self._furthest[search]
            self._furthest[search] = max(self._furthest[search], at or 0)
            if not found or (not late and all(each.url in seen for each in found)):
                self._over.add(search)
            seen.update(each.url for each in found)
            fresh = {each.url: each for each in found if each.url not in self._seen}
            self._seen.update(fresh)
            return list(fresh.values())

    def page_failed(self, search: Search, problem: str) -> None:
        with self._lock:
            self.trouble[problem] += 1
            self._failures[search] += 1
            if self._failures[search] >= _FAILURES_A_SEARCH:
                self._over.add(search)
