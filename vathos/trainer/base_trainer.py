"""The training loop, once for every device.

A step is, for one batch or several: prepare it on the device, augment, forward, losses, backward;
then the optimiser, the average of the weights, the scheduler. The one rule: nothing inside a step
waits for the device; losses and metrics are read at the log interval. A run can be stopped between
any two steps and continued from there.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Subset

from vathos.data_loader.batches import Batches
from vathos.data_loader.dense_depth import normalise
from vathos.errors import CheckpointError
from vathos.trainer.average import WeightAverage
from vathos.trainer.checkpoint import get_rng_state, load_model_state, save_pair, set_rng_state
from vathos.trainer.health import Health, small_batch_error
from vathos.trainer.interrupt import Interruptible
from vathos.trainer.loaders import make_batches, shown_rows
from vathos.trainer.meter import METRICS, TEST_METRICS, Meter, batch_metrics
from vathos.trainer.model_record import model_record, picture_size
from vathos.trainer.monitor import Monitor
from vathos.trainer.moves import load_optimizer, optimizer_to, scheduler_to
from vathos.trainer.progress import Clock, Progress
from vathos.trainer.run_log import RunLog
from vathos.trainer.schedule import Schedule, batches_in_epoch, run_length
from vathos.utils.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from vathos.data_loader.dense_depth import Batch
    from vathos.trainer.progress import Phase
    from vathos.utils.config import Config

__all__ = ["BaseTrainer", "Progress", "optimizer_to", "scheduler_to"]


@dataclass
class _State:
    """Where the run stands: `batch` batches of `epoch` are done, `step` steps in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
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
    augmentation: applied to each training batch on the device, float tensors in [0, 1]; what it
    draws from torch's CPU generator is drawn again after a resume.

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
        augmentation: nn.Module | None = None,
    ) -> None:
        self.config = parse_config(config)
        training = self.config.training
        self.model = model
        self.seg_loss, self.depth_loss = loss_fns
        self.optimizer = optimizer
        self.augmentation = augmentation
        self.device = self.setup()
        optimizer_to(optimizer, self.device)
        self.average = None if training.ema is None else WeightAverage(model, training.ema)
        subsets = train_subset, test_subset
        self.train_batches, self.test_batches = make_batches(self.config, *subsets, self.device)
        self._dataset: Any = test_subset.dataset
        self._prepare = getattr(train_subset.dataset, "prepare", normalise)
        self._about_model = model_record(model, self.config, self._dataset)
        self.epochs, self.steps = run_length(training, len(self.train_batches))
        self.schedule = Schedule(self.config, optimizer, self.epochs, self.steps)
        self.monitor = Monitor(training)
        self.on_progress = on_progress
        self.state = _State()
        self._meter = Meter(self.device)
        folder = self.config.run_folder
        self._health = Health(self.device, folder, self.train_batches, self._dataset)
        self._interrupts = Interruptible()
        self._log: RunLog | None = None
        self._lr_used = self.schedule.lr
        self._gradient_norm: Tensor | None = None
        if state_dict is not None:
            self.load_state_dict(state_dict)

    @property
    def tested_model(self) -> nn.Module:
        """The model that is tested, shown and kept: the average of the weights if there is one."""
        return self.model if self.average is None else self.average.model

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
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the parameters'."""

    @abstractmethod
    def update(self) -> Tensor | None:
        """`clip`, one optimiser step, and no gradient left; returns what `clip` does."""

    def clip(self) -> Tensor | None:
        """Bound the gradient's norm by `training.clip_norm`, and return what it was; None if it is
        not bounded."""
        limit = self.config.training.clip_norm
        if limit is None:
            return None
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    # -- the loop -------------------------------------------------------------------------------

    def start_train(self) -> dict[str, float]:
        """Train to the configured epoch and return the last test metrics.

        After each epoch the model is tested, the record and the checkpoints are written. Ctrl-C or
        SIGTERM: the step is finished, all is saved, and KeyboardInterrupt is raised. A finished run
        returns at once, one that has lost its patience too.
        """
        with self._interrupts:
            try:
                while self.state.epoch < self.epochs and not self.monitor.exhausted:
                    self._fit_epoch(self.state.epoch)
            except KeyboardInterrupt:
                if self._interrupts.between_steps:
                    self.save()
                raise
            finally:
                self._close_log()
        return dict(self.state.metrics)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, or what is left of it; returns the means over its samples.

        Keys: `vathos.trainer.meter.METRICS`; miou is the true IoU.
        """
        self.open_log()  # before the first step, for it drops what came after this point
        self.model.train()
        training = self.config.training
        end = batches_in_epoch(training, epoch, self.steps, len(self.train_batches))
        clock = Clock()
        if self.state.batch < end:
            batches = self.train_batches.epoch(epoch, range(self.state.batch, end))
            # What is left of an epoch after its last full group is a step of its own.
            while group := tuple(islice(batches, training.accumulate)):
                self._train_step(epoch, group)
                clock.add(sum(len(stored["bg"]) for stored in group))
                if self.state.step % training.log_every == 0:
                    self._report_step(epoch, clock)
                if training.checkpoint_every and self.state.step % training.checkpoint_every == 0:
                    self.save()
                self._interrupts.check()
        self._health.check()
        metrics = self._meter.gather()
        self._tell("train", epoch, metrics, clock, self.state.batch, done=True)
        return metrics

    def test_epoch(self, epoch: int) -> dict[str, float]:
        """Test on the test subset; returns the means over its samples.

        Keys: `vathos.trainer.meter.TEST_METRICS`, which begin with those of `train_epoch`.
        """
        self.tested_model.eval()
        meter = Meter(self.device, TEST_METRICS)
        clock = Clock()
        for number, stored in enumerate(self.test_batches.epoch(0), start=1):
            with torch.no_grad():
                _, means = self._forward(self.tested_model, stored, TEST_METRICS)
            samples = len(stored["bg"])
            meter.add(means, samples)
            clock.add(samples)
            due = number % self.config.training.log_every == 0
            if due and number < len(self.test_batches):
                self._tell("test", epoch, meter.read(), clock, number, done=False)
            self._interrupts.check()
        metrics = meter.gather()
        self._tell("test", epoch, metrics, clock, len(self.test_batches), done=True)
        self._health.check_test(metrics["loss"], epoch)
        return metrics

    @torch.no_grad()
    def predict(self, rows: Iterable[int]) -> Batch:
        """Samples of the data set with `pred_mask` and `pred_depth` (N, 1, H, W) in [0, 1], on the
        CPU; what `figures.prediction_grid` takes."""
        self.tested_model.eval()
        subset = Subset(self._dataset, list(rows))
        stored = next(iter(Batches(subset, len(subset), shuffle=False).epoch(0)))
        batch = self._prepare(self.place(stored))
        depth_logits, mask_logits = self._logits(self.tested_model, batch)
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
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if scheduler is None else scheduler.state_dict(),
            **vars(self.state),
            "monitor": self.monitor.state_dict(),
            "meter": self._meter.state_dict(),
            "rng": get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved. Raises `CheckpointError` if it does not fit."""
        load_model_state(self.model, state, "the training checkpoint")
        try:
            load_optimizer(self.optimizer, state["optimizer"], self.device)
            if self.schedule.scheduler is not None:
                self.schedule.scheduler.load_state_dict(state["scheduler"])
                scheduler_to(self.schedule.scheduler, self.device)
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.state = _State(**{key: state[key] for key in vars(self.state)})
            self.monitor.load_state_dict(state["monitor"])
            self._meter.load_state_dict(state["meter"])
            set_rng_state(state["rng"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the training checkpoint does not fit this run ({error}); choose another name"
            ) from error

    def save(self, also: Sequence[str] = ()) -> None:
        """Write `model_checkpoint.pt` and `train_checkpoint.pt`, each under the endings in `also`
        too; raises `TrainingError` instead if losses or weights went bad."""
        self._health.check_weights(self.model, self.state.step)
        if self._log is not None:
            self._log.flush()
        model = {
            **self._about_model,
            "model": self.tested_model.state_dict(),
            **{key: getattr(self.state, key) for key in ("epoch", "step", "metrics")},
        }
        save_pair(self.config.run_folder, model, self.state_dict(), also)

    # -- one step -------------------------------------------------------------------------------

    def _train_step(self, epoch: int, group: Sequence[Batch]) -> None:
        """One optimiser step on the mean gradient of the batches in `group`."""
        with self._interrupts.step():
            for stored in group:
                loss, means = self._forward(self.model, stored, METRICS, self.augmentation)
                self.backward(loss / len(group))
                self._health.add(loss, epoch * len(self.train_batches) + self.state.batch)
                self._meter.add(means, len(stored["bg"]))
                self.state.batch += 1
            self._gradient_norm = self.update()
            if self.average is not None:
                self.average.update(self.model)
            self.state.step += 1
            self._lr_used = self.schedule.lr
            self.schedule.after_step(self.state.step)

    def _forward(
        self,
        model: nn.Module,
        stored: Batch,
        names: Sequence[str],
        augmentation: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(total loss, means in the order of `names`) of a batch as the data set stores it."""
        batch = self._prepare(self.place(stored))
        if augmentation is not None:
            batch = augmentation(batch)
        depth_logits, mask_logits = self._logits(model, batch)
        mask, depth = batch["fg_bg_mask"], batch["depth_fg_bg"]
        seg_loss = self.seg_loss(mask_logits, mask)
        depth_loss = self.depth_loss(depth_logits, depth)
        weights = self.config.loss_weights
        loss = weights.seg * seg_loss + weights.depth * depth_loss
        losses, logits = (loss, seg_loss, depth_loss), (mask_logits, depth_logits)
        return loss, batch_metrics(losses, logits, (mask, depth), names)

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        pictures = torch.cat((batch["bg"], batch["fg_bg"]), dim=1)
        try:
            with self.autocast():
                depth_logits, mask_logits = model(pictures)
        except ValueError as error:
            raise small_batch_error(error, pictures) from error
        # Losses are taken in float32: a mean over a batch of pixels has no room in bfloat16.
        kind = torch.promote_types(mask_logits.dtype, torch.float32)
        return depth_logits.to(kind), mask_logits.to(kind)

    # -- one epoch ------------------------------------------------------------------------------

    def _fit_epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        train = self.train_epoch(epoch)
        test = self.test_epoch(epoch)
        lr = self.schedule.lr
        with self._interrupts.step():
            self.schedule.after_epoch(test["loss"])
            also = ["best"] if self.monitor.update(test[self.monitor.name]) else []
            keep_every = self.config.training.keep_every
            if keep_every and (epoch + 1) % keep_every == 0:
                also.append(f"epoch{epoch + 1:04d}")
            self.state.metrics = test
            self.state.epoch, self.state.batch = epoch + 1, 0
            self._meter = Meter(self.device)
            seconds = round(time.perf_counter() - started, 3)
            row = {"epoch": epoch, "step": self.state.step, "lr": lr, "seconds": seconds}
            self._record.epoch(row, train, test)
            self._record.images(self.predict(shown_rows(self.test_batches)), epoch)
            self.save(also)

    # -- telling --------------------------------------------------------------------------------

    def _report_step(self, epoch: int, clock: Clock) -> None:
        self._health.check()
        norm = None if self._gradient_norm is None else float(self._gradient_norm)
        self._record.step(self.state.step, self._meter.last(), self._lr_used, norm)
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

    def open_log(self) -> None:
        """Open the record, where the run stands now; it is closed when training ends.

        Raises `ConfigError` if its folder cannot be written, or for a tracker not installed.
        """
        if self._log is None:
            self._log = RunLog(self.config, self.state.epoch, self.state.step)
            self._log.graph(self.model, picture_size(self._dataset))

    @property
    def _record(self) -> RunLog:
        self.open_log()
        assert self._log is not None
        return self._log

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
