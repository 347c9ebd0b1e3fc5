"""How much memory a step would take.

The one rule: a batch that does not fit is a finding, never the end of the program: a GPU says so by
itself, and on a CPU, where the system would end the process, it is foretold and not tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vathos.utils.memory import available_memory

if TYPE_CHECKING:
    from vathos.bench.demand import Demand

__all__ = ["foretell"]

# Beside what is kept for it, the backward pass holds the gradients of the layer it is at, and the
# convolutions copies in their own layout.
SCRATCH = 1.5
# Of the parameters' own size: they, their gradients, and two moments of the optimiser.
STATES = 4


def foretell(demand: Demand, batch_size: int) -> str | None:
    """Why a step of this batch size should not be tried on this CPU; None if it should."""
    kept = demand.kept_fixed + batch_size * demand.kept
    needed, free = int(SCRATCH * kept) + STATES * demand.weights, available_memory()
    if not free or needed <= free:
        return None
    return f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
