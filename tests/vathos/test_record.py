"""What a run leaves to be read: checkpoints, `metrics.csv`, curves, pictures and progress."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from depthgen.progress import training_bar
from tests.vathos.trainings import (
    EPOCHS,
    STEPS_PER_EPOCH,
    Killed,
    TinyNet,
    read_curves,
    read_record,
    stop_at,
)
from vathos.errors import ConfigError, DataError
from vathos.trainer.checkpoint import get_rng_state, load_checkpoint
from vathos.trainer.meter import METRICS, TEST_METRICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vathos.trainer import GPUTrainer, Progress


def read_graph(folder: Path) -> list[str]:
    """The names of the nodes of TensorBoard's graph; empty if there is none."""
    record = EventAccumulator(str(folder))
    record.Reload()
    return [node.name for node in record.Graph().node] if record.Tags()["graph"] else []


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


def test_tensorboard_has_the_tags_of_the_original_and_the_graph(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    make_trainer(log_every=1).start_train()
    curves = read_curves(tmp_path / "run")
    assert {
        "BatchLoss/Train/seg_loss",
        "BatchLoss/Train/depth_loss",
        "BatchAccuracy/Train/mIOU",
        "EpochLoss/Train/seg_loss",
        "EpochLoss/Test/depth_loss",
        "EpochAccuracy/Train/mRMSE",
        "EpochAccuracy/Test/mIOU",
        "LR/lr_value",
        "ModelImages/TestImages",
    } <= set(curves)
    assert len(curves["BatchLoss/Train/seg_loss"]) == EPOCHS * STEPS_PER_EPOCH
    assert [step for step, _ in curves["ModelImages/TestImages"]] == [0, 1, 2]
    assert read_graph(tmp_path / "run")


# All that TensorBoard looks for; the real one takes ten seconds to load.
TENSORFLOW = """
import sys
from types import SimpleNamespace
stands_in = True
compat = SimpleNamespace(v2=sys.modules[__name__])
"""
WRITER = """
import sys
from pathlib import Path
from vathos.trainer.run_log import RunLog
from vathos.utils.config import parse_config
config = parse_config({"name": "run", "chkpt_dir": sys.argv[1]})
for step in (3, 2):
    record = RunLog(config, 0, step)
    record.step(3, {"loss": 1.0}, 0.1, None)
    record.close()
assert "tensorflow" not in sys.modules
# Through these TensorFlow's own tf.summary finds itself.
from tensorboard.compat import tf, tf2
assert tf.stands_in and tf2.stands_in
"""


def test_the_record_is_written_without_tensorflow_and_leaves_it_to_others_as_it_was(
    tmp_path: Path,
) -> None:
    package = tmp_path / "lib" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TENSORFLOW)
    path = os.pathsep.join((str(package.parent), str(Path(__file__).parents[2])))
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    # The second record went on after step 2, so it cut the first one's point off.
    assert [step for step, _ in read_curves(tmp_path / "run")["LR/lr_value"]] == [3]


def test_a_tracker_that_does_not_start_is_a_sentence_with_its_reason(
    make_trainer: Callable[..., GPUTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeWandB:
        Image = None

        @staticmethod
        def init(**_kwargs: object) -> FakeRun:
            raise RuntimeError("no key:\n  log in")

    monkeypatch.setitem(sys.modules, "wandb", FakeWandB)
    monkeypatch.setattr("vathos.trainer.trackers.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"^trackers: wandb does not start \(no key: log in\); "):
        make_trainer(config={"trackers": ["wandb"]}).start_train()


@pytest.mark.parametrize(("phase", "step"), [("train", 1), ("train", 3), ("test", 3)])
def test_tensorboard_has_each_point_once_after_a_resume(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, phase: str, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(log_every=1, on_progress=stop_at(phase, step)).start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    make_trainer(log_every=1, state=state).start_train()
    steps = [step for step, _ in read_curves(tmp_path / "run")["BatchLoss/Train/seg_loss"]]
    assert steps == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))


def test_points_of_a_run_killed_before_its_first_checkpoint_are_not_doubled(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        make_trainer(log_every=1, on_progress=stop_at("train", 2, Killed)).start_train()
    make_trainer(log_every=1).start_train()
    steps = [step for step, _ in read_curves(tmp_path / "run")["BatchLoss/Train/seg_loss"]]
    assert steps == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))


def test_progress_reports_the_steps_of_the_run(make_trainer: Callable[..., GPUTrainer]) -> None:
    told: list[Progress] = []
    make_trainer(on_progress=told.append).start_train()
    train = [p for p in told if p.phase == "train"]
    assert [p.step for p in train if not p.done] == [2, 4, 6, 8]
    assert [p.step for p in train if p.done] == [3, 6, 9]
    assert all(p.steps == 9 and p.epochs == EPOCHS for p in train)
    assert all(set(p.metrics) >= {"miou", "mrmse", "seg_loss", "depth_loss"} for p in told)


def test_metrics_csv_has_the_six_figures_of_training_and_all_of_testing(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    metrics = make_trainer().start_train()
    last = read_record(tmp_path / "run")[-1]
    assert set(last) == {
        *("epoch", "step", "lr", "seconds"),
        *(f"train_{name}" for name in METRICS),
        *(f"test_{name}" for name in TEST_METRICS),
    }
    assert {name: float(last[f"test_{name}"]) for name in TEST_METRICS} == metrics


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "garbage\n1,2\n",
        lambda text: text.replace("\n0,", "\nzero,", 1),
        lambda text: text.replace("\n0,", "\n0,1,2,", 1),
        lambda text: text.encode("utf-16"),
    ],
    ids=["columns", "number", "fields", "bytes"],
)
def test_a_changed_metrics_csv_is_named_and_left_as_it_is(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, change: Callable[[str], str | bytes]
) -> None:
    make_trainer().start_train()
    path = tmp_path / "run" / "metrics.csv"
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    before = path.read_bytes()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    with pytest.raises(DataError, match=r"metrics\.csv is not as a run writes it.*move it away"):
        make_trainer(state=state).open_log()
    assert path.read_bytes() == before


