"""Training, evaluating, predicting and exporting as typed: results, and a sentence a mistake."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.command_line import said

torch = pytest.importorskip("torch")

import vathos.model  # noqa: E402
from tests.vathos.checkpoints import save_checkpoint, save_run  # noqa: E402
from tests.vathos.conftest import TinySet  # noqa: E402
from tests.vathos.trainings import TinyNet, name_networks  # noqa: E402
from vathos.bench import roof  # noqa: E402
from vathos.bench.trial import Trial  # noqa: E402
from vathos.trainer.checkpoint import load_checkpoint  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.conftest import Run


@pytest.fixture(autouse=True)
def _networks_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    name_networks(monkeypatch)


def archives(folder: Path, leave_out: tuple[str, ...] = (), **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return TinySet(folder, **fields).write(leave_out).folder


def config(folder: Path, **keys: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps({"name": "a", "device": "CPU", "training": {"steps": 1}} | keys))
    return path


def photographs(folder: Path, **sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    for name, (width, height) in sizes.items():
        pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


# --- what is typed is done ------------------------------------------------------------------------


def test_train_evaluate_predict_one_after_the_other(
    depthgen: Callable[..., Run], typed: Callable[..., Run], tmp_path: Path
) -> None:
    archives(tmp_path / "W", size=32)
    trained = depthgen("train", config(tmp_path))
    assert trained.returncode == 0, trained.stderr
    assert "batch_size is 32, but there are" in trained.stderr  # more than the set has
    assert "dataset.cache: none" in trained.stderr  # what auto has chosen
    checkpoint = tmp_path / "W" / "runs" / "a" / "model_checkpoint.pt"
    for table in (trained, typed("evaluate", checkpoint, "--samples", "4")):
        assert table.returncode == 0, table.stderr
        assert "ResUNet" in table.stdout
        assert "difference > 12" in table.stdout
    rooms = photographs(tmp_path / "bg", room=(60, 40))
    both = photographs(tmp_path / "fg_bg", room=(60, 40))
    result = typed("predict", checkpoint, "--bg", rooms, "--fg-bg", both, "-o", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert "room_mask.png, room_depth.png, room_overlay.png" in result.stdout
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_evaluate_speaks_json_and_finds_archives_that_moved(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    checkpoint = save_run(archives(tmp_path / "old"), tmp_path / "run")
    (tmp_path / "old").rename(tmp_path / "new")
    for arguments in (
        ("evaluate", checkpoint, "--json", "--zip-dir", tmp_path / "new"),
        ("-w", tmp_path / "new", "evaluate", checkpoint, "--json"),
    ):
        found = json.loads(typed(*arguments).stdout)
        assert [part["name"] for part in found["parts"]] == ["train", "new backgrounds"]
    sentence = said(typed("evaluate", checkpoint), 1)
    assert str(tmp_path / "old") in sentence
    assert "--zip-dir" in sentence


def test_predict_names_what_it_leaves_out_and_what_it_cannot_read(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    checkpoint = save_checkpoint(tmp_path / "a.pt")
    rooms = photographs(tmp_path / "bg", a=(40, 40), b=(40, 40), c=(40, 40))
    both = photographs(tmp_path / "fg_bg", a=(40, 40), b=(48, 40))
    result = typed("predict", checkpoint, "--bg", rooms, "--fg-bg", both, "-o", "out")
    assert result.returncode == 1
    left, error = result.stderr.splitlines()
    assert left == f"Left out: {rooms / 'c.png'} has no partner of that name in {both}"
    assert error.startswith("Error: ")
    assert "40 × 40" in error
    assert "48 × 40" in error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_depth.png",
        "a_mask.png",
        "a_overlay.png",
    ]
    assert "metres = 10 × label" in result.stdout


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_ctrl_c_exits_with_130(
    command: str, typed: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    checkpoint = save_run(archives(tmp_path / "W"), tmp_path / "run")
    rooms = photographs(tmp_path / "bg", a=(40, 40))
    monkeypatch.setattr(torch, "load", interrupted)
    more = {
        "predict": ("--bg", rooms, "--fg-bg", rooms, "-o", "out"),
        "export": ("--format", "pt2"),
    }
    result = typed(command, checkpoint, *more.get(command, ()))
    assert result.returncode == 130
    assert result.stderr.strip().startswith("Stopped.")


@pytest.fixture
def quick_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A roof that takes no time."""
    monkeypatch.setattr(roof, "SECONDS", 0.0)
    monkeypatch.setattr(roof, "ON_CPU", (64, 2**16))


