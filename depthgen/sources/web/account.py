"""What came of a crawl: its counts, its notes, and one sentence if it is not what was asked for.

The one rule: the sentence says what to type next, and that fits the reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthgen.sources.outcome import Outcome, UnreachableError, by_reason, too_few
from depthgen.sources.screen import NO_CONNECTION, PASSING, PRIVATE, TOO_LARGE, TOO_SMALL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthgen.errors import StageError
    from depthgen.sources.options import CrawlOptions
    from depthgen.sources.web.crawler import Ending

# What lets more of such pictures in.
_REMEDIES = {
    PRIVATE: "reach private addresses with --allow-private",
    TOO_LARGE: "let larger files in with --max-bytes",
    TOO_SMALL: "let smaller pictures in with --min-size",
}


@dataclass(frozen=True)
class Account:
    """A crawl that has ended.

    stood: pictures that were there before; kept, added: what stands of this run, and is new.
    reasons: of this run's refusals; before: of those that still hold, "" for pictures that are
    there. found: addresses. seconds: that it had. trouble: pages of results that failed, by
    sentence; unreachable: none has loaded.
    """

    options: CrawlOptions
    ending: Ending
    stood: int
    kept: int
    added: int
    found: int
    reasons: Counter[str]
    before: Counter[str]
    seconds: float
    trouble: Mapping[str, int]
    unreachable: bool

    def outcome(self) -> Outcome:
        """Counts, notes and the problem, if there is one."""
        passing = sum(count for reason, count in self.reasons.items() if reason in PASSING)
        counts = {
            "found": self.found,
            "tried": self.kept + self.reasons.total(),
            "added": self.added,
            "refused": self.reasons.total() - passing,
            "failed": passing,
        }
        pages = ", ".join(f"{count} × {what}" for what, count in sorted(self.trouble.items()))
        notes = (by_reason(self.reasons), f"pages of results that failed: {pages}" if pages else "")
        return Outcome(counts, tuple(filter(None, notes)), self._problem())

    def _problem(self) -> StageError | None:
        standing = self.stood + self.kept
        if standing >= (self.options.wanted or 1) and self.ending != "deadline":
            return None
        if standing < (self.options.wanted or 1) and self._is_cut_off():
            return self._cut_off()
        reasons = self.reasons + Counter({name: n for name, n in self.before.items() if name})
        where = self._where()
        if self.ending == "deadline":
            where = f"the deadline came first, after {self.seconds:.0f} s: {where}"
        options = self.options
        return too_few(
            where, options.kind, standing, options.wanted, reasons, self._advice(reasons)
        )

    def _where(self) -> str:
        if not self.options.is_search:
            return str(self.options.origin)
        elsewhere = self.before[""] - self.stood
        if elsewhere > 0:
            return f"{self.options.source}, of whose finds {elsewhere} are there by other words,"
        return self.options.source

    def _is_cut_off(self) -> bool:
        """Whether nothing was reached: no page, or not one of the addresses."""
        silent = bool(self.reasons) and set(self.reasons) == {NO_CONNECTION} and not self.kept
        return self.unreachable or self.ending == "no network" or silent

    def _cut_off(self) -> UnreachableError:
        if self.unreachable:
            why = "; ".join(self.trouble)
            what = f"no page of results from {self.options.source} could be loaded ({why})"
        else:
            what = f"no address could be reached ({by_reason(self.reasons)})"
        return UnreachableError(
            f"{what}: check the network and try again later, or work without the web: `depthgen "
            f"crawl --source folder --kind {self.options.kind} --from DIR`, or `depthgen render`"
        )

    def _advice(self, reasons: Counter[str]) -> str:
        if self.ending == "deadline":
            return "type the same command again to go on, or give it more with --deadline"
        advice = [_REMEDIES[reason] for reason, _ in reasons.most_common(1) if reason in _REMEDIES]
        if any(reason in PASSING for reason in reasons):
            advice.append("type the same command again to retry what failed")
        advice.append(
            "try other words with --keyword, or another --source"
            if self.options.is_search
            else "add more to the list"
        )
        return ", or ".join(advice)
