"""Timing the training: what is counted, what is timed, and what does not fit."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from depthgen.workspace import Workspace
from tests.vathos.trainings import TinyNet
from vathos import bench as package
from vathos.bench import Bench, BenchOptions, bench, bench_report, draw, memory, roof, timeline
from vathos.bench.demand import count_demand
from vathos.bench.result import Row
from vathos.bench.roof import Roof, measure_roof
from vathos.bench.timed import TimedTrainer
from vathos.bench.timeline import Timeline
from vathos.errors import ConfigError, DataError, UsageError
from vathos.model import ResUNet, ResUNeXt
from vathos.trainer.tuning import Tuner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.vathos.conftest import TinySet
    from vathos.bench.timeline import Kind

CPU = torch.device("cpu")
SIDE = 32


class Convolutions(nn.Module):
    """Two convolutions, the second one grouped, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.second = nn.Conv2d(8, 4, 1, groups=2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.second(self.first(x)),)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A roof that takes no time."""
    monkeypatch.setattr(roof, "SECONDS", 0.0)
    monkeypatch.setattr(roof, "ON_CPU", (64, 2**16))


def run(folder: Path, progress: Any = None, config: Any = None, **options: Any) -> Bench:
    settings = {"device": "CPU", "model": "TinyNet", "precision": "float32", **(config or {})}
    settings["dataset"] = {"root": str(folder), **settings.get("dataset", {})}
    given = {"batch_sizes": (2, 4), "steps": 2, "size": SIDE, **options}
    return bench(settings, BenchOptions(**given), progress)


# --- what is counted ------------------------------------------------------------------------------


def test_flop_and_bytes_of_two_convolutions_are_those_of_the_formula() -> None:
    demand = count_demand(Convolutions(), (SIDE, SIDE), None)
    pixels = SIDE * SIDE
    weights = (8 * 6 * 9, 4 * (8 // 2) * 1)
    first, second = (2 * pixels * each for each in weights)
    # The first has no gradient of its input.
    assert demand.flop == 2 * first + 3 * second
    # In and out of each: forward, and backward with the gradients beside what was kept.
    forward = (6 + 8) + (8 + 4)
    backward = (4 + 8 + 8) + (8 + 6)
    assert demand.moved == 4 * pixels * (forward + backward)
    # Weights are read in both directions, and their gradients written.
    assert demand.moved_fixed == 4 * 3 * sum(weights)
    assert demand.kept == 4 * pixels * (6 + 8)
    assert demand.kept_fixed == 4 * sum(weights)
    assert demand.moved_by(4) == demand.moved + 3 * sum(weights)


def test_half_precision_moves_and_keeps_half_but_for_its_making() -> None:
    whole, half = (
        count_demand(Convolutions(), (SIDE, SIDE), precision)
        for precision in (None, torch.bfloat16)
    )
    made = SIDE * SIDE * 6 * (4 + 2)  # the pictures, from float32
    assert half.flop == whole.flop
    assert half.moved == whole.moved // 2 + made
    assert half.kept == whole.kept // 2


@pytest.mark.parametrize(
    ("network", "published"), [(ResUNet, 23.9e9), (ResUNeXt, 24.4e9)], ids=["ResUNet", "ResUNeXt"]
)
def test_flop_of_the_networks_are_three_times_those_of_their_layer_tables(
    network: Callable[[], nn.Module], published: float
) -> None:
    rows: list[int] = []

    def add_row(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        # A row of the table: parameters, and the size of the output.
        parameters = sum(each.numel() for each in module.parameters())
        rows.append(2 * parameters * output.shape[2] * output.shape[3])

    with torch.device("meta"):
        built = network()
        for module in built.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(add_row)
        built(torch.empty(2, 6, 96, 96))
    stem = rows[0]
    demand = count_demand(network(), (96, 96), None)
    assert demand.flop == 3 * sum(rows) - stem  # forward, and both gradients but the pictures'
    assert 3 * sum(rows) == pytest.approx(published, rel=2e-3)


# --- what is timed --------------------------------------------------------------------------------


def test_the_time_of_a_step_is_split_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(2**n) for n in range(100))
    monkeypatch.setattr(timeline, "perf_counter", lambda: next(clock))
    line = Timeline(CPU)  # at 1
    for _ in range(2):
        with line.span("data"):  # from 2 to 4
            pass
        with line.span("model"):  # from 8
            with line.span("data"):  # from 16 to 32: the way to the device
                pass
            line.step += 1  # to 64
    first, second = line.seconds()
    assert first == {"rest": 1.0 + 4.0, "data": 2.0 + 16.0, "model": 8.0 + 32.0}
    assert sum(second.values()) == 2.0**12 - 2.0**6


def test_shares_sum_to_one_and_the_step_is_the_median() -> None:
    steps: tuple[dict[Kind, float], ...] = (
        {"data": 1.0, "model": 2.0, "rest": 1.0},
        {"data": 0.0, "model": 8.0, "rest": 0.0},
    )
    row = Row("net", 8, 16, count_demand(Convolutions(), (SIDE, SIDE), None), steps)
    assert row.shares == {"data": 1 / 12, "model": 10 / 12, "rest": 1 / 12}
    assert row.step_seconds == 6.0
    assert row.samples_per_s == 16 / 6


def test_warming_up_is_not_timed(tmp_path: Path) -> None:
    told: list[int] = []
    found = run(tmp_path, lambda done, _: told.append(done), batch_sizes=(2,), steps=3)
    (row,) = found.rows
    assert len(row.seconds) == 3
    assert sum(row.shares.values()) == pytest.approx(1.0)
    assert told == sorted(told)
    assert told.count(0) == 3  # as many steps as warm up
    assert told[-1] == 3


def test_steps_that_take_too_long_are_fewer_but_three(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vathos.bench.timed.MOST_SECONDS", 0.0)
    (row,) = run(tmp_path, batch_sizes=(2,), steps=50).rows
    assert len(row.seconds) == 3


def test_a_step_of_several_batches_counts_all_their_samples(tmp_path: Path) -> None:
    (row,) = run(tmp_path, config={"training": {"accumulate": 3}}, batch_sizes=(2,)).rows
    assert row.samples == 6


def test_without_archives_pictures_are_drawn_and_with_them_they_are_read(
    tiny_set: Callable[..., TinySet], tmp_path: Path
) -> None:
    found = run(tmp_path)
    assert (found.drawn, found.size) == (True, (SIDE, SIDE))
    folder = tiny_set(size=SIDE).write().folder
    found = run(folder, size=None)
    assert (found.drawn, found.size) == (False, (SIDE, SIDE))
    assert all(row.shares["data"] > 0 for row in found.rows)
    assert run(folder, size=16).size == (16, 16)  # as dataset.size would
    assert run(folder, drawn=True, batch_sizes=(2,)).drawn
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_samples_are_decoded_as_in_a_first_epoch_wherever_a_run_would_keep_them(
    place: str, tiny_set: Callable[..., TinySet], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_set(size=SIDE).write().folder
    monkeypatch.setattr("vathos.trainer.keeping.available_share", lambda: 1)  # no room either
    config = {"dataset": {"cache": place}}
    for drawn in (False, True):
        (row,) = run(folder, config=config, size=None, drawn=drawn, batch_sizes=(2,)).rows
        assert row.problem is None
    assert not Workspace(folder).cache.exists()


@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "archives"])
def test_pictures_that_the_network_cannot_take_are_refused(
    drawn: bool, tiny_set: Callable[..., TinySet]
) -> None:
    folder = tiny_set(size=SIDE).write().folder
    with pytest.raises(
        DataError, match=r"are 20 x 20, .* multiple of 16; set dataset\.size to one"
    ):
        run(folder, config={"dataset": {"size": 20}}, size=None, drawn=drawn)


def test_archives_that_were_asked_for_and_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run(tmp_path, drawn=False)


def test_settings_are_those_of_the_configuration(tmp_path: Path) -> None:
    seen: list[TimedTrainer] = []

    class Watched(TimedTrainer):
        def start_train(self) -> dict[str, float]:
            seen.append(self)
            return super().start_train()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vathos.bench.trial.TimedTrainer", Watched)
        found = run(
            tmp_path,
            config={"precision": "bf16", "optimizer": {"type": "SGD", "args": {"lr": 0.1}}},
            batch_sizes=(2,),
        )
    (trainer,) = seen
    assert found.precision == "bfloat16"
    assert trainer.settings.autocast is torch.bfloat16
    assert isinstance(trainer.optimizer, torch.optim.SGD)


def test_each_network_has_its_rows(tmp_path: Path) -> None:
    found = run(tmp_path, models=("TinyNet", "DropNet"))
    rows = [(row.network, row.batch_size) for row in found.rows]
    assert rows == [("TinyNet", 2), ("TinyNet", 4), ("DropNet", 2), ("DropNet", 4)]


# --- the roof -------------------------------------------------------------------------------------


def test_the_roof_is_the_lower_of_arithmetic_and_memory() -> None:
    device = Roof(flop_per_s=100.0, bytes_per_s=10.0)
    assert device.samples_per_s(flop=50.0, moved=1.0) == 2.0  # arithmetic
    assert device.samples_per_s(flop=1.0, moved=5.0) == 2.0  # memory


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_roof_is_measured_in_the_precision(
    monkeypatch: pytest.MonkeyPatch, precision: torch.dtype | None
) -> None:
    multiply = torch.mm
    types: set[torch.dtype] = set()

    def recorded(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
        types.update(each.dtype for each in (left, right, out))
        return multiply(left, right, out=out)

    monkeypatch.setattr(torch, "mm", recorded)
    found = measure_roof(CPU, precision)
    assert types == {precision or torch.float32}
    assert found.flop_per_s > 0
    assert found.bytes_per_s > 0


# --- memory ---------------------------------------------------------------------------------------


def full_from(batch_size: int, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let training raise from this batch size on."""
    time_steps = TimedTrainer.time_steps

    def limited(self: TimedTrainer, *args: Any) -> Any:
        if self.config.dataset.loader_args.batch_size >= batch_size:
            raise error
        return time_steps(self, *args)

    monkeypatch.setattr(TimedTrainer, "time_steps", limited)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("Unable to allocate 9. TiB for an array"),
    ],
    ids=["GPU", "CPU", "NumPy"],
)
def test_a_batch_that_does_not_fit_is_a_row_and_not_the_end(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full_from(4, monkeypatch, error)
    found = run(tmp_path, models=("TinyNet", "DropNet"))
    assert [row.problem for row in found.rows] == [None, "out of memory"] * 2
    assert bench_report(found).count("out of memory |") == 2
    draw(found, tmp_path / "plot.png")


def test_looking_for_the_largest_batch_stops_where_one_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full_from(64, monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    found = run(tmp_path, batch_sizes=(), steps=1)
    assert [row.batch_size for row in found.rows] == [16, 32, 64]
    assert "Largest batch that fits: TinyNet 32." in bench_report(found)


def test_a_batch_that_cannot_be_trained_on_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    # In the middle of ResUNet a picture of 16 px is one number a channel.
    found = run(tmp_path, models=("ResUNet",), batch_sizes=(1, 2), steps=1, size=16)
    alone, two = found.rows
    assert alone.problem is not None
    assert alone.problem.startswith("BatchNorm cannot train on a batch of 1 of 16 x 16")
    assert two.problem is None
    assert bench_report(found).count("failed |") == 1
    draw(found, tmp_path / "plot.png")


def test_a_cycle_that_ends_with_the_run_does_not_end_with_a_trial(tmp_path: Path) -> None:
    cycle = {"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 6}}
    found = run(tmp_path, config={"lr_scheduler": cycle, "training": {"steps": 6}})
    assert [row.problem for row in found.rows] == [None, None]


def test_another_error_is_not_taken_for_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full_from(1, monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path)


def test_what_would_not_fit_on_a_cpu_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full_from(1, monkeypatch, RuntimeError("was tried"))
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    problems = [row.problem or "" for row in run(tmp_path).rows]
    assert all("GB are free" in problem for problem in problems)
    monkeypatch.setattr(memory, "available_memory", lambda: 0)  # where nothing tells
    with pytest.raises(RuntimeError, match="was tried"):
        run(tmp_path)


# --- interruption, report -------------------------------------------------------------------------


def test_ctrl_c_leaves_the_rows_there_are(tmp_path: Path) -> None:
    def stop(at: int) -> Callable[[int, int], None]:
        def progress(done: int, _total: int) -> None:
            if done >= at:
                raise KeyboardInterrupt

        return progress

    found = run(tmp_path, stop(at=3))
    assert found.interrupted
    assert [row.batch_size for row in found.rows] == [2]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop(at=0))


def test_the_report_is_an_aligned_table_with_what_it_ran_on(tmp_path: Path) -> None:
    found = run(tmp_path)
    lines = bench_report(found).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert all(len(a) == len(b) for a, b in pairwise(table))
    assert "float32, 32 × 32 px, drawn pictures" in bench_report(found)


def test_json_has_what_was_counted_beside_what_was_timed(tmp_path: Path) -> None:
    found = run(tmp_path)
    row = json.loads(json.dumps(found.to_json()))["rows"][1]
    demand = count_demand(TinyNet(), (SIDE, SIDE), None)
    assert row["batch_size"] == 4
    assert row["flop_per_sample"] == demand.flop
    assert row["bytes_per_sample"] == demand.moved_by(4)
    assert row["kept_per_sample"] == demand.kept


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    draw(run(tmp_path, batch_sizes=(2,)), tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.format == "PNG"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="-o"):
        draw(run(tmp_path, batch_sizes=(2,)), tmp_path / "file" / "plot.png")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"batch_sizes": (16, 0)}, "--batch-sizes"),
        ({"size": 100}, "multiple of 16; take 96"),
        ({"size": 0}, "take 16"),
        ({"batch_sizes": (10**9,)}, "--batch-sizes"),
        ({"steps": 0}, "--steps"),
        ({"steps": 10**9}, "--steps"),
        ({"models": ("ResUnet",)}, "did you mean ResUNet"),
    ],
    ids=["batch", "size", "nothing", "batches", "steps", "endless", "model"],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        BenchOptions(**options)


