"""What verify found, as data and as text.

The one rule: every finding is counted, the first hundred are told.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MOST_TOLD = 100


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which archive (or manifest), at which member, and what."""

    archive: str
    member: str
    problem: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.archive, self.member, self.problem) if part)


@dataclass
class VerifyReport:
    """counts: members checked, by archive. findings: the first of them; total: how many in all.

    notes: what is worth knowing and not wrong, a sentence each.
    """

    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    total: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.total

    def add(self, archive: str, member: str, problem: str) -> None:
        """Note one thing that is wrong."""
        self.total += 1
        if len(self.findings) < MOST_TOLD:
            self.findings.append(Finding(archive, member, problem))

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "counts": self.counts,
            "total": self.total,
            "findings": [asdict(finding) for finding in self.findings],
            "notes": self.notes,
        }

    def text(self) -> str:
        """Lines for a person: what is wrong, or what was checked."""
        checked = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        notes = [f"note: {note}" for note in self.notes]
        if self.ok:
            return "\n".join((f"all is well; members checked: {checked}", *notes))
        lines = [f"  {finding}" for finding in self.findings]
        if self.total > len(self.findings):
            lines.append(f"  … and {self.total - len(self.findings)} more")
        things = "1 thing is" if self.total == 1 else f"{self.total} things are"
        return "\n".join((f"{things} wrong; members checked: {checked}", *lines, *notes))
