"""Filling archives from workers: the loop that every archive-making stage runs.

The one rule: units of work are made in any order and written in theirs, so that the bytes do not
depend on who worked, or on how often it was stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthgen.archive import Block, Entry, Lockstep
from depthgen.workers import ordered_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from depthgen.stage import Progress

# How often writing to the disk is started behind the work. A power cut loses what was not on it
# yet; a kill loses nothing, for the system still has the bytes.
_COMMIT_EVERY_S = 0.5


@dataclass(frozen=True)
class Part:
    """Archives that grow in step, and the units of work that fill them.

    counts: for each archive, the members that each unit adds. samples: what each unit is worth to
    the progress.
    """

    paths: Sequence[Path]
    items: Sequence[Any]
    counts: Sequence[Sequence[int]]
    samples: Sequence[int]


@dataclass(frozen=True)
class _Packed:
    """Packs what `work` makes in the worker, where there is a core for it."""

    work: Callable[[Any], Sequence[Iterable[Entry]]]

    def __call__(self, item: Any) -> list[Block]:
        return [Block.pack(entries) for entries in self.work(item)]


def produce(
    parts: Sequence[Part],
    work: Callable[[Any], Sequence[Iterable[Entry]]],
    workers: int,
    describe: Callable[[Any], str],
    progress: Progress,
    commit_each: bool = False,
) -> None:
    """Make whatever is missing of `parts`; `work` turns an item into one block for each archive.

    commit_each: sync after every unit, and wait for it, instead of now and then behind the work.
    """
    total = sum(sum(part.samples) for part in parts)
    starts = [Lockstep.standing(part.paths, part.counts) for part in parts]
    done = sum(sum(part.samples[:start]) for part, start in zip(parts, starts, strict=True))
    progress(done, total)
    missing = [
        item for part, start in zip(parts, starts, strict=True) for item in part.items[start:]
    ]
    spread = max(1, min(workers, len(missing)))
    with ordered_map(_Packed(work), missing, spread, describe) as results:
        for part, start in zip(parts, starts, strict=True):
            # One part after the other, so that a thousand shards need no thousand open files.
            synced = time.monotonic()
            with Lockstep(part.paths, part.counts) as lockstep:
                assert lockstep.start == start, "the workspace is locked"
                for samples in part.samples[start:]:
                    lockstep.append(next(results))
                    done += samples
                    progress(done, total)
                    if commit_each:
                        lockstep.commit()
                    elif time.monotonic() - synced > _COMMIT_EVERY_S:
                        lockstep.commit_behind()
                        synced = time.monotonic()
