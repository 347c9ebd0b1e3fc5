"""Whether a faster step learns the same: losses step by step, and the ends of runs by seeds.

    python -m benchmarks.curves [--device cuda] [--workspace DIR] [--only PART] [--compile]

Pictures are rendered rooms with rendered things in them, made first unless a workspace is named;
the network is ResUNet. Parts:

- steps: on pictures of 96 pixels, the greatest difference of the training loss between a change
  (the memory order, a fused optimiser and, with --compile, compiling) and the plain step: in
  float64 over 20 steps, where 1e-6 is allowed, and in float32 over the first 3, where 1e-5 is: of a
  run whose learning rate warms up as in configs/two_photographs.yaml, and of one that begins with
  0.001. Beside it how far each is in float32 from the plain step in float64, for no change can be
  nearer to another than both are to what is computed. Losses are recorded in float32, so that
  0 is less than 3e-7.
- seeds: on pictures of `--side` pixels, the test figures at the end of `--seeds` runs of `--steps`
  steps: plain, with the memory order and the optimiser of the trainer's defaults, and those in
  bf16. A change is as good where the means differ by less than the runs of one kind do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Subset

from benchmarks.machine import machine
from benchmarks.train import make
from vathos.data_loader import DenseDepth
from vathos.model import ResUNet
from vathos.model.loss import BCEDiceLoss, RMSELoss
from vathos.runner import Runner
from vathos.trainer import GPUTrainer

if TYPE_CHECKING:
    from torch import Tensor

FIGURES = ("loss", "miou", "mrmse")
PLAIN = {"channels_last": False, "compile": False}
OPTIMIZER: dict[str, Any] = {"type": "AdamW", "args": {"lr": 0.001}}
CURVE_SIDE, EXACT_STEPS, ROUNDED_STEPS = 96, 20, 3
STARTS = {"warming up": True, "from 0.001": False}


@dataclass(frozen=True)
class Way:
    """How a step is computed. `fused` None: as the trainer chooses, which is fused."""

    training: dict[str, Any] = field(default_factory=lambda: PLAIN)
    fused: bool | None = False


# name: (precision, way)
KINDS = {
    "float32, plain": ("float32", Way()),
    "float32": ("float32", Way({}, None)),
    "bf16": ("bf16", Way({}, None)),
}


class Float64(nn.Module):
    """A network that computes in float64 whatever it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, pictures: Tensor) -> Any:
        return self.network(pictures.double())


def section(given: argparse.Namespace, side: int) -> dict[str, Any]:
    loading = {"batch_size": given.batch}
    root = str(given.workspace)
    return {"root": root, "size": side, "cache": "ram", "loader_args": loading}


def curve(given: argparse.Namespace, way: Way, exact: bool, warm_up: bool) -> list[float]:
    """The losses of the first steps of a run, the same weights and batches whatever the way."""
    torch.manual_seed(0)
    model = Float64(ResUNet()) if exact else ResUNet()
    optimizer = torch.optim.AdamW(model.parameters(), **OPTIMIZER["args"], fused=way.fused)
    config = run_config(given, "float32", 0, way, CURVE_SIDE)
    config |= {"name": f"curve{time.monotonic_ns()}"}
    if not warm_up:
        config["lr_scheduler"] = None
    dataset = DenseDepth(given.workspace, given.workspace, size=CURVE_SIDE)
    subset = Subset(dataset, list(range(len(dataset))))
    losses = BCEDiceLoss(), RMSELoss()
    trainer = GPUTrainer(model, losses, optimizer, config, subset, subset)
    trainer.model.train()
    found: list[float] = []
    for batch in islice(trainer.train_batches.epoch(0), EXACT_STEPS if exact else ROUNDED_STEPS):
        trainer._train_step(0, [batch])
        found.append(trainer._meter.last()["loss"])
    return found


def apart(one: list[float], other: list[float]) -> float:
    """The greatest difference over the steps that both have."""
    return max(abs(a - b) for a, b in zip(one, other, strict=False))


def steps(given: argparse.Namespace) -> None:
    changes = {
        "channels-last": Way({**PLAIN, "channels_last": True}),
        "fused": Way(fused=None),
    }
    if given.compile:
        changes["compiled"] = Way({**PLAIN, "compile": True})
    columns = (
        f"{'float64, 20 steps':>17} | {'float32, 3 steps':>16} | float32 from float64, 3 steps"
    )
    for start, warm_up in STARTS.items():
        exact, rounded = (curve(given, Way(), each, warm_up) for each in (True, False))
        print(f"\n{CURVE_SIDE} px, the learning rate {start}\n{'change':14} | {columns}")
        print(f"{'none':14} | {'':17} | {'':16} | {apart(rounded, exact):29.1e}", flush=True)
        for name, way in changes.items():
            precise, changed = (curve(given, way, each, warm_up) for each in (True, False))
            print(f"{name:14} | {apart(precise, exact):17.1e}", end=" | ")
            print(f"{apart(changed, rounded):16.1e} | {apart(changed, exact):29.1e}", flush=True)


def seeds(given: argparse.Namespace) -> None:
    print(
        f"\n{given.side} px, {given.steps} steps, mean ± standard deviation of {given.seeds} seeds"
    )
    print(f"{'step':14} | " + " | ".join(f"{name:>17}" for name in FIGURES) + " | seconds a run")
    compiled = {"bf16, compiled": ("bf16", Way({"compile": True}, None))}
    for kind, (precision, way) in (KINDS | (compiled if given.compile else {})).items():
        ends: list[dict[str, float]] = []
        began = time.perf_counter()
        for seed in range(given.seeds):
            config = run_config(given, precision, seed, way, given.side) | {
                "name": f"{kind} {seed}"
            }
            ends.append(Runner(config).start_train())
        took = (time.perf_counter() - began) / given.seeds
        cells = []
        for name in FIGURES:
            values = [end[name] for end in ends]
            cells.append(f"{statistics.mean(values):8.4f} ± {statistics.stdev(values):.4f}")
        print(f"{kind:14} | " + " | ".join(f"{cell:>17}" for cell in cells), end=" | ")
        print(f"{took:.1f}", flush=True)


def run_config(
    given: argparse.Namespace, precision: str, seed: int, way: Way, side: int
) -> dict[str, Any]:
    chosen = {} if way.fused is None else {"fused": way.fused}
    return {
        "chkpt_dir": str(given.scratch),
        "device": "GPU" if given.device == "cuda" else "CPU",
        "precision": precision,
        "seed": seed,
        "dataset": section(given, side),
        "optimizer": {**OPTIMIZER, "args": {**OPTIMIZER["args"], **chosen}},
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.003}},
        "training": {"steps": given.steps, "test_samples": 128, **way.training},
    }


PARTS = {"steps": steps, "seeds": seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    print(machine("torch"))
    with tempfile.TemporaryDirectory() as folder:
        given.scratch = Path(folder, "runs")
        if given.workspace is None:
            given.workspace = Path(folder, "data")
            make(given.workspace, CURVE_SIDE, 16)
        print(f"ResUNet, {given.batch} at a time")
        for name in given.only or PARTS:
            PARTS[name](given)


if __name__ == "__main__":
    main()
