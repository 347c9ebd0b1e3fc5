"""A step waits for nothing, and is the same step however it is computed."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from tests.vathos.trainings import DropNet, PlainNet, TinyNet
from tests.vathos.waiting import NoWaiting, WaitedError
from vathos.data_loader.augmentation import DepthLightAug
from vathos.model import loss as L
from vathos.trainer import tuning
from vathos.trainer.moves import fuse, load_optimizer, optimizer_to
from vathos.trainer.progress import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.optim import Optimizer

    from vathos.trainer import GPUTrainer

CPU = torch.device("cpu")
LOSSES = {
    "plain": (nn.BCEWithLogitsLoss(), L.RMSELoss()),
    "Dice, SSIM": (L.BCEDiceLoss(), L.RMSEwSSIMLoss()),
    "Tversky, berHu": (L.BCETverskyLoss(0.7, 0.3), L.BerHuLoss()),
    "Dice alone, gradient": (L.DiceLoss(), L.GradLoss()),
}


def watched_steps(trainer: GPUTrainer, number: int = 2) -> None:
    """Take some steps while it is watched that nothing waits."""
    trainer.model.train()
    batches = list(trainer.train_batches.epoch(0))
    size = trainer.config.training.accumulate
    watched = [*trainer.model.state_dict().values(), *(t for b in batches for t in b.values())]
    for at in range(number):
        with NoWaiting(watched):
            trainer._train_step(0, batches[at * size : (at + 1) * size])


@pytest.mark.parametrize("losses", list(LOSSES))
def test_no_loss_makes_a_step_wait(make_trainer: Callable[..., GPUTrainer], losses: str) -> None:
    watched_steps(make_trainer(losses=LOSSES[losses]))


@pytest.mark.parametrize(
    "training",
    [{"clip_norm": 0.1}, {"ema": 0.9}, {"accumulate": 2, "clip_norm": 1.0, "ema": 0.5}],
    ids=str,
)
def test_no_option_makes_a_step_wait(
    make_trainer: Callable[..., GPUTrainer], training: dict[str, Any]
) -> None:
    watched_steps(make_trainer(**training), number=1)


def test_an_augmented_step_in_bf16_does_not_wait(make_trainer: Callable[..., GPUTrainer]) -> None:
    trainer = make_trainer(config={"precision": "bf16"})
    trainer.augmentation = DepthLightAug(photometric=1.0, blur=1.0, jpeg=1.0)
    watched_steps(trainer)


class ReadingLoss(nn.Module):
    """One that asks the device for a number."""

    def __init__(self, read: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.read = read

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.read(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)


@pytest.mark.parametrize(
    "read", [lambda x: x.mean().item(), lambda x: x[x > 0].sum(), lambda x: bool((x > 0).any())]
)
def test_a_step_that_waits_is_noticed(
    make_trainer: Callable[..., GPUTrainer], read: Callable[[Tensor], object]
) -> None:
    with pytest.raises(WaitedError):
        watched_steps(make_trainer(losses=(ReadingLoss(read), L.RMSELoss())))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_step_on_a_gpu_does_not_wait(
    make_trainer: Callable[..., GPUTrainer], precision: str
) -> None:
    config = {"device": "GPU", "precision": precision}
    trainer = make_trainer(config=config, clip_norm=0.1, ema=0.9)
    trainer.augmentation = DepthLightAug(photometric=1.0, blur=1.0, jpeg=1.0)
    trainer.model.train()
    first, second, *_ = (trainer.place(batch) for batch in trainer.train_batches.epoch(0))
    trainer._train_step(0, [first])  # kernels and tables are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._train_step(0, [second])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def losses_of(trainer: GPUTrainer, steps: int) -> list[float]:
    """The training losses of its first steps."""
    found: list[float] = []
    while len(found) < steps:
        for batch in trainer.train_batches.epoch(trainer.state.epoch):
            trainer.model.train()
            trainer._train_step(0, [batch])
            found.append(trainer._meter.last()["loss"])
        trainer.state.epoch, trainer.state.batch = trainer.state.epoch + 1, 0
    return found[:steps]


def same_curve(one: GPUTrainer, other: GPUTrainer, kind: type[nn.Module]) -> None:
    """20 steps within 1e-6 in float64; in float32, where rounding grows, 3 within 1e-5."""
    exact = next(kind().parameters()).dtype == torch.float64
    steps, tolerance = (20, 1e-6) if exact else (3, 1e-5)
    assert losses_of(one, steps) == pytest.approx(losses_of(other, steps), abs=tolerance, rel=0)


def seeded_net(kind: type[nn.Module]) -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return kind()


LONG = {"epochs": 8, "log_every": 100}


@pytest.mark.parametrize("kind", [PlainNet, TinyNet])
def test_a_fused_optimiser_leaves_the_curve(
    make_trainer: Callable[..., GPUTrainer], kind: type[nn.Module]
) -> None:
    fused, plain = (make_trainer(model=seeded_net(kind), **LONG) for _ in range(2))
    assert all(group["fused"] for group in fused.optimizer.param_groups)
    for group in plain.optimizer.param_groups:
        group["fused"] = False
    same_curve(fused, plain, kind)


@pytest.mark.parametrize("kind", [PlainNet, TinyNet])
def test_the_memory_order_leaves_the_curve(
    make_trainer: Callable[..., GPUTrainer], kind: type[nn.Module]
) -> None:
    ordered, plain = (
        make_trainer(model=seeded_net(kind), channels_last=order, **LONG) for order in (True, False)
    )
    ways = (ordered, torch.channels_last), (plain, torch.contiguous_format)
    for trainer, order in ways:
        assert next(trainer.model.parameters()).is_contiguous(memory_format=order)
        trainer.model.register_forward_pre_hook(partial(check_order, order))
    same_curve(ordered, plain, kind)


def check_order(order: torch.memory_format, _: nn.Module, inputs: tuple[Tensor]) -> None:
    assert inputs[0].is_contiguous(memory_format=order)


@pytest.fixture
def half_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile as far as it goes without a C++ compiler: traced, differentiated and run."""
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
    yield
    torch.compiler.reset()


