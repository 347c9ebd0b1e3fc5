"""What a run writes for people: TensorBoard under the original's tags, and `metrics.csv`.

The one rule: after a resume the record reads as if nothing had happened; what came after the point
of resumption is dropped and written again.
"""

from __future__ import annotations

import csv
import io
import logging
from typing import TYPE_CHECKING, Any

from vathos.data_loader.figures import prediction_tiles
from vathos.trainer.checkpoint import write_atomic
from vathos.trainer.meter import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["METRICS_FILE", "RunLog"]

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"
COLUMNS = (
    "epoch",
    "step",
    "lr",
    "seconds",
    *(f"{phase}_{name}" for phase in ("train", "test") for name in METRICS),
)
# The names in the original's tags.
ACCURACY_TAGS = {"miou": "mIOU", "mrmse": "mRMSE", "soft_dice_half": "soft_dice_half"}
LOSS_TAGS = {"loss": "loss", "seg_loss": "seg_loss", "depth_loss": "depth_loss"}


class RunLog:
    """One run's record. `epoch` and `step` say where the run goes on."""

    def __init__(self, run_folder: Path, log_folder: Path, epoch: int, step: int) -> None:
        self._csv = run_folder / METRICS_FILE
        self._rows = [row for row in self._read() if int(row["epoch"]) < epoch]
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.warning("no TensorBoard record: install it with pip install tensorboard")
            return
        # Where TensorFlow is installed, TensorBoard makes folders with it, and its errors are no
        # OSError.
        log_folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard drops this step and what follows; the point at `step` itself is good.
        self._writer = SummaryWriter(str(log_folder), purge_step=step + 1)

    def batch(self, step: int, metrics: Mapping[str, float], lr: float) -> None:
        """One training batch: its losses and accuracies, and the learning rate it had."""
        self._scalars("Batch", "Train", metrics, step)
        if self._writer is not None:
            self._writer.add_scalar("LR/lr_value", lr, step)

    def epoch(
        self, row: Mapping[str, float], train: Mapping[str, float], test: Mapping[str, float]
    ) -> None:
        """One epoch; `row` holds epoch, step, lr and seconds."""
        phases = {"train": train, "test": test}
        for phase, metrics in phases.items():
            self._scalars("Epoch", phase.capitalize(), metrics, int(row["epoch"]))
        numbers = {f"{phase}_{key}": m[key] for phase, m in phases.items() for key in METRICS}
        self._rows.append({key: str(value) for key, value in {**row, **numbers}.items()})
        self._write()
        if self._writer is not None:
            self._writer.flush()

    def images(self, batch: Mapping[str, Tensor], epoch: int) -> None:
        """The picture grid of some test samples."""
        if self._writer is not None:
            pixels = prediction_tiles(batch)
            self._writer.add_image("ModelImages/TestImages", pixels, epoch, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, span: str, phase: str, metrics: Mapping[str, float], at: int) -> None:
        if self._writer is None:
            return
        for kind, tags in (("Loss", LOSS_TAGS), ("Accuracy", ACCURACY_TAGS)):
            for key, tag in tags.items():
                self._writer.add_scalar(f"{span}{kind}/{phase}/{tag}", metrics[key], at)

    def _read(self) -> list[dict[str, str]]:
        if not self._csv.exists():
            return []
        with self._csv.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomic(self._csv, lambda file: file.write(text.getvalue().encode()))
