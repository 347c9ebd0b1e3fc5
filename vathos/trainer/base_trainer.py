"""The training loop, once for every device.

A step is, for one batch or several, in one process or several: prepare it on the device, augment,
forward, losses, backward; then the optimiser, the average of the weights, the scheduler. The one
rule: nothing inside a step waits for the device; losses and metrics are read at the log interval. A
run can be stopped between any two steps and continued from there.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from vathos.data_loader.dense_depth import normalise
from vathos.errors import CheckpointError
from vathos.trainer.average import WeightAverage
from vathos.trainer.checkpoint import (
    get_rng_state,
    load_model_state,
    save_pair,
    seed_all,
    set_rng_state,
)
from vathos.trainer.health import Health, small_batch_error
from vathos.trainer.interrupt import Interruptible
from vathos.trainer.keeping import keep
from vathos.trainer.loaders import make_batches, shown_rows, stored_batch
from vathos.trainer.meter import METRICS, TEST_METRICS, Meter, batch_metrics
from vathos.trainer.model_record import model_record, picture_size
from vathos.trainer.monitor import Monitor
from vathos.trainer.moves import load_optimizer, optimizer_to, scheduler_to
from vathos.trainer.on_device import OnDevice
from vathos.trainer.plan import next_step, plan_run
from vathos.trainer.processes import current
from vathos.trainer.progress import Clock, Progress
from vathos.trainer.schedule import Schedule
from vathos.trainer.telling import Telling
from vathos.utils.config import parse_config
from vathos.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.data import Subset

    from vathos.data_loader.dense_depth import Batch
    from vathos.trainer.plan import Step
    from vathos.trainer.processes import Processes
    from vathos.trainer.progress import Phase
    from vathos.utils.config import Config

__all__ = ["BaseTrainer", "Progress", "optimizer_to", "scheduler_to"]


@dataclass
class _State:
    """Where the run stands: `batch` batches of `epoch` are done by all together, `step` steps."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class BaseTrainer(OnDevice):
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
    processes: those that train together, by default the ones that have `joined`; each makes its
    own trainer, and calls the same methods.

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
        processes: Processes | None = None,
    ) -> None:
        self.config = parse_config(config)
        self.processes = current() if processes is None else processes
        training = self.config.training
        self.model = self.network = model
        self.seg_loss, self.depth_loss = loss_fns
        self.optimizer = optimizer
        self.augmentation = augmentation
        self.device = self.setup()
        self.train_batches, self.test_batches = make_batches(self.config, train_subset, test_subset)
        self._dataset: Any = test_subset.dataset
        self._prepare = getattr(train_subset.dataset, "prepare", normalise)
        self._about_model = model_record(model, self.config, self._dataset)
        begun_by = (state_dict or {}).get("processes", self.processes.size)
        self.plan = plan_run(training, len(self.train_batches), begun_by)
        self.epochs, self.steps = self.plan.epochs, self.plan.steps
        self.settle(self.steps * training.accumulate)
        batches = self.train_batches, self.test_batches
        keep(self.config, batches, self.device, self.epochs, self.spare)
        self.average = None if training.ema is None else WeightAverage(model, training.ema)
        self.schedule = Schedule(self.config, optimizer, self.epochs, self.steps)
        self.monitor = Monitor(training)
        self.state = _State()
        self._meter = Meter(self.device)
        self._health = Health(self.device, self.config.run_folder, self.train_batches)
        self._interrupts = Interruptible(self.processes)
        self._telling = Telling(self.config, self.processes.writes, self._interrupts, on_progress)
        self._lr_used = self.schedule.lr
        self._gradient_norm: Tensor | None = None
        if self.processes.size > 1:  # each draws random numbers of its own from here on
            seed_all(self.config.seed, self.processes.rank, 0)
        if state_dict is not None:
            self.load_state_dict(state_dict)

    @property
    def tested_model(self) -> nn.Module:
        """The model that is tested, shown and kept: the average of the weights if there is one."""
        return self.model if self.average is None else self.average.model

    # -- the loop -------------------------------------------------------------------------------

    def start_train(self) -> dict[str, float]:
        """Train to the configured epoch and return the last test metrics.

        After each epoch the model is tested, the record and the checkpoints are written. Ctrl-C or
        SIGTERM: the step is finished, all is saved, and KeyboardInterrupt is raised, in all
        processes at the same step. A run that is finished or out of patience returns at once.
        """
        with self._interrupts:
            try:
                while self.state.epoch < self.epochs and not self.monitor.exhausted:
                    self._fit_epoch(self.state.epoch)
            except KeyboardInterrupt:
                if self._interrupts.between_steps:
                    self.save()
                    self.processes.barrier()  # torchrun kills the others when the first is gone
                raise
            finally:
                self._telling.close()
        return dict(self.state.metrics)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, or what is left of it; returns the means over its samples.

        Keys: `vathos.trainer.meter.METRICS`; miou is the true IoU.
        """
        self.open_log()  # before the first step, for it drops what came after this point
        self.model.train()
        training, clock = self.config.training, Clock()
        steps = self.plan.rest(epoch, self.state.batch, self.processes)
        if steps:
            mine = [number for step in steps for number in step.mine]
            batches = self.feed(self.train_batches.epoch(epoch, mine))
        for step in steps:
            group = [next(batches) for _ in step.mine]
            self._train_step(epoch, group, step)
            clock.add((step.end - step.first) * len(group[0]["bg"]))  # all are as large
            if self.state.step % training.log_every == 0:
                self._report_step(epoch, clock)
            if training.checkpoint_every and self.state.step % training.checkpoint_every == 0:
                self.save()
            if self.state.step % self.check_every == 0:
                self._interrupts.check()
        self._health.check()
        metrics = self._meter.gather(self.processes)
        self._tell("train", epoch, metrics, clock, self.state.step, done=True)
        return metrics

    def test_epoch(self, epoch: int) -> dict[str, float]:
        """Test on the test subset; returns the means over its samples.

        Keys: `vathos.trainer.meter.TEST_METRICS`, which begin with those of `train_epoch`.
        """
        self.tested_model.eval()
        # BatchNorm's running statistics are those of each process's last batch; test what is kept.
        self.processes.broadcast(self.tested_model.buffers())
        meter, clock = Meter(self.device, TEST_METRICS), Clock()
        rank, size, total = self.processes.rank, self.processes.size, len(self.test_batches)
        batches = self.feed(self.test_batches.epoch(0, range(rank, total, size)))
        for done in range(size, total + size, size):
            if stored := next(batches, None):  # the last round may not reach every process
                with torch.no_grad():
                    _, means = self._forward(self.tested_model, stored, TEST_METRICS)
                meter.add(means, len(stored["bg"]))
                clock.add(size * len(stored["bg"]))
            turn = done // size
            if turn % self.config.training.log_every == 0 and done < total:
                self._tell("test", epoch, meter.read(), clock, done, done=False)
            if turn % self.check_every == 0:
                self._interrupts.check()
        metrics = meter.gather(self.processes)
        self._tell("test", epoch, metrics, clock, len(self.test_batches), done=True)
        self._health.check_test(metrics["loss"], epoch)
        return metrics

    @torch.no_grad()
    def predict(self, rows: Iterable[int]) -> Batch:
        """Samples of the data set with `pred_mask` and `pred_depth` (N, 1, H, W) in [0, 1], on the
        CPU; what `figures.prediction_grid` takes."""
        self.tested_model.eval()
        batch = self._prepare(self.place(stored_batch(self._dataset, list(rows))))
        depth_logits, mask_logits = self._logits(self.tested_model, batch)
        batch["pred_mask"] = torch.sigmoid(mask_logits)
        batch["pred_depth"] = torch.sigmoid(depth_logits)
        return {key: value.float().cpu() for key, value in batch.items()}

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that continuing needs: tensors and plain values only.

        Complete in the process that writes; every process calls it.
        """
        scheduler = self.schedule.scheduler
        return {
            "model_name": type(self.model).__name__,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if scheduler is None else scheduler.state_dict(),
            **vars(self.state),
            "monitor": self.monitor.state_dict(),
            "processes": self.plan.processes,
            "meter": self.processes.gather(self._meter.state_dict()),
            "rng": self.processes.gather(get_rng_state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved, in as many processes or others; give the whole of it to
        each. Raises `CheckpointError` if it does not fit."""
        self.plan.check(self.processes.size)
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
            rank, size = self.processes.rank, self.processes.size
            self._meter = Meter(self.device)
            for share in state["meter"][rank::size]:
                self._meter.add_state(share)
            if len(state["rng"]) == size:
                set_rng_state(state["rng"][rank])
            else:
                seed_all(self.config.seed, rank, self.state.step)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"the training checkpoint does not fit this run ({error}); choose another name"
            ) from error

    def save(self, also: Sequence[str] = ()) -> None:
        """Write `model_checkpoint.pt` and `train_checkpoint.pt`, each under the endings in `also`
        too; raises `TrainingError` instead if losses or weights went bad. Every process calls it,
        and one writes."""
        self._health.check_weights(self.model, self.state.step)
        state = self.state_dict()
        if not self.processes.writes:
            return
        self._telling.flush()
        model = {
            **self._about_model,
            "model": self.tested_model.state_dict(),
            **{key: getattr(self.state, key) for key in ("epoch", "step", "metrics")},
        }
        save_pair(self.config.run_folder, model, state, also)

    # -- one step -------------------------------------------------------------------------------

    def _train_step(self, epoch: int, group: Sequence[Batch], step: Step | None = None) -> None:
        """One optimiser step on the mean gradient of the batches of `step`, of which this process
        has `group`; by default that is all of it."""
        step = step or next_step(self.state.batch, len(group))
        # What backward adds up here is then averaged over the processes.
        share = (step.end - step.first) / self.processes.size
        with self._interrupts.step():
            for number, stored in zip(step.mine, group, strict=True):
                last = number == step.mine[-1]
                with nullcontext() if last else self.unsynchronised():
                    loss, means = self._forward(self.network, stored, METRICS, self.augmentation)
                    self.backward(loss / share)
                self._health.add(loss, epoch * len(self.train_batches) + number)
                self._meter.add(means, len(stored["bg"]))
            self.state.batch = step.end
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
        batch = self.prepared(stored, augmentation)
        depth_logits, mask_logits = self._logits(model, batch)
        mask, depth = batch["fg_bg_mask"], batch["depth_fg_bg"]
        seg_loss = self.seg_loss(mask_logits, mask)
        depth_loss = self.depth_loss(depth_logits, depth)
        weights = self.config.loss_weights
        loss = weights.seg * seg_loss + weights.depth * depth_loss
        losses, logits = (loss, seg_loss, depth_loss), (mask_logits, depth_logits)
        return loss, batch_metrics(losses, logits, (mask, depth), names)

    def prepared(self, stored: Batch, augmentation: nn.Module | None) -> Batch:
        """A batch as the data set stores it, on the device, as floats in [0, 1], augmented."""
        batch = self._prepare(self.place(stored))
        return batch if augmentation is None else augmentation(batch)

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        pictures = torch.cat((batch["bg"], batch["fg_bg"]), dim=1)
        # As they are stored, pictures are channels-last, and a convolution is if either operand is.
        pictures = pictures.contiguous(memory_format=self.memory_order)
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
            shown = shown_rows(self.test_batches)
            self._telling.epoch(row, train, test, lambda: self.predict(shown))
            self.save(also)

    # -- telling --------------------------------------------------------------------------------

    def _report_step(self, epoch: int, clock: Clock) -> None:
        self._health.check()
        at, last = self.state.step, self._meter.last()
        self._telling.step(at, last, self._lr_used, self._gradient_norm)
        self._tell("train", epoch, self._meter.read(), clock, at, done=False)

    def _tell(
        self,
        phase: Phase,
        epoch: int,
        metrics: dict[str, float],
        clock: Clock,
        at: int,
        done: bool,
    ) -> None:
        end = self.steps if phase == "train" else len(self.test_batches)
        place = (phase, epoch, self.epochs, at, end)
        self._telling.progress(Progress(*place, metrics, self.schedule.lr, clock.rate(), done))

    def open_log(self) -> None:
        """Open the record, where the run stands now; it is closed when training ends.

        Raises `ConfigError` if its folder cannot be written, or for a tracker not installed.
        """
        size = picture_size(self._dataset)
        self._telling.open(self.state.epoch, self.state.step, self.model, size)
