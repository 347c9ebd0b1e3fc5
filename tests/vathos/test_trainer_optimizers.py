"""Any optimiser and scheduler of torch by name, and parameters in groups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from tests.vathos.trainings import EPOCHS, TinyNet
from vathos.errors import ConfigError
from vathos.trainer.schedule import Schedule
from vathos.utils import setup_param_groups
from vathos.utils.config import parse_config, read_config
from vathos.utils.parameters import build_optimizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch.optim import Optimizer

OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and name not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")
)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 1},
    "MultiStepLR": {"milestones": [1, 2]},
    "ExponentialLR": {"gamma": 0.5},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.01},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "OneCycleLR": {"max_lr": 0.01},
    "SequentialLR": {
        "schedulers": [
            {"type": "LinearLR", "args": {"total_iters": 1}},
            {"type": "ExponentialLR", "args": {"gamma": 0.5}},
        ],
        "milestones": [1],
    },
    "ChainedScheduler": {
        "schedulers": [{"type": "ConstantLR"}, {"type": "ExponentialLR", "args": {"gamma": 0.5}}]
    },
}
SCHEDULERS = [
    name
    for name in lr_scheduler.__all__
    if name not in ("LRScheduler", "LambdaLR", "MultiplicativeLR")
]


def one_step(optimizer: Optimizer, model: nn.Module) -> None:
    sum(output.square().mean() for output in model(torch.randn(2, 6, 8, 8))).backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimiser_of_torch_steps(name: str) -> None:
    model = TinyNet()
    before = model.head.weight.detach().clone()
    optimizer = build_optimizer(model, parse_config({"optimizer": {"type": name}}))
    one_step(optimizer, model)
    assert type(optimizer).__name__ == name
    assert not torch.equal(model.head.weight, before)
    assert model.head.weight.isfinite().all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LBFGS", "again and again in one step; choose another"),
        ("SparseAdam", "needs sparse gradients"),
        ("Muon", "only supports 2D parameters"),
        ("Adamw", "did you mean AdamW"),
    ],
)
def test_an_optimiser_that_cannot_train_here_is_a_sentence(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        build_optimizer(TinyNet(), parse_config({"optimizer": {"type": name}}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_of_torch_runs_to_the_end(name: str, interval: str) -> None:
    section = {"type": name, "args": ARGUMENTS.get(name, {}), "interval": interval}
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.01)
    config = parse_config({"lr_scheduler": section})
    if (name, interval) == ("ReduceLROnPlateau", "step"):
        with pytest.raises(ConfigError, match="once an epoch; leave interval out"):
            Schedule(config, optimizer, EPOCHS, 6)
        return
    schedule = Schedule(config, optimizer, EPOCHS, 6)
    for epoch in range(EPOCHS):
        for step in range(2):
            optimizer.step()
            schedule.after_step(2 * epoch + step + 1)
        schedule.after_epoch(1.0)
    assert math.isfinite(schedule.lr)


def test_warm_up_and_decay_follow_each_other_as_in_torch() -> None:
    def torchs_own(optimizer: Optimizer) -> Any:
        parts = [
            lr_scheduler.LinearLR(optimizer, total_iters=1),
            lr_scheduler.ExponentialLR(optimizer, gamma=0.5),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[1])

    rates: list[list[float]] = []
    for build in (torchs_own, None):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.01)
        section = {"type": "SequentialLR", "args": ARGUMENTS["SequentialLR"]}
        config = parse_config({"lr_scheduler": section})
        scheduler = build(optimizer) if build else Schedule(config, optimizer, 4, 4).scheduler
        rates.append([])
        for _ in range(4):
            optimizer.step()
            scheduler.step()
            rates[-1].append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"type": "LambdaLR"}, "LambdaLR needs a function, which no file can hold"),
        ({"type": "SequentialLR", "args": {"schedulers": ["StepLR"]}}, "schedulers holds 'StepLR'"),
        (
            {"type": "SequentialLR", "args": {"schedulers": 3}},
            "schedulers is 3, but must be a list",
        ),
        (
            {"type": "ChainedScheduler", "args": {"schedulers": [{"type": "StepLr"}]}},
            "did you mean StepLR",
        ),
    ],
)
def test_a_scheduler_that_no_file_can_describe_is_a_sentence(
    section: dict[str, Any], sentence: str
) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.01)
    with pytest.raises(ConfigError, match=sentence):
        Schedule(parse_config({"lr_scheduler": section}), optimizer, 3, 3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("StepLR", {"step_size": 0}), ("ExponentialLR", {"gamma": "0.9"})],
)
def test_arguments_that_fail_at_the_first_step_are_refused_before_training(
    name: str, arguments: dict[str, Any]
) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=0.01)
    section = {"type": name, "args": arguments}
    with pytest.raises(ConfigError, match=f"lr_scheduler: {name} cannot step with"):
        Schedule(parse_config({"lr_scheduler": section}), optimizer, 3, 3)


def test_groups_are_by_regular_expression_and_the_first_match_counts() -> None:
    model = TinyNet()
    section = {
        "type": "AdamW",
        "args": {"lr": 0.01, "weight_decay": 0.1},
        "groups": [
            {"match": r"^head\.", "args": {"lr": 0.001}},
            {"match": "head|1", "args": {"weight_decay": 0.3}},
        ],
    }
    optimizer = build_optimizer(model, parse_config({"optimizer": section}))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "body.0.weight": (0.01, 0.1),
        "body.0.bias": (0.01, 0.0),
        "body.1.weight": (0.01, 0.3),  # the group's own decay, though it is one-dimensional
        "body.1.bias": (0.01, 0.3),
        "head.weight": (0.001, 0.1),
        "head.bias": (0.001, 0.0),
    }
    assert optimizer.param_groups[0]["lr"] == 0.01  # LR/lr_value is that of the rest


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ("{match: haed}", r":5: optimizer: groups: 'haed' matches no .* body\.0\.weight and head"),
        ("{match: '('}", r":5: optimizer: groups: '\(' is not a regular expression"),
        ("{match: head, args: {lrr: 1}}", r":5: optimizer: AdamW takes no argument lrr; .* lr\?"),
    ],
)
def test_a_group_that_would_be_ignored_is_named_with_its_line(
    tmp_path: Path, group: str, sentence: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"seed: 1\noptimizer:\n  type: AdamW\n  groups:\n  - {group}\n")
    with pytest.raises(ConfigError, match=sentence):
        build_optimizer(TinyNet(), read_config(path))


def test_a_cycle_keeps_the_ratio_of_the_groups_rates() -> None:
    section = {"args": {"lr": 0.01}, "groups": [{"match": "head", "args": {"lr": 0.001}}]}
    config = parse_config({
        "optimizer": {"type": "SGD", **section},
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.5}},
    })  # fmt: skip
    model = TinyNet()
    optimizer = build_optimizer(model, config)
    schedule = Schedule(config, optimizer, 1, 10)
    for step in range(1, 11):
        one_step(optimizer, model)
        schedule.after_step(step)
        rates = {group["lr"] for group in optimizer.param_groups}
        assert max(rates) == pytest.approx(10 * min(rates))


def test_groups_without_a_rest_leave_nothing_out() -> None:
    groups = setup_param_groups(TinyNet(), {"optimizer": {"groups": [{"match": "."}]}})
    assert sum(len(group["params"]) for group in groups) == 6
