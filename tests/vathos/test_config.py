"""Configurations that are read, refused and completed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vathos.errors import ConfigError, UsageError
from vathos.utils import load_config
from vathos.utils.config import Config, flatten, parse_config, read_config

CONFIGS = Path(__file__).parents[2] / "configs"
ORIGINAL_EXAMPLE = (CONFIGS / "original_2020.yaml").read_text("utf-8")


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_of_the_original_is_valid_and_its_paths_follow_the_file(tmp_path: Path) -> None:
    config = load_config(str(write(tmp_path, ORIGINAL_EXAMPLE)))
    assert config["log_dir"] == str(tmp_path / "logs")
    assert config["dataset"]["root"] == str(tmp_path / "vathos_data")
    assert config["dataset"]["zip_dir"] == str(tmp_path / "vathos_data")
    assert config["lr_scheduler"]["args"] == {"max_lr": 0.6}
    assert config["loss_weights"] == {"seg": 1.0, "depth": 2.0}


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, ""))
    assert config.training.epochs == 3
    assert config.run_folder == tmp_path / "data" / "runs" / "vathos"
    assert config.log_folder == config.run_folder


def test_a_loaded_configuration_is_valid_again_and_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, ORIGINAL_EXAMPLE)
    assert parse_config(load_config(str(path))) == read_config(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1\nmodle: ResUNet\n", r"config\.yaml:2: modle .*did you mean model\?"),
        ("training:\n  epoch: 3\n", r"config\.yaml:2: training\.epoch .*training\.epochs\?"),
        ("batch_size: 3\n", r":1: batch_size .*did you mean dataset\.loader_args\.batch_size\?"),
        ("lr_scheduler: {tipe: A}\n", r"lr_scheduler\.tipe .* did you mean lr_scheduler\.type\?"),
        ("lr_scheduler: {args: {}}\n", r"lr_scheduler\.type is missing"),
        (
            "training: {epochs: three}\n",
            r":1: training\.epochs is 'three', but must be a valid int",
        ),
        ("training: {epochs: 0}\n", r"training\.epochs is 0, but must be greater than or equal"),
        ("dataset: 7\n", r":1: dataset is 7, but must be"),
        ("device: gpu0\n", r"device is 'gpu0', but must be 'auto', 'GPU', 'CPU' or 'TPU'"),
        ("name: a/b\n", r":1: name is 'a/b', but must be the name of a folder"),
        ("name: ..\n", r":1: name is '\.\.', but must be the name of a folder"),
        ("name: .\n", r":1: name is '\.', but must be the name of a folder"),
        ('name: ""\n', r":1: name is '', but must be the name of a folder"),
        ("model: 7\n", r":1: model is 7, but must be a name, or a name and arguments"),
        ("training: {ema: 1.0}\n", r"training\.ema is 1\.0, but must be less than 1"),
        ("trackers: [wandbd]\n", r"trackers\.0 is 'wandbd', but must be 'wandb' or 'mlflow'"),
        ("dataset: {split: {by: bg}}\n", r"by is 'bg', but must be 'background', 'cutout' or"),
        (
            "optimizer:\n  groups:\n  - {mach: x}\n",
            r":3: optimizer\.groups\.0\.mach .* did you mean optimizer\.groups\.match\?",
        ),
        ("seed: 1\nname: a\nseed: 2\n", r":3: seed is already in line 1; remove one"),
        ("- 1\n", r"must hold keys and values"),
        ("a: [1\n", r"not valid YAML"),
        ("a: &x [*x]\n", r"an anchor \(&\) holds itself"),
        ("dataset: &d\n  <<: *d\n", r"an anchor \(&\) holds itself"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(str(write(tmp_path, text)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        load_config(str(tmp_path / "nowhere.yaml"))


def test_overrides_win_and_their_paths_follow_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    overrides = ["training.epochs=7", "optimizer.args.lr=1e-3", "dataset.root=w", "seed=5"]
    config = read_config(write(tmp_path, ORIGINAL_EXAMPLE), overrides)
    assert config.training.epochs == 7
    assert config.optimizer.args == {"lr": 0.001}
    assert config.dataset.root == str(here / "w")
    assert config.dataset.loader_args.batch_size == 128
    assert config.seed == 5


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.epochs", "not an override"),
        ("training.epoch=3", "the command line: training.epoch .* did you mean training.epochs"),
        ("seed=[", "not valid YAML"),
        ("seed=x", "the command line: seed is 'x'"),
        ("seed.x=1", "the command line: seed is"),
        ("training={epoch: 1}", "the command line: training.epoch .* did you mean"),
        ("lr_scheduler.args={max_lr: 1}", "the command line: lr_scheduler.type is missing"),
    ],
)
def test_a_bad_override_is_a_usage_error(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        read_config(write(tmp_path, "training:\n  epochs: 3\n"), [override])


def test_a_bad_file_is_no_usage_error_though_there_are_overrides(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:1: sed ") as caught:
        read_config(write(tmp_path, "sed: 1\n"), ["seed=1"])
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("text", "overrides", "root"),
    [
        ("", [], "workspace"),
        ("dataset: {div_factor: 2}", [], "workspace"),
        ("", ["dataset.div_factor=2"], "workspace"),
        ("dataset: {root: there}", [], "there"),
        ("dataset: {zip_dir: there}", [], "data"),
        ("", ["dataset.root=typed"], "typed"),
        ("", ["dataset={root: typed}"], "typed"),
    ],
)
def test_the_default_root_is_for_a_configuration_that_names_no_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    overrides: list[str],
    root: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_config(write(tmp_path, text), overrides, Path("workspace"))
    assert config.dataset.root == str(tmp_path / root)


def test_the_paths_of_a_dict_follow_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"model_init": "m.pt", "log_dir": "logs", "dataset": {"zip_dir": "z"}}
    for config in (parse_config(given), parse_config(Config.model_validate(given))):
        assert config.model_init == str(tmp_path / "m.pt")
        assert config.log_dir == str(tmp_path / "logs")
        assert config.dataset.zip_dir == str(tmp_path / "z")
        assert config.dataset.root == str(tmp_path / "data")
    assert given["model_init"] == "m.pt"


@pytest.mark.parametrize(
    ("text", "suffix"), [("small", "_small"), ("_small", "_small"), ('""', "")]
)
def test_a_suffix_may_be_written_without_its_underscore(
    tmp_path: Path, text: str, suffix: str
) -> None:
    assert read_config(write(tmp_path, f"dataset: {{suffix: {text}}}")).dataset.suffix == suffix


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3"])
def test_a_learning_rate_with_an_exponent_is_a_number(tmp_path: Path, text: str) -> None:
    config = read_config(write(tmp_path, f"optimizer: {{type: SGD, args: {{lr: {text}}}}}"))
    assert config.optimizer.args == {"lr": 0.001}


def test_steps_alone_decide_the_length(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, "training: {steps: 200}"))
    assert config.training.epochs is None


def test_flatten_gives_every_value_by_dotted_key() -> None:
    flat: dict[str, Any] = flatten(parse_config({}))
    assert flat["dataset.loader_args.batch_size"] == 32
    assert flat["optimizer.args"] == {"lr": 0.01}
    assert flat["lr_scheduler"] is None


def test_the_example_that_shows_every_key_shows_the_defaults() -> None:
    shown = yaml.safe_load((CONFIGS / "full.yaml").read_text("utf-8"))
    assert shown == Config().model_dump(mode="json")


@pytest.mark.parametrize("key", ["model", "augmentation", "seg_loss", "depth_loss"])
def test_a_name_is_short_for_a_type_without_arguments(tmp_path: Path, key: str) -> None:
    for text in ("Name", "{type: Name}", "{type: Name, args: {}}"):
        config = read_config(write(tmp_path, f"{key}: {text}"))
        assert config.model_dump()[key] == flatten(config)[key] == "Name"
    config = read_config(write(tmp_path, f"{key}: Name"), [f"{key}.args.x=3"])
    assert config.model_dump()[key] == {"type": "Name", "args": {"x": 3}}
    assert parse_config(config.model_dump()) == config


def test_where_a_key_was_written_is_known(tmp_path: Path) -> None:
    text = "model: ResUNet\noptimizer:\n  groups:\n  - match: x\n  - match: y\n"
    path = write(tmp_path, text)
    places = read_config(path, ["model.type=ResUNeXt"]).places
    assert places.find("optimizer.groups.1.match") == f"{path}:5"
    assert places.find("optimizer.groups.1.args.lr") == f"{path}:5"
    assert places.find("model.type") == "the command line"
    assert places.find("training.epochs") == str(path)
