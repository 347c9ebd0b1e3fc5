"""Runner: builds what a configuration describes, and trains it in its run folder.

The one rule: a run folder belongs to one configuration, one split and one set of archives. Starting
it again continues it; if anything that decides the result has changed, it refuses and names what.
From `setup_train` to the end of training no other run may train in it, and of several processes one
alone writes in it.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import yaml
from torch.utils.data import Subset

from vathos.data_loader.opening import open_dataset
from vathos.data_loader.split import Split, make_split, thin
from vathos.errors import CheckpointError, ConfigError, DataError, UsageError
from vathos.runner.lock import RunLock
from vathos.runner.parts import build_parts
from vathos.runner.replaced import put_back, replaced
from vathos.trainer import GPUTrainer, TPUTrainer
from vathos.trainer.checkpoint import (
    TRAIN_CHECKPOINT,
    all_checkpoints,
    load_checkpoint,
    seed_all,
    write_atomic,
)
from vathos.trainer.event_files import EVENT_FILES
from vathos.trainer.health import large_batches_named
from vathos.trainer.processes import current
from vathos.trainer.run_log import METRICS_FILE
from vathos.trainer.trackers import TRACKERS_FILE
from vathos.trainer.tuning import STEP_FILE
from vathos.utils.config import Config, flatten, parse_config, read_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vathos.trainer import BaseTrainer, Progress

__all__ = ["Runner"]

CONFIG_FILE = "config.yaml"
SPLIT_FILE = "split.json"
# Where and how a run computes, not what: these may change between its parts.
FREE_KEYS = {
    "log_dir",
    "chkpt_dir",
    "device",
    "dataset.root",
    "dataset.zip_dir",
    "dataset.cache",
    "dataset.loader_args.num_workers",
    "dataset.loader_args.pin_memory",
    "training.channels_last",
    "training.compile",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_every",
    "trackers",
}


class Runner:
    """A run: `setup_train()` builds it, `start_train()` trains it to the end.

    config: a dict as `vathos.utils.load_config` returns it, or the checked `Config`.
    on_progress: called with a `vathos.trainer.Progress` now and then.
    fresh: throw away what the run folder holds of an earlier run of this name.
    Of several processes that have `joined`, each makes its own `Runner` and calls the same methods;
    `on_progress` is called in the one that writes.

    After `setup_train` there are `dataset`, `split`, `train_rows` and `test_rows` (rows of the data
    set), `model` and `trainer`. Raises `ConfigError`, `DataError`, `CheckpointError`,
    `TrainingError`, also where memory does not suffice, and `ArchiveError` for a damaged archive.
    """

    def __init__(
        self,
        config: dict[str, Any] | Config,
        on_progress: Callable[[Progress], None] | None = None,
        fresh: bool = False,
    ) -> None:
        if fresh and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
            raise UsageError(
                "--fresh would throw the run away again whenever torchrun restarts it; leave out "
                "--max-restarts, or choose another name"
            )
        self.config = parse_config(config)
        self.processes = current()
        self.on_progress = on_progress
        self.fresh = fresh
        self.trainer: BaseTrainer | None = None
        self._lock = RunLock()

    @property
    def run_folder(self) -> Path:
        """Where the run keeps its configuration, split, metrics and checkpoints."""
        return self.config.run_folder

    def setup_train(self) -> None:
        """Open the archives, split them, build model, losses, optimiser, trainer and record.

        The run folder is locked from here to the end of `start_train`, or of the process.
        """
        try:
            with large_batches_named(self.config):
                self._setup_train()
        except BaseException:
            self._lock.release()
            raise

    def _setup_train(self) -> None:
        self.dataset = open_dataset(self.config)
        # After the data: a wrong path there leaves no folder.
        record = self.processes.share(self._take_folder)
        self.split = Split.from_json(record["split"])
        self._check_archives(record["archives"])
        self.train_rows, self.test_rows = self._rows()
        # All that a checkpoint holds, so that a run killed before its first one begins as it began.
        seed_all(self.config.seed)
        parts = build_parts(self.config, (self.dataset.height, self.dataset.width))
        self.model = parts.model
        with ExitStack() as earlier:
            checkpoint = self.processes.share(lambda: self._load_checkpoint(earlier))
            trainer = TPUTrainer if self.config.device == "TPU" else GPUTrainer
            self.trainer = trainer(
                parts.model,
                parts.criteria,
                parts.optimizer,
                self.config,
                Subset(self.dataset, self.train_rows.tolist()),
                Subset(self.dataset, self.test_rows.tolist()),
                checkpoint,
                self.on_progress,
                parts.augmentation,
                self.processes,
            )
            self.trainer.open_log()
        if self.processes.writes:
            self._write_record(record)

    def start_train(self) -> dict[str, float]:
        """Train to the end, or to where Ctrl-C stops it; returns the last test metrics."""
        if self.trainer is None:
            self.setup_train()
        assert self.trainer is not None
        if self.processes.writes:
            self._lock.take(self.run_folder)
        try:
            with large_batches_named(self.config):
                return self.trainer.start_train()
        finally:
            self._lock.release()

    def _take_folder(self) -> dict[str, Any]:
        """Lock the run folder, and return what `split.json` holds: the run's, or a new one."""
        self._lock.take(self.run_folder)
        for folder in (self.run_folder, self.config.log_folder):
            put_back(folder)
        path = self.run_folder / SPLIT_FILE
        if not self.fresh:
            self._check_whole()
            self._check_config()
        if path.exists() and not self.fresh:
            try:
                record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                Split.from_json(record["split"])
                dict(record["archives"])
            except (OSError, ValueError, KeyError, TypeError, DataError) as error:
                raise DataError(
                    f"{path} is no split that this version can read; train under another name, or "
                    "start the run anew with --fresh"
                ) from error
            return record
        section = self.config.dataset.split
        split = make_split(self.dataset, section.by, section.test_fraction, self.config.seed)
        return {"split": split.to_json(), "archives": self.dataset.digests()}

    def _check_archives(self, before: dict[str, str]) -> None:
        """Refuse archives that are not those that the run began with, in each process its own."""
        changed = [
            stem for stem, digest in self.dataset.digests().items() if before.get(stem) != digest
        ]
        if changed:
            raise DataError(
                f"{', '.join(changed)} in {self.config.zip_dir} changed since the run in "
                f"{self.run_folder} began; train under another name, or start it anew with --fresh"
            )

    def _load_checkpoint(self, earlier: ExitStack) -> dict[str, Any] | None:
        """Where the run stands; None at its beginning. `earlier` gets what a fresh run replaces."""
        if self.fresh:
            earlier.enter_context(replaced(self._earlier_files()))
        path = self.run_folder / TRAIN_CHECKPOINT
        return load_checkpoint(path) if path.exists() else None

    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        factor, seed = self.config.dataset.div_factor, self.config.seed
        train, test = (
            thin(rows, max(1, len(rows) // factor), seed) for rows in self.split.rows(self.dataset)
        )
        return train, test

    def _check_whole(self) -> None:
        """Refuse to continue a run that no longer says what it is of."""
        record = (CONFIG_FILE, SPLIT_FILE)
        missing = [name for name in record if not (self.run_folder / name).exists()]
        if missing and (self.run_folder / TRAIN_CHECKPOINT).exists():
            raise CheckpointError(
                f"{self.run_folder} has {TRAIN_CHECKPOINT}, but no {' and no '.join(missing)}, so "
                "nothing says what was trained; put back what is missing, choose another name, or "
                "start it anew with --fresh"
            )

    def _check_config(self) -> None:
        """Refuse to continue a run that was started with another configuration."""
        path = self.run_folder / CONFIG_FILE
        if not path.exists():
            return
        try:
            before = flatten(read_config(path))
        except ConfigError as error:
            raise ConfigError(
                f"the record of the run is no configuration of this version: {error}; mend it, "
                "choose another name, or start the run anew with --fresh"
            ) from error
        # Through JSON, as the stored one went: a tuple has become a list there.
        now = flatten(Config.model_validate(self.config.model_dump(mode="json")))
        for key in {**before, **now}:  # a section that is gone has its keys in `before` alone
            value = now.get(key)
            if key not in FREE_KEYS and before.get(key) != value:
                raise ConfigError(
                    f"the run in {self.run_folder} was started with {key} {before.get(key)!r}, and "
                    f"it is now {value!r}; change it back, choose another name, or start it anew "
                    "with --fresh"
                )

    def _write_record(self, record: dict[str, Any]) -> None:
        text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        _write_text(self.run_folder / CONFIG_FILE, text)
        _write_text(self.run_folder / SPLIT_FILE, json.dumps(record, indent=1) + "\n")

    def _earlier_files(self) -> list[Path]:
        """What earlier runs of this name wrote, checkpoints first: without them none goes on."""
        names = (CONFIG_FILE, SPLIT_FILE, STEP_FILE, METRICS_FILE, TRACKERS_FILE)
        record = [path for name in names if (path := self.run_folder / name).exists()]
        events = self.config.log_folder.glob(EVENT_FILES)
        return [*all_checkpoints(self.run_folder), *events, *record]


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: file.write(text.encode()))
