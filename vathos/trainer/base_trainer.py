"""The training loop, once for every device.

A step is: prepare the batch on the device, forward, losses, backward, optimiser, scheduler. The one
rule: nothing inside a step waits for the device; losses and metrics are read at the log interval. A
run can be stopped between any two steps and continued from there.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Subset

from vathos.data_loader.batches import Batches
from vathos.data_loader.dense_depth import normalise
from vathos.data_loader.split import thin
from vathos.errors import CheckpointError, ConfigError, TrainingError
from vathos.trainer.checkpoint import (
    MODEL_CHECKPOINT,
    TRAIN_CHECKPOINT,
    best_twin,
    get_rng_state,
    load_model_state,
    save_checkpoint,
    set_rng_state,
    twin,
)
from vathos.trainer.interrupt import Interruptible
from vathos.trainer.meter import Meter, batch_metrics
from vathos.trainer.moves import optimizer_to, scheduler_to
from vathos.trainer.progress import Clock, Progress
from vathos.trainer.run_log import RunLog
from vathos.trainer.schedule import Schedule, run_length
from vathos.utils.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from vathos.data_loader.dense_depth import Batch
    from vathos.trainer.progress import Phase
    from vathos.utils.config import Config

__all__ = ["BaseTrainer", "Progress", "optimizer_to", "scheduler_to"]

HIGHER_IS_BETTER = ("miou", "soft_dice_half")
IMAGE_SAMPLES = 8


@dataclass
class _State:
    """Where the run stands: `batch` batches of `epoch` are done, `step` steps in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class BaseTrainer(ABC):
    """Trains a model on the mask and the depth of a data set.

    model: takes (N, 6, H, W), returns (depth_logits, mask_logits).
    loss_fns: (seg_loss, depth_loss), each called with (logits, labels).
    optimizer: over the model's parameters; both may be on any device.
    config: a dict as `vathos.utils.load_config` returns it, or the checked `Config`.
    train_subset, test_subset: `torch.utils.data.Subset`s of the data set.
    state_dict: a training checkpoint to continue from.
    on_progress: called with a `Progress`; if it raises KeyboardInterrupt, the run is saved first.

    Raises `ConfigError`, `CheckpointError`, and `TrainingError` if the loss is not a number.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fns: tuple[nn.Module, nn.Module],
        optimizer: Optimizer,
        config: dict[str, Any] | Config,
        train_subset: Subset[Any],
        test_subset: Subset[Any],
        state_dict: dict[str, Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.config = parse_config(config)
        self.model = model
        self.seg_loss, self.depth_loss = loss_fns
        self.optimizer = optimizer
        self.device = self.setup()
        optimizer_to(optimizer, self.device)
        self.train_batches, self.test_batches = self._make_batches(train_subset, test_subset)
        self._prepare = getattr(train_subset.dataset, "prepare", normalise)
        self._dataset: Any = test_subset.dataset
        self.epochs, self.steps = run_length(self.config.training, len(self.train_batches))
        self.schedule = Schedule(self.config, optimizer, self.epochs, self.steps)
        self.on_progress = on_progress
        self.state = _State()
        self._meter = Meter(self.device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._interrupts = Interruptible()
        self._log: RunLog | None = None
        self._lr_used = self.schedule.lr
        if state_dict is not None:
            self.load_state_dict(state_dict)

    # -- what a device decides ------------------------------------------------------------------

    @abstractmethod
    def setup(self) -> torch.device:
        """Move the model where it trains and return that device."""

    @abstractmethod
    def place(self, batch: Batch) -> Batch:
        """The batch on the device."""

    @abstractmethod
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""

    @abstractmethod
    def update(self, loss: Tensor) -> None:
        """Backward and one optimiser step."""

    # -- the loop -------------------------------------------------------------------------------

    def start_train(self) -> dict[str, float]:
        """Train to the configured epoch and return the last test metrics.

        After each epoch the model is tested, the record and the checkpoints are written. Ctrl-C or
        SIGTERM: the step is finished, all is saved, and KeyboardInterrupt is raised. A finished run
        returns at once.
        """
        with self._interrupts:
            try:
                for epoch in range(self.state.epoch, self.epochs):
                    self._fit_epoch(epoch)
            except KeyboardInterrupt:
                if self._interrupts.between_steps:
                    self.save()
                raise
            finally:
                self._close_log()
        return dict(self.state.metrics)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, or what is left of it; returns the means over its samples.

        Keys: miou (true IoU), mrmse, seg_loss, depth_loss, loss, soft_dice_half.
        """
        self.open_log()  # before the first step, for it drops what came after this point
        self.model.train()
        training = self.config.training
        left = min(len(self.train_batches), self.steps - epoch * len(self.train_batches))
        clock = Clock()
        if self.state.batch < left:
            for stored in self.train_batches.epoch(epoch, self.state.batch):
                self._train_step(stored)
                clock.samples += len(stored["bg"])
                if self.state.step % training.log_every == 0:
                    self._report_step(epoch, clock)
                if training.checkpoint_every and self.state.step % training.checkpoint_every == 0:
                    self.save()
                self._interrupts.check()
                if self.state.batch >= left:
                    break
        self._check_finite(epoch)
        metrics = self._meter.read()
        self._tell("train", epoch, metrics, clock, self.state.batch, done=True)
        return metrics

    def test_epoch(self, epoch: int) -> dict[str, float]:
        """Test on the test subset; returns the same means as `train_epoch`, over every sample."""
        self.model.eval()
        meter = Meter(self.device)
        clock = Clock()
        for number, stored in enumerate(self.test_batches.epoch(0), start=1):
            with torch.no_grad():
                _, means = self._forward(stored)
            samples = len(stored["bg"])
            meter.add(means, samples)
            clock.samples += samples
            due = number % self.config.training.log_every == 0
            if due and number < len(self.test_batches):
                self._tell("test", epoch, meter.read(), clock, number, done=False)
            self._interrupts.check()
        metrics = meter.read()
        self._tell("test", epoch, metrics, clock, len(self.test_batches), done=True)
        if not math.isfinite(metrics["loss"]):
            raise TrainingError(
                f"the test loss of epoch {epoch + 1} is not a number; {self._advice()}"
            )
        return metrics

    @torch.no_grad()
    def predict(self, rows: Iterable[int]) -> Batch:
        """Samples of the data set with `pred_mask` and `pred_depth` (N, 1, H, W) in [0, 1], on the
        CPU; what `figures.prediction_grid` takes."""
        self.model.eval()
        subset = Subset(self._dataset, list(rows))
        stored = next(iter(Batches(subset, len(subset), shuffle=False).epoch(0)))
        batch = self._prepare(self.place(stored))
        depth_logits, mask_logits = self._logits(batch)
        batch["pred_mask"] = torch.sigmoid(mask_logits)
        batch["pred_depth"] = torch.sigmoid(depth_logits)
        return {key: value.float().cpu() for key, value in batch.items()}

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that continuing needs: tensors and plain values only."""
        scheduler = self.schedule.scheduler
        return {
            "model_name": type(self.model).__name__,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if scheduler is None else scheduler.state_dict(),
            "epoch": self.state.epoch,
            "batch": self.state.batch,
            "step": self.state.step,
            "best": self.state.best,
            "metrics": dict(self.state.metrics),
            "meter": self._meter.state_dict(),
            "rng": get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved. Raises `CheckpointError` if it does not fit."""
        load_model_state(self.model, state, "the training checkpoint")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.schedule.scheduler is not None:
                self.schedule.scheduler.load_state_dict(state["scheduler"])
                scheduler_to(self.schedule.scheduler, self.device)
            fields = {key: state[key] for key in ("epoch", "batch", "step", "best", "metrics")}
            self.state = _State(**fields)
            self._meter.load_state_dict(state["meter"])
            set_rng_state(state["rng"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the training checkpoint does not fit this run ({error}); choose another name"
            ) from error

    def save(self) -> None:
        """Write `train_checkpoint.pt` and `model_checkpoint.pt`, unless the loss went bad."""
        self._check_finite(self.state.epoch)
        folder = self.config.run_folder
        state = self.state_dict()
        save_checkpoint(state, folder / TRAIN_CHECKPOINT)
        kept = ("model_name", "model", "epoch", "step", "metrics")
        save_checkpoint({key: state[key] for key in kept}, folder / MODEL_CHECKPOINT)

    # -- one step -------------------------------------------------------------------------------

    def _train_step(self, stored: Batch) -> None:
        with self._interrupts.step():
            loss, means = self._forward(stored)
            self.update(loss)
            self._meter.add(means, len(stored["bg"]))
            bad = (self._first_bad < 0) & ~torch.isfinite(loss.detach())
            self._first_bad = torch.where(bad, self.state.step, self._first_bad)
            self.state.step += 1
            self.state.batch += 1
            self._lr_used = self.schedule.lr
            self.schedule.after_step(self.state.step)

    def _forward(self, stored: Batch) -> tuple[Tensor, Tensor]:
        """(total loss, means in the order of METRICS) of a batch as the data set stores it."""
        batch = self._prepare(self.place(stored))
        depth_logits, mask_logits = self._logits(batch)
        mask, depth = batch["fg_bg_mask"], batch["depth_fg_bg"]
        seg_loss = self.seg_loss(mask_logits, mask)
        depth_loss = self.depth_loss(depth_logits, depth)
        weights = self.config.loss_weights
        loss = weights.seg * seg_loss + weights.depth * depth_loss
        means = batch_metrics(
            (loss, seg_loss, depth_loss), (mask_logits, depth_logits), (mask, depth)
        )
        return loss, means

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.autocast():
            depth_logits, mask_logits = self.model(torch.cat((batch["bg"], batch["fg_bg"]), dim=1))
        # Losses are taken in float32: a mean over a batch of pixels has no room in bfloat16.
        return depth_logits.float(), mask_logits.float()

    # -- one epoch ------------------------------------------------------------------------------

    def _fit_epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        train = self.train_epoch(epoch)
        test = self.test_epoch(epoch)
        lr = self.schedule.lr
        with self._interrupts.step():
            self.schedule.after_epoch(test["loss"])
            best = self._is_best(test[self.config.training.monitor])
            self.state.metrics = test
            self.state.epoch, self.state.batch = epoch + 1, 0
            self._meter = Meter(self.device)
            seconds = round(time.perf_counter() - started, 3)
            row = {"epoch": epoch, "step": self.state.step, "lr": lr, "seconds": seconds}
            self._record.epoch(row, train, test)
            self._record.images(self.predict(self._image_rows()), epoch)
            self.save()
            if best:
                for name in (TRAIN_CHECKPOINT, MODEL_CHECKPOINT):
                    path = self.config.run_folder / name
                    twin(path, best_twin(path))

    def _is_best(self, value: float) -> bool:
        best = self.state.best
        higher = self.config.training.monitor in HIGHER_IS_BETTER
        better = best is None or (value > best if higher else value < best)
        if better:
            self.state.best = value
        return better

    def _image_rows(self) -> list[int]:
        """The same test samples each time, spread over the test set."""
        rows = self.test_batches.order.rows
        at = np.linspace(0, len(rows) - 1, min(IMAGE_SAMPLES, len(rows))).astype(int)
        return [int(row) for row in rows[at]]

    # -- telling --------------------------------------------------------------------------------

    def _report_step(self, epoch: int, clock: Clock) -> None:
        self._check_finite(epoch)
        self._record.batch(self.state.step, self._meter.last(), self._lr_used)
        metrics = self._meter.read()
        self._tell("train", epoch, metrics, clock, self.state.batch, done=False)

    def _tell(
        self,
        phase: Phase,
        epoch: int,
        metrics: dict[str, float],
        clock: Clock,
        batch: int,
        done: bool,
    ) -> None:
        if self.on_progress is None:
            return
        at = (self.state.step, self.steps) if phase == "train" else (batch, len(self.test_batches))
        place = (phase, epoch, self.epochs, *at)
        self.on_progress(Progress(*place, metrics, self.schedule.lr, clock.rate(), done))

    def _check_finite(self, epoch: int) -> None:
        """Raise if any loss so far was not a number; waits for the device."""
        step = int(self._first_bad)
        if step < 0:
            return
        batch = step - epoch * len(self.train_batches)
        rows = self.train_batches.order.batch(epoch, max(batch, 0))
        name = getattr(self._dataset, "sample_name", str)
        raise TrainingError(
            f"the loss is not a number in epoch {epoch + 1}, batch {batch + 1}, which begins with "
            f"{name(int(rows[0]))}; {self._advice()}"
        )

    def _advice(self) -> str:
        checkpoint = self.config.run_folder / TRAIN_CHECKPOINT
        kept = f"{checkpoint} is good; " if checkpoint.exists() else ""
        return f"{kept}lower the learning rate, or look at that batch"

    def open_log(self) -> None:
        """Open the record, where the run stands now; it is closed when training ends.

        Raises `ConfigError` if its folder cannot be written.
        """
        if self._log is not None:
            return
        folders = self.config.run_folder, self.config.log_folder
        try:
            self._log = RunLog(*folders, self.state.epoch, self.state.step)
        except OSError as error:
            key = "chkpt_dir" if self.config.log_dir is None else "log_dir"
            raise ConfigError(
                f"{key}: the training record cannot be written in {folders[1]} "
                f"({error.strerror or error}); name another place"
            ) from error

    @property
    def _record(self) -> RunLog:
        self.open_log()
        assert self._log is not None
        return self._log

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _make_batches(self, train: Subset[Any], test: Subset[Any]) -> tuple[Batches, Batches]:
        args = self.config.dataset.loader_args
        seed = self.config.seed
        limit = self.config.training.test_samples
        if limit is not None:
            rows = thin(np.asarray(test.indices, dtype=np.int64), limit, seed)
            test = Subset(test.dataset, rows.tolist())
        make = partial(Batches, workers=args.num_workers, pin_memory=args.pin_memory)
        # Full batches only: a last batch of a few samples would spoil BatchNorm's statistics, and
        # the next epoch's order is another. Testing leaves nothing out.
        return (
            make(train, args.batch_size, seed=seed, shuffle=args.shuffle, drop_last=True),
            make(test, args.batch_size, shuffle=False),
        )
