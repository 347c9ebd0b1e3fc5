"""Whole runs: what they leave in their folder, and when they refuse to go on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from vathos.errors import CheckpointError, ConfigError, DataError, UsageError, VathosError
from vathos.runner import Runner, lock
from vathos.train import main
from vathos.utils import load_config
from vathos.utils.config import read_config

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def config(tiny_set: Callable[..., Any], tmp_path: Path) -> dict[str, Any]:
    made = tiny_set(n_bg=5, twins=True).write()
    return {
        "name": "run",
        "chkpt_dir": str(tmp_path / "checkpoints"),
        "log_dir": str(tmp_path / "logs"),
        "device": "CPU",
        "model": "TinyNet",
        "dataset": {"root": str(made.folder), "loader_args": {"batch_size": 4}},
        "training": {"epochs": 2},
    }


def changed(config: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**config, **values}


def test_a_run_leaves_its_configuration_split_metrics_and_checkpoints(
    config: dict[str, Any], tmp_path: Path
) -> None:
    runner = Runner(config)
    metrics = runner.start_train()
    assert {"miou", "mrmse", "seg_loss", "depth_loss"} <= set(metrics)
    folder = tmp_path / "checkpoints" / "run"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "split.json", "metrics.csv", "model_checkpoint.pt"} <= names
    assert list((tmp_path / "logs" / "run").glob("events.out.tfevents.*"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["loss_weights"]["depth"] == 2.0
    split = json.loads((folder / "split.json").read_text())["split"]
    assert sorted(split["train_backgrounds"] + split["test_backgrounds"]) == list(range(5))


def test_no_test_background_nor_its_twin_is_trained_on(config: dict[str, Any]) -> None:
    for seed in range(8):
        runner = Runner(changed(config, seed=seed, name=f"run{seed}"))
        runner.setup_train()
        train = set(runner.dataset.backgrounds[runner.train_rows].tolist())
        test = set(runner.dataset.backgrounds[runner.test_rows].tolist())
        assert train
        assert test
        assert not train & test
        assert {0, 4} <= train or {0, 4} <= test


def test_a_finished_run_started_again_returns_the_same_metrics(config: dict[str, Any]) -> None:
    first = Runner(config).start_train()
    assert Runner(config).start_train() == first


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 1}, "started with seed 0, and it is now 1"),
        ({"training": {"epochs": 3}}, "training.epochs 2, and it is now 3"),
        ({"optimizer": {"type": "AdamW", "args": {"lr": 0.5}}}, "optimizer.args {'lr': 0.01}"),
    ],
)
def test_a_changed_configuration_refuses_to_continue_and_names_what_differs(
    config: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    Runner(config).setup_train()
    with pytest.raises(ConfigError, match=sentence):
        Runner(changed(config, **change)).setup_train()
    Runner(changed(config, **change), fresh=True).setup_train()


def test_a_section_that_is_left_out_is_a_changed_configuration_too(config: dict[str, Any]) -> None:
    Runner(changed(config, lr_scheduler={"type": "CosineAnnealingLR"})).setup_train()
    with pytest.raises(ConfigError, match=r"lr_scheduler.type 'CosineAnnealingLR', and .* None"):
        Runner(config).setup_train()


def test_where_a_run_computes_may_change(config: dict[str, Any]) -> None:
    Runner(config).setup_train()
    Runner(changed(config, device="auto", training={"epochs": 2, "log_every": 1})).setup_train()


def test_changed_archives_refuse_to_continue(
    config: dict[str, Any], tiny_set: Callable[..., Any]
) -> None:
    Runner(config).setup_train()
    for path in Path(config["dataset"]["root"]).glob("*.zip"):
        path.unlink()
    tiny_set(n_bg=5, n_fg=1).write()
    with pytest.raises(DataError, match=r"bg, fg_bg, fg_bg_mask, depth_fg_bg .* changed since"):
        Runner(config).setup_train()


@pytest.mark.parametrize(
    "record",
    [
        {"train": [0, 1], "test": [2]},
        {"split": {"by": "background", "train_backgrounds": [0]}, "archives": {}},
        {"split": None, "archives": {}},
    ],
)
def test_a_split_of_another_version_is_named_with_what_to_do(
    config: dict[str, Any], tmp_path: Path, record: dict[str, Any]
) -> None:
    path = tmp_path / "checkpoints" / "run" / "split.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"train under another name, or .* --fresh$") as caught:
        Runner(config).setup_train()
    assert str(path) in str(caught.value)
    Runner(config, fresh=True).setup_train()


def test_a_missing_model_init_is_a_warning_and_a_checkpoint_is_used(
    config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Runner(changed(config, model_init="nowhere.pt")).start_train()
    assert "nowhere.pt does not exist" in caplog.text
    path = tmp_path / "checkpoints" / "run" / "model_checkpoint.pt"
    again = Runner(changed(config, name="next", model_init=str(path)))
    again.setup_train()
    weights = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(weights[key], v) for key, v in again.model.state_dict().items())


def test_a_run_from_a_dict_with_a_relative_path_goes_on(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = changed(config, model_init="nowhere.pt", chkpt_dir="checkpoints")
    Runner(relative).setup_train()
    again = Runner(relative)
    again.setup_train()
    assert again.config.model_init == str(tmp_path / "nowhere.pt")
    assert relative["model_init"] == "nowhere.pt"


# The lock alone: the package around it loads torch.
HOLDER = f"""
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("lock", {lock.__file__!r})
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
lock.RunLock().take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_kept_out_of_a_run_folder_until_the_first_ends(
    config: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints" / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"{folder} is being trained in by process") as caught:
            Runner(config, fresh=True).setup_train()
        assert str(holder.pid) in str(caught.value)
        assert {path.name for path in folder.iterdir()} == {"lock"}
        holder.kill()
        holder.wait()
        Runner(config).start_train()


def others_can_lock(folder: Path) -> bool:
    code = HOLDER.replace("time.sleep(60)", "")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    return done.returncode == 0


def test_the_lock_is_held_from_setup_to_the_end_or_to_a_failure(
    config: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints" / "run"
    with pytest.raises(ConfigError):
        Runner(changed(config, seg_loss="none")).setup_train()
    assert others_can_lock(folder)
    first, second = Runner(config), Runner(config)
    first.setup_train()
    second.setup_train()
    second.start_train()
    assert not others_can_lock(folder)
    first.start_train()
    assert others_can_lock(folder)


@pytest.mark.parametrize("key", ["log_dir", "chkpt_dir"])
def test_a_folder_that_cannot_be_written_is_named_with_its_key_before_training(
    config: dict[str, Any], tmp_path: Path, key: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, Path("/proc/x")):
        with pytest.raises(ConfigError, match=f"{place}/run") as caught:
            Runner(changed(config, **{key: str(place)})).setup_train()
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "ResUnet"}, "model: .*no ResUnet; did you mean ResUNet"),
        ({"augmentation": "DepthLight"}, "did you mean DepthLightAug"),
        ({"augmentation": {"type": "DepthLightAug", "args": {"flips": 1}}}, "did you mean flip"),
        ({"augmentation": {"type": "DepthLightAug", "args": {"flip": 7}}}, "augmentation: flip"),
        ({"seg_loss": {"type": "BCETverskyLoss", "args": {"alfa": 1}}}, "did you mean alpha"),
        ({"seg_loss": "BCEDice"}, "did you mean BCEDiceLoss"),
        ({"depth_loss": "rmse"}, "did you mean RMSELoss"),
        ({"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lrr": 1}}}, "did you mean max_lr"),
        ({"optimizer": {"type": "Adamw"}}, "did you mean"),
    ],
)
def test_a_name_that_does_not_exist_offers_the_nearest(
    config: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Runner(changed(config, **change)).setup_train()


@pytest.mark.parametrize(
    ("section", "loss", "reason"),
    [
        ("depth_loss", {"type": "RMSELoss", "args": {"eps": "abc"}}, "RMSELoss cannot be computed"),
        ("seg_loss", {"type": "BCEWithLogitsLoss", "args": {"reduction": "none"}}, "only for scal"),
    ],
)
def test_a_loss_that_would_fail_at_its_first_step_is_refused_before_with_its_line(
    config: dict[str, Any], tmp_path: Path, section: str, loss: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, section: loss}, sort_keys=False))
    line = path.read_text().splitlines().index("  args:") + 1
    with pytest.raises(ConfigError, match=rf"config\.yaml:{line}: {section}: .*{reason}"):
        Runner(read_config(path)).setup_train()
    assert not (tmp_path / "checkpoints" / "run" / "config.yaml").exists()


