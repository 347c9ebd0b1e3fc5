"""Archives that grow in step, unit by unit: a composite and its mask, a cut-out and its mask.

The one rule: after any stop, all of them are cut back to the same number of whole units, so that
what is made next fits all. One that is already closed is left alone and the others catch up.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import accumulate
from typing import TYPE_CHECKING

from depthgen.archive.format import ArchiveError
from depthgen.archive.reader import Archive
from depthgen.archive.writer import ArchiveWriter, partial_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from depthgen.archive.block import Block


class Lockstep:
    """Writers of several archives, resumed at the smallest number of units that all of them hold.

    paths: the archives. counts: for each archive, how many members each unit adds to it.
    `start` is the first unit still to be made. As a context manager it closes the archives on
    success, in the order given, and leaves their partial files after an exception.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[Sequence[int]]) -> None:
        self._bounds = [[0, *accumulate(column)] for column in counts]
        self._writers: list[ArchiveWriter | None] = []
        self._stack = ExitStack()
        units = len(counts[0])
        with self._stack:
            for path, bounds in zip(paths, self._bounds, strict=True):
                self._writers.append(self._open(path, bounds[-1]))
            stands = [
                _units_in(len(writer), bounds)
                for writer, bounds in zip(self._writers, self._bounds, strict=True)
                if writer is not None
            ]
            self.start = min(stands, default=units)
            for writer, bounds in zip(self._writers, self._bounds, strict=True):
                if writer is not None:
                    writer.truncate(bounds[self.start])
            self._stack = self._stack.pop_all()

    def _open(self, path: Path, members: int) -> ArchiveWriter | None:
        if not path.exists():
            return self._stack.enter_context(ArchiveWriter(path))
        with Archive(path) as archive:
            if len(archive) != members:
                raise ArchiveError(
                    f"{path} has {len(archive)} members where {members} belong; "
                    "move it away, or make it anew with --overwrite"
                )
        return None

    def append(self, blocks: Sequence[Block]) -> None:
        """Add the next unit: one block of members for each archive."""
        for writer, block in zip(self._writers, blocks, strict=True):
            if writer is not None:
                writer.add_block(block)

    def commit(self) -> None:
        """Put everything appended so far on the disk."""
        for writer in self._writers:
            if writer is not None:
                writer.commit()

    @classmethod
    def standing(cls, paths: Sequence[Path], counts: Sequence[Sequence[int]]) -> int:
        """Where a `Lockstep` on these would start, found without creating or holding a file."""
        if not any(found.exists() for path in paths for found in (path, partial_path(path))):
            return 0
        lockstep = cls(paths, counts)
        lockstep.suspend()
        return lockstep.start

    def suspend(self) -> None:
        """Let go of all partial files without finishing them."""
        for writer in self._writers:
            if writer is not None:
                writer.suspend()

    def commit_behind(self) -> None:
        """The same, while the caller goes on; see `ArchiveWriter.commit_behind`."""
        for writer in self._writers:
            if writer is not None:
                writer.commit_behind()

    def close(self) -> None:
        """Close the archives, in the order given; nothing happens to those that are closed.

        Raises `ValueError` if units are missing: an archive that exists is taken to be whole.
        """
        for writer, bounds in zip(self._writers, self._bounds, strict=True):
            if writer is not None and len(writer) != bounds[-1]:
                raise ValueError(f"{writer.path} has {len(writer)} of {bounds[-1]} members")
        for writer in self._writers:
            if writer is not None:
                writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:  # if one cannot be closed, this lets go of the others
            self.close()


def _units_in(members: int, bounds: Sequence[int]) -> int:
    """How many whole units `members` members make."""
    units = 0
    while units + 1 < len(bounds) and bounds[units + 1] <= members:
        units += 1
    return units
