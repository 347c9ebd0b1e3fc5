"""The loop: what it measures, how long it runs, and with which learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from tests.vathos.trainings import EPOCHS, STEPS_PER_EPOCH, TinyNet, read_record
from vathos.errors import ConfigError, TrainingError
from vathos.trainer.base_trainer import optimizer_to, scheduler_to
from vathos.trainer.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vathos.trainer import GPUTrainer


def test_test_metrics_are_means_over_samples_though_the_last_batch_is_uneven(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    trainer = make_trainer()
    metrics = trainer.test_epoch(0)
    batch = trainer.predict(range(5, 16))
    iou, rmse, half = [], [], []
    for n in range(11):
        p, t = batch["pred_mask"][n].double(), batch["fg_bg_mask"][n].double()
        union = ((p > 0.5) | (t > 0.5)).sum().item()
        iou.append(((p > 0.5) & (t > 0.5)).sum().item() / union if union else 1.0)
        half.append(((p * t).sum() / (p.sum() + t.sum())).item())
        d = batch["pred_depth"][n].double() - batch["depth_fg_bg"][n].double()
        rmse.append((d**2).mean().sqrt().item())
    assert metrics["miou"] == pytest.approx(sum(iou) / 11, abs=1e-6)
    assert metrics["mrmse"] == pytest.approx(sum(rmse) / 11, abs=1e-6)
    assert metrics["soft_dice_half"] == pytest.approx(sum(half) / 11, abs=1e-6)


def test_total_loss_is_seg_plus_twice_depth_unless_weights_say_otherwise(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    m = make_trainer().test_epoch(0)
    assert m["loss"] == pytest.approx(m["seg_loss"] + 2 * m["depth_loss"], rel=1e-6)
    weights = {"loss_weights": {"seg": 3.0, "depth": 0.5}}
    m = make_trainer(config=weights).test_epoch(0)
    assert m["loss"] == pytest.approx(3 * m["seg_loss"] + 0.5 * m["depth_loss"], rel=1e-6)


def test_training_lowers_the_loss_and_returns_the_last_test_metrics(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    trainer = make_trainer(epochs=15)
    before = trainer.test_epoch(0)["loss"]
    after = trainer.start_train()
    assert after["loss"] < 0.7 * before
    assert trainer.start_train() == after  # a finished run has nothing left to do


def test_one_cycle_gets_its_length_and_is_annealed_at_the_last_step(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    rates: list[float] = []
    trainer = make_trainer(log_every=1, on_progress=lambda p: rates.append(p.lr))
    steps = EPOCHS * STEPS_PER_EPOCH
    assert trainer.schedule.scheduler.total_steps == steps
    trainer.start_train()
    assert trainer.state.step == steps
    assert max(rates) == pytest.approx(0.1, rel=0.2)
    assert rates[-1] == pytest.approx(0.1 / 25 / 1e4)


# No loss is less than the first one by so much.
NEVER_BETTER = {"patience": 0, "threshold": 1e9, "threshold_mode": "abs"}


@pytest.mark.parametrize(
    ("section", "last"),
    [
        (None, 0.01),
        ({"type": "StepLR", "args": {"step_size": 1}}, 0.01 * 0.1**EPOCHS),
        ({"type": "CosineAnnealingLR"}, 0.0),
        # That of the last step; one more would be for a step that is not taken.
        (
            {"type": "CosineAnnealingLR", "interval": "step"},
            0.01 * (1 + math.cos(math.pi * (1 - 1 / (EPOCHS * STEPS_PER_EPOCH)))) / 2,
        ),
        ({"type": "ReduceLROnPlateau"}, 0.01),
        ({"type": "ReduceLROnPlateau", "args": NEVER_BETTER}, 0.01 * 0.1 ** (EPOCHS - 1)),
    ],
)
def test_any_scheduler_or_none_runs_to_the_end(
    make_trainer: Callable[..., GPUTrainer], section: dict[str, Any] | None, last: float
) -> None:
    trainer = make_trainer(config={"lr_scheduler": section})
    trainer.start_train()
    assert trainer.schedule.lr == pytest.approx(last, rel=1e-9, abs=1e-15)


def test_a_plateau_is_one_of_the_test_loss(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer(config={"lr_scheduler": {"type": "ReduceLROnPlateau"}})
    trainer.start_train()
    losses = [float(row["test_loss"]) for row in read_record(tmp_path / "run")]
    assert trainer.schedule.scheduler.best == pytest.approx(min(losses), rel=1e-6)


def test_a_one_cycle_that_is_too_short_is_refused(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    short = {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 4}}}
    with pytest.raises(ConfigError, match="after 4 steps, but the run has 9"):
        make_trainer(config=short)


@pytest.mark.parametrize(
    ("training", "epochs", "steps"),
    [({"steps": 4}, 2, 4), ({"epochs": None, "steps": 7}, 3, 7), ({"steps": 100}, 3, 9)],
)
def test_steps_cut_the_run_or_decide_its_length(
    make_trainer: Callable[..., GPUTrainer], training: dict[str, Any], epochs: int, steps: int
) -> None:
    trainer = make_trainer(**training)
    trainer.start_train()
    assert (trainer.state.epoch, trainer.state.step) == (epochs, steps)


def test_a_loss_that_is_not_a_number_names_its_batch_and_keeps_the_last_good_checkpoint(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    class Poisoned(TinyNet):
        calls = 0

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            depth, mask = super().forward(x)
            self.calls += self.training
            return depth, mask * (float("nan") if self.calls == 5 else 1.0)

    trainer = make_trainer(model=Poisoned(), epochs=4)
    rows = trainer.train_batches.order.batch(1, 1)
    name = trainer._dataset.sample_name(int(rows[0]))
    with pytest.raises(TrainingError, match=f"epoch 2, batch 2, which begins with {name}"):
        trainer.start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    assert state["step"] == STEPS_PER_EPOCH
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_test_samples_bounds_the_test_and_takes_the_same_each_time(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    first, second = (make_trainer(test_samples=5).test_batches.order.rows for _ in range(2))
    assert len(first) == 5
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_reduced_precision_trains_with_float32_weights(
    make_trainer: Callable[..., GPUTrainer], precision: str
) -> None:
    trainer = make_trainer(config={"precision": precision}, epochs=10)
    before = trainer.test_epoch(0)["loss"]
    assert trainer.start_train()["loss"] < before
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_state_moves_to_a_device_but_a_plain_step_counter_stays() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
    scheduler.average = torch.ones(1)  # none of torch's own holds a tensor
    meta = torch.device("meta")
    optimizer_to(optimizer, meta)
    scheduler_to(scheduler, meta)
    state = optimizer.state[layer.weight]
    assert state["exp_avg"].device == meta
    assert state["step"].device.type == "cpu"
    assert scheduler.average.device == meta
    assert scheduler.total_steps == 4