def test_a_size_that_the_network_cannot_take_is_refused(
    config: dict[str, Any], tiny_set: Callable[..., Any]
) -> None:
    tiny_set(size=20).write()
    with pytest.raises(DataError, match="20 x 20, and the network needs a multiple of 16"):
        Runner(config).setup_train()


def test_div_factor_trains_on_one_sample_in_so_many(config: dict[str, Any]) -> None:
    whole, half = Runner(config), Runner(changed(config, name="half"))
    half.config.dataset.div_factor = 2
    whole.setup_train()
    half.setup_train()
    assert len(half.train_rows) == len(whole.train_rows) // 2
    assert set(half.train_rows) < set(whole.train_rows)


def test_the_module_trains_resunet_from_a_file(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "model": "ResUNet"}))
    assert main([str(path), "training.steps=1", "training.epochs=1", "precision=float32"]) == 0
    assert (tmp_path / "checkpoints" / "run" / "model_checkpoint.pt").exists()
    assert main([str(path), "training.epochs=1", "precision=float32", "seed=1"]) == 1
    assert main([str(path), "training.epochs=1", "--fresh", "precision=float32", "seed=1"]) == 0
    assert main([str(path), "training.epoch=1"]) == 2
    assert main([str(tmp_path / "nowhere.yaml")]) == 1


