"""What came of taking pictures in from one source, and the words for it.

The one rule: if fewer pictures stand than were asked for, one sentence says how many, what became
of the others, and what to try.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthgen.errors import StageError
from depthgen.sources.options import WORDS
from depthgen.sources.screen import PASSING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthgen.workspace import Kind


class UnreachableError(StageError):
    """Nothing could be reached at all; another kind of picture would fare no better."""


@dataclass(frozen=True)
class Outcome:
    """counts: of candidates and pictures. problem: why that is not what was asked for, if so."""

    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()
    problem: StageError | None = None


def by_reason(reasons: Mapping[str, int]) -> str:
    """`refused: 3 too small; failed: 1 timed out`, empty if there were none."""
    refused = {reason: count for reason, count in reasons.items() if reason not in PASSING}
    failed = {reason: count for reason, count in reasons.items() if reason in PASSING}
    parts = [
        f"{word}: " + ", ".join(f"{count} {reason}" for reason, count in sorted(group.items()))
        for word, group in (("refused", refused), ("failed", failed))
        if group
    ]
    return "; ".join(parts)


def too_few(
    where: str,
    kind: Kind,
    standing: int,
    wanted: int | None,
    reasons: Mapping[str, int],
    advice: str,
) -> StageError:
    """The sentence for a source that gave fewer pictures than were wanted."""
    asked = f" of the {wanted} asked for" if wanted else ""
    why = by_reason(reasons)
    ask_for_fewer = f", or ask for fewer with --count {standing}" if wanted and standing else ""
    return StageError(
        f"{where} gave {standing} {WORDS[kind]}{asked}{f' ({why})' if why else ''}; "
        f"{advice}{ask_for_fewer}"
    )
