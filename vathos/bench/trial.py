"""One trial: a network trained for some steps at one batch size, with a clock in its trainer.

The one rule: its parts are built as those of any run, and all of them are gone when it is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Subset

from vathos.bench.memory import foretell
from vathos.bench.result import OUT_OF_MEMORY, Row
from vathos.bench.timed import MOST_WARM_UP, TimedTrainer
from vathos.errors import TrainingError
from vathos.runner.parts import build_parts
from vathos.utils.allocator import give_back
from vathos.utils.memory import is_out_of_memory, peak, reset_peak

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from vathos.bench.demand import Demand
    from vathos.utils.schema import Config, SchedulerConfig

__all__ = ["Trial"]


class Trial:
    """A run of a few steps on samples drawn from the data set, in a folder that does not last.

    config: of the run. folder: where its record goes. steps: to time.
    """

    def __init__(self, config: Config, folder: str, batch_size: int, steps: int) -> None:
        # Never reached: the trainer stops by itself, before the epoch does.
        self.most_steps = MOST_WARM_UP + steps + 1
        self.config = _shortened(config, folder, batch_size, self.most_steps)
        self.steps = steps
        self.batch_size = batch_size
        self.samples = batch_size * self.config.training.accumulate

    def run(
        self,
        dataset: Any,
        demand: Demand,
        device: torch.device,
        on_step: Callable[[int], None],
    ) -> Row:
        """Train, and say how it went; a batch that does not fit, or cannot be trained on, is a row
        that says so.

        on_step is told how many steps have been timed.
        """
        about = (self.config.model.type, self.batch_size, self.samples, demand)
        give_back()
        reset_peak(device)
        if device.type == "cpu":
            problem = foretell(demand, self.batch_size)
            if problem is not None:
                return Row(*about, problem=f"{OUT_OF_MEMORY}: {problem}")
        try:
            seconds = self._trainer(dataset).time_steps(self.steps, on_step)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return Row(*about, problem=OUT_OF_MEMORY)
        except TrainingError as error:
            return Row(*about, problem=str(error))
        return Row(*about, tuple(seconds), peak(device))

    def _trainer(self, dataset: Any) -> TimedTrainer:
        parts = build_parts(self.config, (dataset.height, dataset.width))
        rows = self._rows_of(dataset)
        return TimedTrainer(
            parts.model,
            parts.criteria,
            parts.optimizer,
            self.config,
            Subset(dataset, rows),
            Subset(dataset, rows[:1]),
            augmentation=parts.augmentation,
        )

    def _rows_of(self, dataset: Any) -> list[int]:
        """Rows for all steps, drawn from the whole set; some twice."""
        generator = np.random.default_rng(self.config.seed)
        rows = generator.integers(len(dataset), size=self.most_steps * self.samples)
        return [int(row) for row in rows]


def _shortened(config: Config, folder: str, batch_size: int, steps: int) -> Config:
    """The same but for where the record goes, and how much is read and trained.

    Nothing is kept between epochs, for there is no second one.
    """
    loading = config.dataset.loader_args.model_copy(update={"batch_size": batch_size})
    dataset = {"cache": "none", "loader_args": loading}
    length = {"epochs": None, "steps": steps, "checkpoint_every": None}
    changed: dict[str, Any] = {
        "chkpt_dir": folder,
        "log_dir": None,
        "model_init": None,
        "trackers": [],
        "lr_scheduler": _of_any_length(config.lr_scheduler),
        "dataset": config.dataset.model_copy(update=dataset),
        "training": config.training.model_copy(update=length),
    }
    # A copy, for it knows where each key was written.
    return config.model_copy(update=changed)


def _of_any_length(section: SchedulerConfig | None) -> SchedulerConfig | None:
    """Without the length of a cycle, which is that of the run; a trial has another one."""
    if section is None or section.type != "OneCycleLR":
        return section
    length = {"total_steps", "epochs", "steps_per_epoch"}
    args = {key: value for key, value in section.args.items() if key not in length}
    return section.model_copy(update={"args": args})
