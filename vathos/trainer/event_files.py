"""TensorBoard's event files, cut back to where a run goes on.

The one rule: each point is there once. TensorBoard can drop what comes after a step by itself, but
on one axis only, and here batches count steps while tests and pictures count epochs.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from vathos.trainer.checkpoint import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["BY_EPOCH", "EVENT_FILES", "cut_back", "without_tensorflow"]

EVENT_FILES = "events.out.tfevents.*"
# How the tags begin whose axis is the epoch.
BY_EPOCH = ("Epoch", "ModelImages")


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """What is imported of TensorBoard in here opens files with its own stand-in for TensorFlow.

    Else it loads TensorFlow wherever that is installed, which takes seconds and fills the terminal,
    to make a folder. TensorBoard has a switch for it too, a module `tensorboard.compat.notf`, but
    that one stays: a caller's `tf.summary.scalar` would then fail in the same process.
    """
    from tensorboard import compat
    from tensorboard.compat import tensorflow_stub

    before, compat.tf = compat.tf, tensorflow_stub
    try:
        yield
    finally:
        compat.tf = before


def cut_back(folder: Path, epoch: int, step: int) -> None:
    """Drop the points of `epoch` and later, and those of steps after `step`, from the event files
    in `folder`; at the very beginning the model's graph too."""
    with without_tensorflow():
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

    def stays(event: Any) -> bool:
        if event.graph_def:
            return step > 0
        by_epoch = any(value.tag.startswith(BY_EPOCH) for value in event.summary.value)
        return event.step < epoch if by_epoch else event.step <= step

    for path in sorted(folder.glob(EVENT_FILES)):
        records = list(RawEventFileLoader(str(path)).Load())
        kept = [record for record in records if stays(Event.FromString(record))]
        if len(kept) == len(records):
            continue

        def write(file: IO[bytes], kept: list[bytes] = kept) -> None:
            writer = RecordWriter(file)
            for record in kept:
                writer.write(record)

        write_atomic(path, write)
