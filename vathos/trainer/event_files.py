"""TensorBoard's event files, cut back to where a run goes on.

The one rule: each point is there once. TensorBoard can drop what comes after a step by itself, but
on one axis only, and here batches count steps while tests and pictures count epochs.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from vathos.trainer.checkpoint import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BY_EPOCH", "EVENT_FILES", "cut_back"]

EVENT_FILES = "events.out.tfevents.*"
# How the tags begin whose axis is the epoch.
BY_EPOCH = ("Epoch", "ModelImages")


def cut_back(folder: Path, epoch: int, step: int) -> None:
    """Drop the points of `epoch` and later, and those of steps after `step`, from the event files
    in `folder`; at the very beginning the model's graph too."""
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
