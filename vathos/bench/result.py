"""What was measured: a row for each network and batch size, and the device that they ran on.

The one rule: a row keeps what was timed and counted; every rate and share is derived from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from vathos.bench.timeline import KINDS

if TYPE_CHECKING:
    from vathos.bench.demand import Demand
    from vathos.bench.roof import Roof
    from vathos.bench.timeline import Kind

__all__ = ["OUT_OF_MEMORY", "Bench", "Row"]

OUT_OF_MEMORY = "out of memory"  # what a problem of that kind begins with


@dataclass(frozen=True)
class Row:
    """One network at one batch size.

    samples: to an optimiser step. seconds: of each timed step, by kind. memory: bytes at most, as
    `vathos.utils.memory.peak` counts them. problem: why there are no seconds, or None; where there
    is one, there are no rates.
    """

    network: str
    batch_size: int
    samples: int
    demand: Demand
    seconds: tuple[dict[Kind, float], ...] = ()
    memory: int | None = None
    problem: str | None = None

    @property
    def step_seconds(self) -> float:
        """The median of the steps."""
        return median(sum(step.values()) for step in self.seconds)

    @property
    def samples_per_s(self) -> float:
        """By the median step."""
        return self.samples / self.step_seconds

    @property
    def shares(self) -> dict[Kind, float]:
        """Of the time of all steps, by kind; their sum is 1."""
        whole = sum(sum(step.values()) for step in self.seconds)
        return {kind: sum(step[kind] for step in self.seconds) / whole for kind in KINDS}

    @property
    def flop_per_s(self) -> float:
        """What the network needs, by the time that a sample took."""
        return self.demand.flop * self.samples_per_s

    @property
    def bytes_per_s(self) -> float:
        """Likewise."""
        return self.demand.moved_by(self.batch_size) * self.samples_per_s

    def of_roof(self, roof: Roof) -> float:
        """The measured rate by the one that the roof allows.

        Above 1 where operators are fused, or find in a cache what they are counted to move.
        """
        moved = self.demand.moved_by(self.batch_size)
        return self.samples_per_s / roof.samples_per_s(self.demand.flop, moved)

    def to_json(self, roof: Roof) -> dict[str, Any]:
        """Plain values; seconds, bytes, FLOP."""
        about = {"network": self.network, "batch_size": self.batch_size}
        if self.problem is not None:
            return {**about, "problem": self.problem}
        return {
            **about,
            "steps": len(self.seconds),
            "seconds_per_step": self.step_seconds,
            "samples_per_second": self.samples_per_s,
            "shares": self.shares,
            "flop_per_sample": self.demand.flop,
            "bytes_per_sample": self.demand.moved_by(self.batch_size),
            "kept_per_sample": self.demand.kept,
            "flop_per_second": self.flop_per_s,
            "bytes_per_second": self.bytes_per_s,
            "of_roof": self.of_roof(roof),
            "memory": self.memory,
        }


@dataclass
class Bench:
    """All rows, and on what they were measured.

    device: as people call it. size: (H, W). drawn: pictures drawn at random, not read. doubles: the
    largest batch size was looked for. interrupted: Ctrl-C ended it.
    """

    device: str
    precision: str
    size: tuple[int, int]
    drawn: bool
    doubles: bool
    roof: Roof
    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False

    def largest(self) -> dict[str, int]:
        """The largest batch size that was trained, by network."""
        return {row.network: row.batch_size for row in self.rows if row.problem is None}

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds, bytes, FLOP."""
        return {
            "device": self.device,
            "precision": self.precision,
            "size": list(self.size),
            "data": "drawn" if self.drawn else "archives",
            "roof": {
                "flop_per_second": self.roof.flop_per_s,
                "bytes_per_second": self.roof.bytes_per_s,
            },
            "interrupted": self.interrupted,
            "rows": [row.to_json(self.roof) for row in self.rows],
        }
