"""The loop: what it measures, when it stops, and that it goes on as if it had not."""

from __future__ import annotations

import csv
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import Subset

from vathos.data_loader import DenseDepth
from vathos.errors import CheckpointError, ConfigError, TrainingError
from vathos.model import loss as L
from vathos.trainer import GPUTrainer, Progress
from vathos.trainer.base_trainer import optimizer_to, scheduler_to
from vathos.trainer.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EPOCHS = 3
STEPS_PER_EPOCH = 3


class TinyNet(nn.Module):
    """The smallest model with the interface of the real one, BatchNorm included."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        depth, mask = self.head(self.body(x)).split(1, dim=1)
        return depth, mask


class OtherNet(TinyNet):
    """Another model by name."""


@pytest.fixture
def make_trainer(tiny_set: Callable[..., Any], tmp_path: Path) -> Callable[..., GPUTrainer]:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)

    def make(
        run: str = "run",
        state: dict[str, Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        model: nn.Module | None = None,
        config: dict[str, Any] | None = None,
        **training: Any,
    ) -> GPUTrainer:
        torch.manual_seed(0)
        model = model or TinyNet()
        whole = {
            "name": run,
            "chkpt_dir": str(tmp_path),
            "device": "CPU",
            "precision": "float32",
            "dataset": {"loader_args": {"batch_size": 4}},
            "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1}},
            "training": {"epochs": EPOCHS, "log_every": 2, **training},
            **(config or {}),
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        losses = (L.BCEDiceLoss(), L.RMSELoss())
        subsets = Subset(dataset, range(12)), Subset(dataset, range(5, 16))
        return GPUTrainer(model, losses, optimizer, whole, *subsets, state, on_progress)

    return make


def stop_at(phase: str, step: int) -> Callable[[Progress], None]:
    """A callback that presses Ctrl-C when it is first told of this step."""

    def callback(progress: Progress) -> None:
        if progress.phase == phase and progress.step == step:
            raise KeyboardInterrupt

    return callback


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


@pytest.mark.parametrize(
    ("section", "last"),
    [
        (None, 0.01),
        ({"type": "StepLR", "args": {"step_size": 1}}, 0.00001),
        ({"type": "CosineAnnealingLR"}, 0.0),
        ({"type": "CosineAnnealingLR", "interval": "step"}, 0.0),
        ({"type": "ReduceLROnPlateau"}, 0.01),
    ],
)
def test_any_scheduler_or_none_runs_to_the_end(
    make_trainer: Callable[..., GPUTrainer], section: dict[str, Any] | None, last: float
) -> None:
    trainer = make_trainer(config={"lr_scheduler": section})
    trainer.start_train()
    assert trainer.schedule.lr == pytest.approx(last, abs=3e-3 if section else 0)


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


def seed_epochs(start: int, epochs: int) -> range:
    """What the original runs after a resume."""
    return range(start, epochs - start)


def test_a_resumed_run_goes_to_the_configured_epoch_where_the_original_stops_short(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(epochs=5, on_progress=stop_at("train", 10)).start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    assert state["epoch"] == 3
    assert not list(seed_epochs(3, 5))
    trainer = make_trainer(epochs=5, state=state)
    trainer.start_train()
    assert (trainer.state.epoch, trainer.state.step) == (5, 5 * STEPS_PER_EPOCH)


def final_weights(trainer: GPUTrainer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    ("phase", "step"), [("train", 1), ("train", 3), ("train", 5), ("test", 2), ("test", 3)]
)
def test_a_run_stopped_anywhere_continues_bit_for_bit(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, phase: str, step: int
) -> None:
    whole = make_trainer("whole", log_every=1)
    expected = whole.start_train()
    stopped = make_trainer("stopped", log_every=1, on_progress=stop_at(phase, step))
    with pytest.raises(KeyboardInterrupt):
        stopped.start_train()
    state = load_checkpoint(tmp_path / "stopped" / "train_checkpoint.pt")
    resumed = make_trainer("stopped", state, log_every=1)
    assert resumed.start_train() == expected
    for key, value in final_weights(whole).items():
        assert torch.equal(final_weights(resumed)[key], value), key
    records = []
    for run in ("whole", "stopped"):
        with (tmp_path / run / "metrics.csv").open() as file:
            records.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert records[0] == records[1]
    assert len(records[0]) == EPOCHS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_step_waits_for_its_end_saves_and_is_raised_as_ctrl_c(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, number: signal.Signals
) -> None:
    class Signalled(TinyNet):
        calls = 0

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.calls += self.training
            if self.calls == 2:
                os.kill(os.getpid(), number)
            return super().forward(x)

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)  # as the command line does
    try:
        handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(KeyboardInterrupt):
            make_trainer(model=Signalled()).start_train()
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        signal.signal(signal.SIGTERM, before)
    assert load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")["step"] == 2


def test_checkpoint_every_bounds_what_a_kill_costs(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 6:
            raise Killed

    with pytest.raises(Killed):
        make_trainer(on_progress=kill, checkpoint_every=5).start_train()
    assert load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")["step"] == 5


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


def test_checkpoints_are_data_and_the_best_twins_follow_the_monitor(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(epochs=6, monitor="miou").start_train()
    names = {path.name for path in (tmp_path / "run").glob("*.pt")}
    assert names == {
        "model_checkpoint.pt",
        "model_checkpoint_best.pt",
        "train_checkpoint.pt",
        "train_checkpoint_best.pt",
    }
    with (tmp_path / "run" / "metrics.csv").open() as file:
        scores = [float(row["test_miou"]) for row in csv.DictReader(file)]
    best = torch.load(tmp_path / "run" / "model_checkpoint_best.pt", weights_only=True)
    assert best["metrics"]["miou"] == max(scores)
    assert best["epoch"] == scores.index(max(scores)) + 1
    assert not list((tmp_path / "run").glob(".*partial"))


def test_a_half_written_checkpoint_or_one_of_another_model_is_refused(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(epochs=1).start_train()
    path = tmp_path / "run" / "train_checkpoint.pt"
    state = load_checkpoint(path)
    with pytest.raises(CheckpointError, match="checkpoint of TinyNet, not of OtherNet"):
        make_trainer(state=state, model=OtherNet())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing.pt")


def test_a_checkpoint_below_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint({}, tmp_path / "file" / "run" / "train_checkpoint.pt")


def test_tensorboard_has_the_tags_of_the_original(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(log_every=1).start_train()
    record = EventAccumulator(str(tmp_path / "run"))
    record.Reload()
    scalars = set(record.Tags()["scalars"])
    assert {
        "BatchLoss/Train/seg_loss",
        "BatchLoss/Train/depth_loss",
        "EpochLoss/Train/seg_loss",
        "EpochLoss/Test/depth_loss",
        "EpochAccuracy/Train/mRMSE",
        "EpochAccuracy/Test/mIOU",
        "LR/lr_value",
    } <= scalars
    assert len(record.Scalars("BatchLoss/Train/seg_loss")) == EPOCHS * STEPS_PER_EPOCH
    assert record.Tags()["images"] == ["ModelImages/TestImages"]


@pytest.mark.parametrize(("phase", "step"), [("train", 1), ("train", 3), ("test", 3)])
def test_tensorboard_has_each_point_once_after_a_resume(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, phase: str, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(log_every=1, on_progress=stop_at(phase, step)).start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    make_trainer(log_every=1, state=state).start_train()
    record = EventAccumulator(str(tmp_path / "run"))
    record.Reload()
    steps = [event.step for event in record.Scalars("BatchLoss/Train/seg_loss")]
    assert steps == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))


def test_points_of_a_run_killed_before_its_first_checkpoint_are_not_doubled(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 2:
            raise Killed

    with pytest.raises(Killed):
        make_trainer(log_every=1, on_progress=kill).start_train()
    make_trainer(log_every=1).start_train()
    record = EventAccumulator(str(tmp_path / "run"))
    record.Reload()
    steps = [event.step for event in record.Scalars("BatchLoss/Train/seg_loss")]
    assert steps == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))


def test_progress_reports_the_steps_of_the_run(make_trainer: Callable[..., GPUTrainer]) -> None:
    told: list[Progress] = []
    make_trainer(on_progress=told.append).start_train()
    train = [p for p in told if p.phase == "train"]
    assert [p.step for p in train if not p.done] == [2, 4, 6, 8]
    assert [p.step for p in train if p.done] == [3, 6, 9]
    assert all(p.steps == 9 and p.epochs == EPOCHS for p in train)
    assert all(set(p.metrics) >= {"miou", "mrmse", "seg_loss", "depth_loss"} for p in told)


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
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
    meta = torch.device("meta")
    optimizer_to(optimizer, meta)
    scheduler_to(scheduler, meta)
    state = optimizer.state[layer.weight]
    assert state["exp_avg"].device == meta
    assert state["step"].device.type == "cpu"
