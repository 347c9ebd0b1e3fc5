"""What a run tells while it trains: the record in its folder, and the caller's function.

The one rule: one process tells, for all; in the others nothing is opened, computed or called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vathos.trainer.run_log import RunLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from vathos.data_loader.dense_depth import Batch
    from vathos.trainer.interrupt import Interruptible
    from vathos.trainer.progress import Progress
    from vathos.utils.schema import Config

__all__ = ["Telling"]


class Telling:
    """`writes`: whether this process tells. `interrupts` are told of a KeyboardInterrupt that
    `on_progress` raises."""

    def __init__(
        self,
        config: Config,
        writes: bool,
        interrupts: Interruptible,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.writes = writes
        self._config = config
        self._interrupts = interrupts
        self._on_progress = on_progress
        self._log: RunLog | None = None

    def open(self, epoch: int, step: int, model: nn.Module, size: list[int] | None) -> None:
        """Open the record where the run stands, unless it is open. `size` is the pictures' [H, W].

        Raises `ConfigError` if its folder cannot be written, or for a tracker not installed.
        """
        if self.writes and self._log is None:
            self._log = RunLog(self._config, epoch, step)
            self._log.graph(model, size)

    def step(self, step: int, metrics: Mapping[str, float], lr: float, norm: Tensor | None) -> None:
        """A training step, as `RunLog.step` takes it; waits for the device."""
        if self._log is not None:
            self._log.step(step, metrics, lr, None if norm is None else float(norm))

    def epoch(
        self,
        row: Mapping[str, float],
        train: Mapping[str, float],
        test: Mapping[str, float],
        predict: Callable[[], Batch],
    ) -> None:
        """An epoch, as `RunLog.epoch` takes it, and the picture grid of what `predict` returns."""
        if self._log is not None:
            self._log.epoch(row, train, test)
            self._log.images(predict(), int(row["epoch"]))

    def progress(self, progress: Progress) -> None:
        """Tell the caller."""
        if not self.writes or self._on_progress is None:
            return
        try:
            self._on_progress(progress)
        except KeyboardInterrupt:
            self._interrupts.request()

    def flush(self) -> None:
        """See to it that a kill from here on loses nothing of the curves."""
        if self._log is not None:
            self._log.flush()

    def close(self) -> None:
        """Close the record, if it is open."""
        if self._log is not None:
            self._log.close()
            self._log = None
