"""What a run writes for people: `metrics.csv`, and curves under the original's TensorBoard tags.

The one rule: after a resume the record reads as if nothing had happened; what came after the point
of resumption is dropped and written again.
"""

from __future__ import annotations

import csv
import io
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vathos.data_loader.figures import prediction_tiles
from vathos.errors import ConfigError, DataError
from vathos.trainer.checkpoint import write_atomic
from vathos.trainer.meter import METRICS, TEST_METRICS
from vathos.trainer.trackers import TensorBoard, open_trackers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from vathos.trainer.trackers import Tracker
    from vathos.utils.schema import Config

__all__ = ["METRICS_FILE", "RunLog"]

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"
COLUMNS = (
    *("epoch", "step", "lr", "seconds"),
    *(f"train_{name}" for name in METRICS),
    *(f"test_{name}" for name in TEST_METRICS),
)
# The names in the original's tags, where they are not ours.
TAGS = {"miou": "mIOU", "mrmse": "mRMSE"}
LOSSES = ("loss", "seg_loss", "depth_loss")


class RunLog:
    """One run's record. `epoch` and `step` say where the run goes on.

    Raises `ConfigError` if its folder cannot be written, or for a tracker that is not installed,
    and `DataError` if `metrics.csv` is not what a run writes.
    """

    def __init__(self, config: Config, epoch: int, step: int) -> None:
        self._csv = config.run_folder / METRICS_FILE
        self._trackers: list[Tracker] = []
        self._board: TensorBoard | None = None
        self._fresh = step == 0
        try:
            self._rows = self._read(epoch)
            self._trackers += open_trackers(config)
            if find_spec("tensorboard") is not None:
                self._board = TensorBoard(config.log_folder, epoch, step)
                self._trackers.append(self._board)
            else:
                log.warning("no TensorBoard record: install it with pip install tensorboard")
        except OSError as error:
            raise _unwritable(config, error) from error

    def graph(self, model: nn.Module, size: list[int] | None) -> None:
        """The model's graph for pictures of `size` [H, W]; at the beginning of a run only."""
        if self._board is not None and self._fresh and size is not None:
            self._board.graph(model, *size)

    def step(self, step: int, metrics: Mapping[str, float], lr: float, norm: float | None) -> None:
        """One training step: its last batch's losses and accuracies, the learning rate it had, and
        the norm that its gradient had before it was clipped."""
        values = {**_tagged("Batch", "Train", metrics), "LR/lr_value": lr}
        if norm is not None:
            values["Gradient/norm"] = norm
        self._scalars(values, step)

    def epoch(
        self, row: Mapping[str, float], train: Mapping[str, float], test: Mapping[str, float]
    ) -> None:
        """One epoch; `row` holds epoch, step, lr and seconds."""
        values = {**_tagged("Epoch", "Train", train), **_tagged("Epoch", "Test", test)}
        self._scalars(values, int(row["epoch"]))
        figures = {f"train_{key}": value for key, value in train.items()}
        figures |= {f"test_{key}": value for key, value in test.items()}
        self._rows.append({key: str(value) for key, value in {**row, **figures}.items()})
        self._write()

    def images(self, batch: Mapping[str, Tensor], epoch: int) -> None:
        """The picture grid of some test samples."""
        if self._trackers:
            pixels = prediction_tiles(batch)
            for tracker in self._trackers:
                tracker.image("ModelImages/TestImages", pixels, epoch)

    def flush(self) -> None:
        """See to it that a kill from here on loses nothing of the curves."""
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Write out what is left."""
        for tracker in self._trackers:
            tracker.close()

    def _scalars(self, values: Mapping[str, float], at: int) -> None:
        for tracker in self._trackers:
            tracker.scalars(values, at)

    def _read(self, epoch: int) -> list[dict[str, str]]:
        """The rows of the epochs before this one."""
        if not self._csv.exists():
            return []
        try:
            # Spreadsheets put a byte-order mark before what they save.
            with self._csv.open(encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
            if any(row.keys() != set(COLUMNS) for row in rows):
                raise ValueError("other columns")
            return rows
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DataError(
                f"{self._csv} is not as a run writes it, so the run cannot add to it; mend it, or "
                "move it away, and the run goes on without the rows of earlier epochs"
            ) from error

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomic(self._csv, lambda file: file.write(text.getvalue().encode()))


def _tagged(span: str, phase: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """`EpochAccuracy/Test/mIOU` and the like."""
    return {
        f"{span}{'Loss' if key in LOSSES else 'Accuracy'}/{phase}/{TAGS.get(key, key)}": value
        for key, value in metrics.items()
    }


def _unwritable(config: Config, error: OSError) -> ConfigError:
    key = "chkpt_dir" if config.log_dir is None else "log_dir"
    return ConfigError(
        f"{key}: the training record cannot be written in {config.log_folder} "
        f"({error.strerror or error}); name another place"
    )