@pytest.mark.parametrize("text", ["", "16,", "many", "-1", "1.5"])
def test_batch_sizes_are_numbers_or_max(text: str) -> None:
    with pytest.raises(UsageError):
        package.read_batch_sizes(text)
    assert package.read_batch_sizes("16, 32") == (16, 32)
    assert package.read_batch_sizes("max") == ()


@pytest.mark.parametrize("text", ["", "ResUNet,"])
def test_models_are_names(text: str) -> None:
    with pytest.raises(UsageError, match="empty name"):
        package.read_models(text)


def test_what_is_not_there_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    run(tmp_path, config={"device": "GPU", "precision": "fp16"})
    assert [record.getMessage()[:15] for record in caplog.records] == [
        "device: GPU was",
        "precision: fp16",
    ]


def test_no_trial_knows_what_another_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vathos.trainer.tuning.MEASURED_FROM_PASSES", 0)
    measured: list[Any] = []
    measure = Tuner._measure

    def watched(self: Tuner, passes: int) -> Any:
        measured.append(passes)
        return measure(self, passes)

    monkeypatch.setattr(Tuner, "_measure", watched)
    run(tmp_path)
    assert len(measured) == 2


def test_a_tpu_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TPU"):
        run(tmp_path, config={"device": "TPU"})