@pytest.mark.usefixtures("quick_roof")
def test_bench_draws_pictures_where_there_are_no_archives(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    few = ("--models", "TinyNet", "--batch-sizes", "2,4", "--size", "32", "--steps", "1")
    result = typed("-q", "bench", *few, "--device", "cpu")
    assert (result.returncode, result.stderr) == (0, "")
    assert "| TinyNet |     4 |" in result.stdout
    assert "drawn pictures" in result.stdout
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(typed("bench", *few, "--json", "-o", "b.png").stdout)
    assert [row["batch_size"] for row in found["rows"]] == [2, 4]


@pytest.mark.usefixtures("quick_roof")
def test_bench_reads_the_archives_in_the_settings_of_a_configuration(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    archives(tmp_path / "W", size=32)
    written = config(tmp_path, model="TinyNet")
    few = ("--batch-sizes", "2", "--steps", "1", "--json")
    result = typed("-w", "W", "bench", written, "precision=bf16", *few)
    found = json.loads(result.stdout)
    assert (found["data"], found["precision"], found["size"]) == ("archives", "bfloat16", [32, 32])
    assert str(tmp_path / "V") in said(typed("-w", tmp_path / "V", "bench", written, *few), 1)
    assert typed("-w", tmp_path / "V", "bench", written, *few, "--drawn").returncode == 0


@pytest.mark.usefixtures("quick_roof")
def test_bench_names_the_line_or_the_override_of_a_wrong_argument(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("model: TinyNet\noptimizer:\n  type: SGD\n  args: {lrr: 1}\n")
    few = ("a.yaml", "--batch-sizes", "2", "--steps", "1", "--size", "32", "--drawn")
    assert "a.yaml:4: optimizer: SGD takes no argument lrr" in said(typed("bench", *few), 1)
    overridden = typed("bench", *few, "optimizer.args={lrs: 1}")
    assert "the command line: optimizer: SGD takes no argument lrs" in said(overridden, 2)


@pytest.mark.usefixtures("quick_roof")
def test_bench_shows_at_ctrl_c_what_there_is(
    typed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trial.run

    def interrupted(self: Trial, *arguments: Any) -> Any:
        if self.batch_size > 2:
            raise KeyboardInterrupt
        return run(self, *arguments)

    monkeypatch.setattr(Trial, "run", interrupted)
    few = ("--models", "TinyNet", "--batch-sizes", "2,4", "--size", "32", "--steps", "1")
    result = typed("bench", *few, "--device", "CPU")
    assert result.returncode == 130
    assert "| TinyNet |     2 |" in result.stdout
    assert "bench.png" in result.stdout
    assert "Stopped; this is" in result.stderr


def test_train_says_what_it_chose_unless_it_is_to_be_quiet(
    typed: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archives(tmp_path / "W")
    written = config(tmp_path, model="TinyNet", dataset={"loader_args": {"batch_size": 4}})
    assert typed("-q", "-w", "W", "train", written, "name=quiet").returncode == 0
    assert caplog.messages == []
    assert typed("-w", "W", "train", written).returncode == 0
    assert caplog.messages == ["dataset.cache: none, for each sample is trained on once"]


def test_a_step_without_room_is_one_sentence_and_the_last_checkpoint_stays(
    typed: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = archives(tmp_path / "W") / "runs" / "a" / "train_checkpoint.pt"

    class Growing(TinyNet):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            if checkpoint.exists():
                torch.empty(2**50, dtype=torch.uint8)  # more than any memory has
            return super().forward(x)

    monkeypatch.setattr(vathos.model, "Growing", Growing, raising=False)
    sizes = {"loader_args": {"batch_size": 4}}
    written = config(tmp_path, model="Growing", dataset=sizes, training={"epochs": 2})
    sentence = said(typed("-q", "-w", "W", "train", written), 1)
    assert "batch_size 4; lower it" in sentence
    assert "dataset.cache: none" in sentence
    assert load_checkpoint(checkpoint)["epoch"] == 1
    assert "dataset.cache" not in said(typed("-w", "W", "train", written, "dataset.cache=none"), 1)


# --- a wrong configuration ------------------------------------------------------------------------


def test_train_without_a_file_is_one_sentence(typed: Callable[..., Run]) -> None:
    assert "nowhere.yaml" in said(typed("train", "nowhere.yaml"), 1)


def test_a_wrong_override_is_a_wrong_command_line(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("name: a\n")
    assert "nonsense" in said(typed("train", "a.yaml", "nonsense"), 2)
    assert "a configuration file (YAML) before it" in said(typed("bench", "training.steps=3"), 2)
    assert "training.epochs" in said(typed("train", "a.yaml", "training.epoch=3"), 2)


def test_training_looks_for_archives_in_the_workspace(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("name: a\n")
    assert str(tmp_path / "W") in said(typed("-w", tmp_path / "W", "train", "a.yaml"), 1)


def test_a_misspelt_argument_is_named_with_the_nearest(
    typed: Callable[..., Run], tmp_path: Path
) -> None:
    archives(tmp_path / "W")
    schedule = {"type": "OneCycleLR", "args": {"max_lrr": 0.6}}
    written = config(tmp_path, lr_scheduler=schedule)
    sentence = said(typed("-w", "W", "train", written), 1)
    assert "max_lrr" in sentence
    assert "did you mean max_lr?" in sentence


# --- wrong archives -------------------------------------------------------------------------------


def test_an_archive_that_is_missing_is_named(typed: Callable[..., Run], tmp_path: Path) -> None:
    (archives(tmp_path / "W") / "fg_bg_mask.zip").unlink()
    assert "fg_bg_mask.zip" in said(typed("-w", "W", "train", config(tmp_path)), 1)


def test_the_one_label_that_is_missing_is_named(typed: Callable[..., Run], tmp_path: Path) -> None:
    archives(tmp_path / "W", leave_out=("depth_000013",))
    sentence = said(typed("-w", "W", "train", config(tmp_path)), 1)
    assert "depth_fg_bg/bg_003/fg_000_bg_003_depth_000013.png" in sentence
    assert "depth_fg_bg.zip" in sentence


def test_a_label_that_is_no_number_is_named(typed: Callable[..., Run], tmp_path: Path) -> None:
    class WithHole(TinySet):
        def _encode_depth(self, stored: Any) -> bytes:
            stored[3, 3] = math.nan
            return super()._encode_depth(stored)

    (tmp_path / "W").mkdir()
    WithHole(tmp_path / "W", depth_bits=32).write()
    for command in (
        ("train", config(tmp_path)),
        ("evaluate", save_run(tmp_path / "W", tmp_path / "run")),
    ):
        sentence = said(typed("-w", "W", *command), 1)
        assert "depth_fg_bg/bg_00" in sentence
        assert "nan" in sentence


# --- wrong checkpoints ----------------------------------------------------------------------------


def test_weights_of_another_model_are_refused(typed: Callable[..., Run], tmp_path: Path) -> None:
    archives(tmp_path / "W")
    other = save_checkpoint(tmp_path / "other.pt")
    written = config(tmp_path, model="OtherNet", model_init=str(other))
    sentence = said(typed("-w", "W", "train", written), 1)
    assert "checkpoint of TinyNet, not of OtherNet" in sentence


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_a_checkpoint_cut_in_half_is_named(
    command: str, typed: Callable[..., Run], tmp_path: Path
) -> None:
    checkpoint = save_run(archives(tmp_path / "W"), tmp_path / "run")
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    rooms = photographs(tmp_path / "bg", a=(40, 40))
    more = {
        "predict": ("--bg", rooms, "--fg-bg", rooms, "-o", "out"),
        "export": ("--format", "pt2"),
    }
    sentence = said(typed(command, checkpoint, *more.get(command, ())), 1)
    assert str(checkpoint) in sentence
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_alone_cannot_be_evaluated(typed: Callable[..., Run], tmp_path: Path) -> None:
    assert "--config" in said(typed("evaluate", save_checkpoint(tmp_path / "a.pt")), 1)


# --- a wrong command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (
            ("predict", "a.pt", "--bg", "nowhere.jpg", "--fg-bg", "fg_bg", "-o", "out"),
            "nowhere.jpg",
        ),
        (("predict", "a.pt", "--bg", "bg", "--fg-bg", "fg_bg", "-o", "out"), "no pair"),
        (("predict", "a.pt", "--bg", "bg/a.png", "--fg-bg", "bg", "-o", "a.pt"), "is a file"),
        (("predict", "a.pt", "--bg", "bg", "--fg-bg", "bg", "-o", "out", "--device", "x"), "'x'"),
        (("evaluate", "a.pt", "--samples", "0"), "--samples"),
        (("bench", "--models", "ResUnet"), "did you mean ResUNet?"),
        (("bench", "--batch-sizes", "16,0"), "--batch-sizes"),
        (("bench", "--size", "100"), "take 96"),
        (("export", "a.pt", "--format", "onnx", "-o", "bg"), "is a folder"),
    ],
    ids=[
        *("missing", "unpaired", "out", "device", "samples"),
        *("no such model", "no batch", "odd size", "folder"),
    ],
)
def test_what_cannot_be_done_as_typed_exits_with_2(
    arguments: tuple[str, ...], what: str, typed: Callable[..., Run], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "a.pt")
    photographs(tmp_path / "bg", a=(40, 40))
    photographs(tmp_path / "fg_bg", b=(40, 40))
    assert what in said(typed(*arguments), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "a.pt", "--format", "keras"),
        ("predict", "a.pt", "--bg", "a", "--fg-bg", "b", "-o", "c", "--size", "half"),
        ("predict", "a.pt", "--bg", "a"),
    ],
    ids=["format", "size", "options"],
)
def test_a_wrong_option_exits_with_2_and_its_usage(
    arguments: tuple[str, ...], typed: Callable[..., Run]
) -> None:
    result = typed(*arguments)
    assert result.returncode == 2
    assert "Usage: depthgen" in result.stderr
