"""What `training` and `precision` can ask for: larger steps, clipping, averages, patience."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from tests.vathos.trainings import (
    STEPS_PER_EPOCH,
    PlainNet,
    TinyNet,
    read_curves,
    read_record,
    stop_at,
)
from vathos.errors import TrainingError
from vathos.model import ResUNet
from vathos.model import loss as L
from vathos.trainer.average import WeightAverage
from vathos.trainer.checkpoint import load_checkpoint
from vathos.trainer.meter import METRICS, Meter
from vathos.trainer.monitor import Monitor
from vathos.trainer.processes import Processes
from vathos.utils.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vathos.trainer import GPUTrainer

MEANS_OVER_SAMPLES = (nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss())


def test_accumulating_k_batches_is_one_batch_k_times_as_large(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    trained = []
    for size, accumulate in ((4, 1), (2, 2), (1, 4)):
        torch.manual_seed(0)
        trainer = make_trainer(
            f"run{accumulate}",
            model=PlainNet(),
            losses=MEANS_OVER_SAMPLES,
            config={"dataset": {"loader_args": {"batch_size": size}}},
            accumulate=accumulate,
            epochs=2,
        )
        trainer.start_train()
        assert trainer.state.step == 6
        trained.append(trainer.model.state_dict())
    for other in trained[1:]:
        for key, value in trained[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-10, atol=1e-12)


def test_what_is_left_of_an_epoch_is_a_step_of_its_own_mean(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    sizes: list[int] = []

    class Counting(TinyNet):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            if self.training:
                sizes.append(len(x))
            return super().forward(x)

    trainer = make_trainer(model=Counting(), accumulate=2, epochs=2)
    assert trainer.schedule.scheduler.total_steps == trainer.steps == 4
    losses: list[float] = []
    backward = trainer.backward

    def look(loss: Tensor) -> None:
        losses.append(loss.item())
        backward(loss)

    trainer.backward = look  # type: ignore[method-assign]
    trainer.start_train()
    assert sizes == [4] * 2 * STEPS_PER_EPOCH  # three batches an epoch: a pair, and one
    assert trainer.state.step == 4
    # The third batch is a mean by itself, so its loss is not halved.
    means = float(read_record(tmp_path / "run")[0]["train_loss"])
    assert (2 * losses[0] + 2 * losses[1] + losses[2]) / 3 == pytest.approx(means, rel=1e-5)


def test_steps_count_optimiser_steps_and_cut_an_epoch_of_accumulated_batches(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    trainer = make_trainer(accumulate=2, epochs=None, steps=3)
    trainer.start_train()
    assert (trainer.epochs, trainer.state.epoch, trainer.state.step) == (2, 2, 3)


def test_the_gradient_is_clipped_and_its_norm_is_recorded(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    norms: list[float] = []
    trainer = make_trainer(clip_norm=0.01, log_every=1, epochs=1)

    def look(*_args: object) -> None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients)))

    trainer.optimizer.register_step_pre_hook(look)
    trainer.start_train()
    assert norms == pytest.approx([0.01] * STEPS_PER_EPOCH, rel=1e-3)
    recorded = [value for _, value in read_curves(tmp_path / "run")["Gradient/norm"]]
    assert len(recorded) == STEPS_PER_EPOCH
    assert min(recorded) > 0.01


def test_the_average_follows_the_weights_as_a_loop_over_numbers_would() -> None:
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.5)
    weight, mean = model.weight.detach().double(), model.running_mean
    assert mean is not None
    expected, expected_mean = weight.clone(), mean.double()
    for step in range(8):
        with torch.no_grad():
            model.weight.add_(1)
        model(torch.randn(4, 2))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
        expected_mean = decay * expected_mean + (1 - decay) * mean.double()
        average.update(model)
    copy = average.model.state_dict()
    torch.testing.assert_close(copy["weight"].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(copy["running_mean"].double(), expected_mean, rtol=1e-5, atol=1e-6)
    assert int(copy["num_batches_tracked"]) == 8


def test_the_average_is_what_is_tested_shown_and_kept(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer(ema=0.9)
    metrics = trainer.start_train()
    assert trainer.average is not None
    kept = load_checkpoint(tmp_path / "run" / "model_checkpoint.pt")["model"]
    other = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")["model"]
    assert not torch.equal(kept["head.weight"], other["head.weight"])
    plain = make_trainer("plain", epochs=1)
    plain.model.load_state_dict(kept)
    assert plain.test_epoch(0) == metrics


def test_training_ends_when_patience_does_and_a_second_start_does_nothing(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    frozen = {"optimizer": {"args": {"lr": 0.0}}, "lr_scheduler": None}
    trainer = make_trainer(config=frozen, epochs=9, patience=2)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.model.body[1].momentum = 0.0  # type: ignore[index, union-attr]
    metrics = trainer.start_train()
    assert trainer.state.epoch == 3  # the first, and two that were no better
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    again = make_trainer(state=state, config=frozen, epochs=9, patience=2)
    assert again.start_train() == metrics
    assert again.state.epoch == 3


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("loss", [3.0, 2.0, float("nan"), 2.5], 2.0),
        ("ssim", [0.1, 0.3, 0.2, float("nan")], 0.3),
        ("loss", [float("nan"), 1.0], 1.0),
    ],
)
def test_the_monitor_knows_which_way_is_better_and_nan_never_is(
    name: str, values: list[float], best: float
) -> None:
    monitor = Monitor(parse_config({"training": {"monitor": name, "patience": 2}}).training)
    won = [monitor.update(value) for value in values]
    assert monitor.best == best
    assert won == [value == best or (i == 0 and value == value) for i, value in enumerate(values)]
    assert monitor.exhausted == (len(values) == 4)


def test_keep_every_keeps_a_pair_of_checkpoints_for_good(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(epochs=4, keep_every=2).start_train()
    kept = sorted(path.name for path in (tmp_path / "run").glob("*_epoch*.pt"))
    assert kept == [
        f"{kind}_checkpoint_epoch{epoch:04d}.pt" for kind in ("model", "train") for epoch in (2, 4)
    ]
    assert load_checkpoint(tmp_path / "run" / kept[0])["epoch"] == 2


def test_the_model_checkpoint_says_how_to_build_and_read_the_network(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(epochs=1).start_train()
    state = load_checkpoint(tmp_path / "run" / "model_checkpoint.pt")
    assert set(state) == {
        *("model_name", "model_args", "model", "size", "quantity", "epoch", "step", "metrics")
    }
    assert (state["model_name"], state["model_args"], state["size"]) == ("TinyNet", {}, [16, 16])
    assert state["quantity"] is None


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"accumulate": 2}, {"clip_norm": 1.0}])
def test_weights_that_are_no_numbers_are_not_saved_over_good_ones(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, options: dict[str, Any]
) -> None:
    trainer = make_trainer(epochs=2, **options)
    steps = trainer.steps // 2
    update = trainer.update

    def poison() -> Tensor | None:
        norm = update()
        if trainer.state.step == 2 * steps - 1:  # after the last loss
            next(trainer.model.parameters()).data.fill_(float("nan"))
        return norm

    trainer.update = poison  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"not (a )?number"):
        trainer.start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    assert state["step"] == steps
    assert all(value.isfinite().all() for value in state["model"].values())


def test_empty_masks_train(make_trainer: Callable[..., GPUTrainer]) -> None:
    trainer = make_trainer(losses=(L.BCEDiceLoss(), L.RMSELoss()))
    prepare = trainer._prepare
    trainer._prepare = lambda stored: {
        **(batch := prepare(stored)),
        "fg_bg_mask": torch.zeros_like(batch["fg_bg_mask"]),
    }
    assert all(math.isfinite(value) for value in trainer.start_train().values())


def test_a_batch_that_batch_norm_cannot_train_on_is_a_sentence(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    config = {"dataset": {"loader_args": {"batch_size": 1}}}
    trainer = make_trainer(model=ResUNet(), config=config, samples=2)
    with pytest.raises(TrainingError, match=r"batch of 1 of 16 x 16, .* raise .*batch_size"):
        trainer.start_train()
    small = make_trainer("small", config=config, samples=2, epochs=1)
    assert math.isfinite(small.start_train()["loss"])  # its BatchNorm has 256 pixels to count


def test_a_batch_larger_than_the_set_takes_all_of_it_and_says_so(
    make_trainer: Callable[..., GPUTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(config={"dataset": {"loader_args": {"batch_size": 99}}}, epochs=2)
    trainer.start_train()
    assert trainer.state.step == 2
    assert "batch_size is 99, but there are 12 training samples; each step takes all" in caplog.text


def test_fp16_without_a_gpu_is_a_warning(
    make_trainer: Callable[..., GPUTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(config={"precision": "fp16"}, epochs=1)
    assert "fp16 needs a CUDA GPU; this cpu takes" in caplog.text
    assert math.isfinite(trainer.start_train()["loss"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_scales_gradients_and_keeps_the_scale(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    config = {"precision": "fp16", "device": "GPU"}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(config=config, on_progress=stop_at("train", 4)).start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    trainer = make_trainer(state=state, config=config)
    assert trainer.scaler.get_scale() == state["scaler"]["scale"]
    assert math.isfinite(trainer.start_train()["loss"])


def test_one_process_gathers_what_it_reads() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add(torch.arange(float(len(METRICS))), 3)
    means = {name: float(n) for n, name in enumerate(METRICS)}
    assert meter.gather(Processes()) == meter.read() == means