@pytest.mark.parametrize("told", [False, True])
def test_the_module_takes_the_archives_of_the_workspace(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    root = Path(config["dataset"].pop("root"))
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    if told:
        monkeypatch.setenv("DEPTHGEN_WORKSPACE", str(root))
    else:
        monkeypatch.delenv("DEPTHGEN_WORKSPACE", raising=False)
        (work / "data").symlink_to(root)
    assert main([str(path), "training.steps=1", "training.epochs=1"]) == 0


def test_a_wrong_argument_is_named_with_its_line_and_a_wrong_override_is_a_usage_error(
    config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    schedule = {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lrr": 0.1}}}
    path.write_text(yaml.safe_dump({**config, **schedule}, sort_keys=False))
    line = path.read_text().splitlines().index("    max_lrr: 0.1") + 1
    sentence = f"config.yaml:{line}: lr_scheduler: OneCycleLR takes no argument max_lrr; did you"
    with pytest.raises(ConfigError, match=sentence) as caught:
        Runner(read_config(path)).setup_train()
    assert not isinstance(caught.value, UsageError)
    typed = ["lr_scheduler={type: OneCycleLR, args: {max_lr: 1}}", "model=Tinynet"]
    with pytest.raises(UsageError, match=r"the command line: model: .* did you mean TinyNet"):
        Runner(read_config(path, typed)).setup_train()


def test_the_example_of_the_2020_system_trains_its_paths_and_epochs_aside(
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    root = config["dataset"]["root"]
    paths = {"log_dir": "logs", "chkpt_dir": "checkpoint", "model_init": "models/model.pt"}
    overrides = [f"{key}={tmp_path / value}" for key, value in paths.items()]
    overrides += [f"dataset.root={root}", f"dataset.zip_dir={root}", "training.epochs=1"]
    runner = Runner(read_config(CONFIGS / "original_2020.yaml", overrides))
    metrics = runner.start_train()
    assert 0 <= metrics["miou"] <= 1
    assert type(runner.model).__name__ == "ResUNet"
    assert "models/model.pt does not exist; the weights start at random" in caplog.text
    assert "device: GPU was asked for and is not there; running on the CPU" in caplog.text
    assert "batch_size is 128, but there are" in caplog.text
    assert (tmp_path / "checkpoint" / "vathos_small_train" / "model_checkpoint_best.pt").exists()


@pytest.mark.parametrize("by", ["background", "cutout", "both"])
def test_nothing_that_is_held_out_is_trained_on_whatever_the_split_is_by(
    config: dict[str, Any], by: str
) -> None:
    split = {"split": {"by": by, "test_fraction": 0.4}}
    runner = Runner(changed(config, dataset={**config["dataset"], **split}))
    runner.setup_train()
    assert runner.split.by == by
    assert len(runner.test_rows)
    for numbers, held_out in (
        (runner.dataset.backgrounds, runner.split.test_backgrounds),
        (runner.dataset.foregrounds, runner.split.test_cutouts),
    ):
        assert not set(numbers[runner.train_rows].tolist()) & set(held_out)
        assert not held_out or set(numbers[runner.test_rows].tolist()) <= set(held_out)


def test_the_meaning_of_the_labels_goes_into_the_model_checkpoint(
    config: dict[str, Any], tmp_path: Path
) -> None:
    path = Path(config["dataset"]["root"]) / "depth_fg_bg.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels/depth_fg_bg_info.json", '{"quantity": "depth_m", "scale_m": 10}')
    Runner(changed(config, model={"type": "TinyNet", "args": {}})).start_train()
    folder = tmp_path / "checkpoints" / "run"
    state = torch.load(folder / "model_checkpoint.pt", weights_only=True)
    assert state["quantity"] == {"quantity": "depth_m", "scale_m": 10}
    assert state["size"] == [16, 16]


def test_a_damaged_record_of_what_the_labels_mean_is_named_before_training(
    config: dict[str, Any], tiny_set: Callable[..., Any]
) -> None:
    tiny_set(quantity=["no", "record"]).write()
    with pytest.raises(DataError, match=r"labels/depth_fg_bg_info\.json is damaged"):
        Runner(config).setup_train()


def test_fresh_removes_all_that_an_earlier_run_left(config: dict[str, Any], tmp_path: Path) -> None:
    Runner(changed(config, training={"epochs": 1, "keep_every": 1})).start_train()
    Runner(config, fresh=True).setup_train()
    folder = tmp_path / "checkpoints" / "run"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "split.json", "lock"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_scheduler": {"type": "Foo"}},
        {"log_dir": "/proc/nowhere"},
        {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 1}}},
    ],
)
def test_fresh_that_is_refused_leaves_the_earlier_run_as_it_was(
    config: dict[str, Any], tmp_path: Path, wrong: dict[str, Any]
) -> None:
    config = changed(config, log_dir=None)  # so that the curves are in the folder too
    Runner(config).start_train()
    folder = tmp_path / "checkpoints" / "run"
    before = contents(folder)
    assert {"train_checkpoint.pt", "config.yaml", "metrics.csv"} <= before.keys()
    with pytest.raises(VathosError):
        Runner(changed(config, **wrong), fresh=True).setup_train()
    assert contents(folder) == before
    assert Runner(config).start_train()  # it is over, and says so without another step
    assert contents(folder)["model_checkpoint.pt"] == before["model_checkpoint.pt"]