def test_a_metrics_csv_that_a_spreadsheet_saved_is_gone_on_with(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(on_progress=stop_at("train", 2 * STEPS_PER_EPOCH)).start_train()
    path = tmp_path / "run" / "metrics.csv"
    before = read_record(tmp_path / "run")
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    make_trainer(state=state).start_train()
    after = read_record(tmp_path / "run")
    assert [row["epoch"] for row in after] == ["0", "1", "2"]
    assert after[: len(before)] == before


def test_a_damaged_record_of_trackers_is_named(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trackers.json").write_text("[1")
    with pytest.raises(ConfigError, match=r"trackers\.json does not say .* move it away"):
        make_trainer().open_log()


def test_drawing_the_graph_leaves_the_run_as_it_was(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer()
    trainer.model.train()
    before = get_rng_state()["torch"], {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.open_log()
    assert trainer.model.training
    assert torch.equal(get_rng_state()["torch"], before[0])
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[1][key]), key
    trainer._telling.close()
    assert any("body" in name for name in read_graph(tmp_path / "run"))


def test_a_model_that_cannot_be_traced_trains_without_a_graph(
    make_trainer: Callable[..., GPUTrainer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Untraceable(TinyNet):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            if torch._C._get_tracing_state() is not None:
                raise RuntimeError("not this one")
            return super().forward(x)

    make_trainer(model=Untraceable(), epochs=1).start_train()
    assert "shows no graph of this model" in caplog.text
    assert not read_graph(tmp_path / "run")
    assert capsys.readouterr().out == ""


def test_a_tracker_that_is_not_installed_is_a_sentence_with_what_to_type(
    make_trainer: Callable[..., GPUTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vathos.trainer.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mlflow is not installed; type `pip install mlflow`"):
        make_trainer(config={"trackers": ["mlflow"]}).start_train()


class FakeRun:
    """Of a W&B run what is used of it."""

    id = "r1"

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []

    def define_metric(self, *_args: object, **_kwargs: object) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        pass


def test_wandb_gets_steps_and_epochs_on_axes_of_their_own_and_the_same_run_after_a_resume(
    make_trainer: Callable[..., GPUTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    run = FakeRun()

    class FakeWandB:
        Image = staticmethod(np.shape)

        @staticmethod
        def init(id: str | None, **_kwargs: object) -> FakeRun:
            asked.append(id)
            return run

    monkeypatch.setitem(sys.modules, "wandb", FakeWandB)
    monkeypatch.setattr("vathos.trainer.trackers.find_spec", lambda name: object())
    config = {"trackers": ["wandb"]}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(config=config, on_progress=stop_at("train", 4)).start_train()
    state = load_checkpoint(tmp_path / "run" / "train_checkpoint.pt")
    make_trainer(state=state, config=config).start_train()
    assert asked == [None, "r1"]
    assert [each["epoch"] for each in run.logged if "EpochLoss/Test/loss" in each] == [0, 1, 2]
    assert [each["step"] for each in run.logged if "LR/lr_value" in each] == [2, 4, 6, 8]
    assert [each["ModelImages/TestImages"][2] for each in run.logged if len(each) == 2] == [3] * 3


def test_the_bar_shows_loss_iou_rmse_and_samples_a_second(
    make_trainer: Callable[..., GPUTrainer],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern = r"loss \d\.\d{3}, IoU \d\.\d{3}, RMSE \d\.\d{3}, \d+ samples/s"
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with training_bar(quiet=False) as tell:
            make_trainer(f"run{terminal}", on_progress=tell, epochs=1).start_train()
        shown = capsys.readouterr().err
        assert re.search(pattern, shown), shown
        assert "3/3" in shown
