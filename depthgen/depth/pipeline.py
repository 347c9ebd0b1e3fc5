"""Labelling an archive with a network: read, decode, forward, encode, append, all at once.

Decoding and encoding run in threads beside the forward pass, a few batches ahead and behind. The
one rule: labels are appended in the order of the samples, and the batches begin at the same samples
after every stop, so that the bytes do not depend on how often there was one.
"""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

import numpy as np

from depthgen import images
from depthgen.archive import Archive, ArchiveError, ArchiveWriter
from depthgen.depth.convention import FileEstimator
from depthgen.depth.forward import Forward, NotFiniteError
from depthgen.depth.quantity import label_entry
from depthgen.errors import StageError
from depthgen.stage import sound_member
from depthgen.workspace import DEPTH_INFO_MEMBER, Member, parse_member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from numpy.typing import NDArray

    from depthgen.archive import Entry
    from depthgen.depth.estimator import Estimator
    from depthgen.depth.quantity import Quantity
    from depthgen.stage import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches that are decoded before the network wants them, and encoded behind it.
_AHEAD, _BEHIND = 2, 4


@dataclass(frozen=True)
class Sample:
    """A composite: where it lies in its archive, and what its name says."""

    position: int
    member: Member


def samples_of(archive: Archive) -> list[Sample]:
    """The composites of an archive, in order; label tables are none."""
    parsed = ((at, parse_member(name)) for at, name in enumerate(archive.names))
    return [Sample(at, member) for at, member in parsed if member is not None]


def read_pictures(archive: Archive, samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """(N, H, W, 3) of composites, which must be of one size. Raises `ImageError`, `StageError`."""
    pictures = [
        images.decode(
            sound_member(archive, each.position, "composite"),
            "RGB",
            name=archive.name(each.position),
        )
        for each in samples
    ]
    for sample, picture in zip(samples, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise StageError(
                f"{archive.name(sample.position)} has another size than the composite before it; "
                "make the composites anew"
            )
    return np.stack(pictures)


@dataclass
class Labelling:
    """How an archive is labelled. batch: samples that are committed together.

    forward_batch: samples that go through the network at once. threads: for decoding and encoding.
    """

    estimator: Estimator
    quantity: Quantity
    forward_batch: int
    batch: int
    threads: int

    def write(self, shards: Sequence[Path], outputs: Sequence[Path], progress: Progress) -> int:
        """Make what is missing of `outputs`, a label archive for each of `shards`.

        Returns how many samples there are.

        Raises `StageError` naming the sample that the network cannot label; what was committed
        before it stays.
        """
        total, done = 0, 0
        for shard in shards:
            with Archive(shard) as archive:
                total += len(samples_of(archive))
        for number, (shard, output) in enumerate(zip(shards, outputs, strict=True)):
            with Archive(shard) as archive:
                samples = samples_of(archive)
                # The first file says what all of them hold.
                info = [] if number else [self._info()]
                if output.exists():
                    _refuse_another_count(output, len(samples) + len(info))
                else:
                    with ArchiveWriter(output) as writer:
                        for count in self._fill(writer, archive, samples, info):
                            progress(done + count, total)
            done += len(samples)
            progress(done, total)
        return total

    def _info(self) -> Entry:
        data = (json.dumps(asdict(self.quantity), indent=2) + "\n").encode()
        return DEPTH_INFO_MEMBER, data, crc32(data)

    def _fill(
        self,
        writer: ArchiveWriter,
        archive: Archive,
        samples: Sequence[Sample],
        info: Sequence[Entry],
    ) -> Iterator[int]:
        """Append what is missing; yields how many samples are done, now and then."""
        done = committed = self._start(writer, len(info))
        yield done
        if not len(writer):
            for name, data, checksum in info:
                writer.add(name, data, checksum)
        for entries in self.label(archive, samples[done:], kept=True):
            for name, data, checksum in entries:
                writer.add(name, data, checksum)
            done += len(entries)
            if done - committed >= self.batch:
                writer.commit()
                committed = done
            yield done

    def _start(self, writer: ArchiveWriter, info: int) -> int:
        """The first sample that is missing, after cutting off a batch that is not whole."""
        whole = max(0, len(writer) - info) // self.forward_batch * self.forward_batch
        writer.truncate(whole + info if len(writer) >= info else 0)
        return whole

    def label(
        self, archive: Archive, samples: Sequence[Sample], kept: bool = False
    ) -> Iterator[list[Entry]]:
        """The label members of composites, in order, a forward batch at a time.

        kept: whether they are written, which is said where the network fails.
        """
        size = self.forward_batch
        batches = [samples[at : at + size] for at in range(0, len(samples), size)]
        forward = Forward(self.estimator, self.quantity.full_scale, self.quantity.bits, size)

        def read(batch: Sequence[Sample]) -> tuple[Sequence[Sample], NDArray[np.uint8]]:
            return batch, read_pictures(archive, batch)

        with ThreadPoolExecutor(self.threads) as pool:
            decoded = _ahead(pool, read, batches, _AHEAD)
            try:
                yield from _ahead(pool, _encode, forward.stream(decoded), _BEHIND)
            except NotFiniteError as error:
                name = archive.name(error.key[error.position].position)
                raise not_finite(error, name, kept) from error


def not_finite(error: NotFiniteError, name: str, kept: bool) -> StageError:
    """What to say where a network fails on the composite `name`.

    kept: whether labels before this one may be on the disk.
    """
    # A network file computes as it says, and cannot be asked for another precision.
    is_file = isinstance(error.estimator, FileEstimator)
    finer = not is_file and error.estimator.precision != "float32"
    remedy = f"try {'--precision float32 or ' if finer else ''}another --model"
    if kept:
        remedy = f"what was committed before it is kept; {remedy}, with --overwrite"
    model = error.estimator.model
    return StageError(f"{model} gives a value that is no number for {name}; {remedy}")


def _encode(labelled: tuple[Sequence[Sample], NDArray[Any]]) -> list[Entry]:
    samples, labels = labelled
    return [label_entry(each.member, label) for each, label in zip(samples, labels, strict=True)]


def _ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """Map in order, in threads, `count` items ahead of what is taken."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _refuse_another_count(path: Path, members: int) -> None:
    with Archive(path) as archive:
        if len(archive) != members:
            raise ArchiveError(
                f"{path} has {len(archive)} members where {members} belong; move it away, or make "
                "it anew with --overwrite"
            )