KILLED = """
import json, os, sys
from vathos.runner import Runner, runner
runner.GPUTrainer = lambda *_: os._exit(9)
Runner(json.loads(sys.argv[1]), fresh=True).setup_train()
"""


def test_fresh_that_is_killed_while_it_sets_up_leaves_the_earlier_run(
    config: dict[str, Any], tmp_path: Path
) -> None:
    Runner(config).start_train()
    folder = tmp_path / "checkpoints" / "run"
    before = contents(folder)
    command = [sys.executable, "-c", KILLED, json.dumps(changed(config, model="ResUNet"))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert "replaced/train_checkpoint.pt" in contents(folder)
    again = Runner(config)
    again.setup_train()
    assert again.trainer is not None
    assert again.trainer.state.epoch == 2
    assert contents(folder).keys() == before.keys()


@pytest.mark.parametrize("missing", ["config.yaml", "split.json"])
def test_a_checkpoint_that_nothing_says_what_it_is_of_is_not_gone_on_with(
    config: dict[str, Any], tmp_path: Path, missing: str
) -> None:
    Runner(config).start_train()
    (tmp_path / "checkpoints" / "run" / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"has train_checkpoint.pt, but no {missing}"):
        Runner(changed(config, seed=7)).setup_train()
    Runner(config, fresh=True).setup_train()


def test_a_damaged_record_of_a_run_is_named_with_what_to_do(
    config: dict[str, Any], tmp_path: Path
) -> None:
    Runner(config).setup_train()
    (tmp_path / "checkpoints" / "run" / "config.yaml").write_text("7")
    with pytest.raises(ConfigError, match=r"must hold keys and values.*--fresh$"):
        Runner(config).setup_train()


def test_the_configurations_that_come_with_the_project_are_valid() -> None:
    paths = list(CONFIGS.glob("*.yaml"))
    assert paths
    for path in paths:
        assert Path(load_config(str(path))["dataset"]["root"]).is_absolute()


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, vathos, vathos.errors; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