class ExactNet(TinyNet):
    """BatchNorm in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x.double())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        (PlainNet, "aot_eager"),
        (TinyNet, "aot_eager"),
        pytest.param(ExactNet, "inductor", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_network_leaves_the_curve(
    make_trainer: Callable[..., GPUTrainer],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[nn.Module],
    backend: str,
) -> None:
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    compiled, eager = (
        make_trainer(model=seeded_net(kind), compile=wish, **LONG) for wish in (True, False)
    )
    assert compiled.network is not compiled.model
    assert eager.network is eager.model
    same_curve(compiled, eager, kind)
    torch.compiler.reset()


@pytest.mark.usefixtures("half_compiled")
def test_checkpoints_do_not_tell_whether_a_run_is_compiled(
    make_trainer: Callable[..., GPUTrainer],
) -> None:
    config = {"lr_scheduler": None}
    compiled = make_trainer(config=config, compile=True, ema=0.9, epochs=1)
    compiled.start_train()
    state = compiled.state_dict()
    goes_on = make_trainer(state=state, config=config, ema=0.9, epochs=2)
    assert goes_on.network is goes_on.model
    assert goes_on.start_train()["loss"] > 0
    assert list(state["model"]) == list(TinyNet().state_dict())


def test_a_run_whose_network_cannot_be_compiled_trains_without(
    make_trainer: Callable[..., GPUTrainer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=fail))
    trainer = make_trainer(compile=True, epochs=1)
    assert trainer.network is trainer.model
    assert "no C++ compiler" in caplog.text
    assert trainer.start_train()["loss"] > 0


@pytest.mark.usefixtures("half_compiled")
def test_measuring_touches_nothing_of_the_run(
    make_trainer: Callable[..., GPUTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MEASURED_FROM_PASSES", 1)
    monkeypatch.setattr(tuning, "COMPILED_FROM_S", 0.0)
    chosen: dict[str, Any] = {}
    ends = []
    for run in ("measured", "told"):
        trainer = make_trainer(run=run, model=seeded_net(DropNet), epochs=1, **chosen)
        drawn = torch.get_rng_state()
        trainer.start_train()
        ends.append((drawn, trainer.model.state_dict()))
        settings = trainer.settings
        chosen = {"channels_last": settings.channels_last, "compile": settings.compile}
    path = make_trainer(run="measured").config.run_folder / tuning.STEP_FILE
    assert len(json.loads(path.read_text())["seconds"]) == 3
    (drawn, weights), (drawn_too, weights_too) = ends
    assert torch.equal(drawn, drawn_too)
    assert all(torch.equal(weights[name], weights_too[name]) for name in weights)


def trained(optimizer: Optimizer, model: nn.Module, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        sum(
            out.square().mean() for out in model(torch.linspace(0, 1, 384).view(1, 6, 8, 8))
        ).backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_the_optimisers_that_can_be_fused_are_and_step_alike(name: str) -> None:
    torch.manual_seed(0)
    models = [PlainNet()]
    models.append(copy.deepcopy(models[0]))
    for number, model in enumerate(models):
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
        if number:
            fuse(optimizer, CPU)
            optimizer_to(optimizer, CPU)
            assert optimizer.param_groups[0]["fused"]
        trained(optimizer, model)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("args", [{"foreach": False}, {"fused": False}, {"capturable": True}])
def test_a_form_that_someone_chose_for_the_optimiser_stays(args: dict[str, bool]) -> None:
    optimizer = torch.optim.AdamW(PlainNet().parameters(), **args)  # type: ignore[arg-type]
    before = copy.deepcopy(optimizer.param_groups[0]["fused"])
    fuse(optimizer, CPU)
    assert optimizer.param_groups[0]["fused"] == before


def test_an_optimiser_without_a_fused_form_is_left_alone() -> None:
    optimizer = torch.optim.RMSprop(PlainNet().parameters())
    fuse(optimizer, CPU)
    assert "fused" not in optimizer.param_groups[0]


@pytest.mark.parametrize(("name", "fused"), [("AdamW", True), ("SGD", True), ("Adagrad", None)])
def test_on_a_gpu_an_optimiser_is_fused_if_every_torch_has_that_there(
    name: str, fused: bool | None
) -> None:
    optimizer = getattr(torch.optim, name)(PlainNet().parameters(), lr=0.1)
    fuse(optimizer, torch.device("cuda"))
    assert optimizer.param_groups[0]["fused"] is fused


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("fused", [True, False])
def test_an_optimiser_goes_on_in_another_form_and_memory_order(
    order: torch.memory_format, fused: bool
) -> None:
    torch.manual_seed(0)
    first = PlainNet()
    optimizer = torch.optim.AdamW(first.parameters(), lr=0.1, fused=not fused)
    trained(optimizer, first)
    second = copy.deepcopy(first).to(memory_format=order)  # type: ignore[call-overload]
    other = torch.optim.AdamW(second.parameters(), lr=0.1)
    if fused:
        fuse(other, CPU)
    load_optimizer(other, copy.deepcopy(optimizer.state_dict()), CPU)
    assert bool(other.param_groups[0]["fused"]) == fused
    trained(optimizer, first)
    trained(other, second)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-12)


def test_the_rate_leaves_out_the_steps_in_which_it_warms_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    clock = Clock()
    rates = []
    for seconds in (60.0, 1.0, 1.0, 0.5, 0.5):
        now += seconds
        clock.add(4)
        rates.append(clock.rate())
    assert rates == pytest.approx([4 / 60, 8 / 61, 12 / 62, 8, 8])
