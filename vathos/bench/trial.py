"""One trial: a network trained for some steps at one batch size, with a clock in its trainer.

The one rule: its parts are built as those of any run, and all of them are gone when it is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Subset

from vathos.bench.memory import foretell
from vathos.bench.result import Row
from vathos.bench.timed import MOST_WARM_UP, TimedTrainer
from vathos.data_loader import augmentation as augmentations
from vathos.model import loss as losses
from vathos.runner import Runner
from vathos.utils.config import parse_config
from vathos.utils.memory import is_out_of_memory, peak, reset_peak
from vathos.utils.parameters import build_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from vathos.bench.demand import Demand
    from vathos.utils.schema import Config

__all__ = ["Trial", "open_dataset"]


def open_dataset(config: Config) -> Any:
    """The data set that the configuration names, as a run opens it. Raises `ConfigError`,
    `DataError` and `ArchiveError`."""
    return Runner(config)._open_dataset()


class Trial(Runner):
    """A run of a few steps on samples drawn from the data set, in a folder that does not last.

    config: of the run. folder: where its record goes. steps: to time.
    """

    def __init__(self, config: Config, folder: str, batch_size: int, steps: int) -> None:
        settings = config.model_dump()
        settings.update(chkpt_dir=folder, log_dir=None, model_init=None, trackers=[])
        settings["dataset"]["loader_args"]["batch_size"] = batch_size
        # Never reached: the trainer stops by itself, before the epoch does.
        self.most_steps = MOST_WARM_UP + steps + 1
        settings["training"].update(epochs=None, steps=self.most_steps, checkpoint_every=None)
        super().__init__(parse_config(settings))
        self.steps = steps
        self.batch_size = batch_size
        self.samples = batch_size * self.config.training.accumulate

    def network(self) -> nn.Module:
        """The network that the configuration names, with weights at random."""
        return self._build_model()

    def run(
        self,
        dataset: Any,
        demand: Demand,
        device: torch.device,
        on_step: Callable[[int], None],
    ) -> Row:
        """Train, and say how it went; a batch that does not fit is a row that says so.

        on_step is told how many steps have been timed.
        """
        about = (self.config.model.type, self.batch_size, self.samples, demand)
        reset_peak(device)
        network = self.network()
        if device.type == "cpu":
            weights = sum(each.nbytes for each in network.parameters())
            problem = foretell(demand, self.batch_size, weights)
            if problem is not None:
                return Row(*about, problem=f"out of memory: {problem}")
        try:
            seconds = self._trainer(network, dataset).time_steps(self.steps, on_step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return Row(*about, problem="out of memory")
        return Row(*about, tuple(seconds), peak(device))

    def _trainer(self, network: nn.Module, dataset: Any) -> TimedTrainer:
        config, rows = self.config, self._rows_of(dataset)
        criteria = self._build("seg_loss", losses), self._build("depth_loss", losses)
        augmentation = self._build("augmentation", augmentations) if config.augmentation else None
        return TimedTrainer(
            network,
            criteria,
            build_optimizer(network, config),
            config,
            Subset(dataset, rows),
            Subset(dataset, rows[:1]),
            augmentation=augmentation,
        )

    def _rows_of(self, dataset: Any) -> list[int]:
        """Rows for all steps, drawn from the whole set; some twice."""
        generator = np.random.default_rng(self.config.seed)
        rows = generator.integers(len(dataset), size=self.most_steps * self.samples)
        return [int(row) for row in rows]
