"""Training on the demo's archives: the second half of `depthgen demo`.

The one rule: it runs a configuration file that stays in the workspace, so that the next command can
start from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from vathos.data_loader.figures import prediction_grid
from vathos.data_loader.split import thin
from vathos.report import result_table
from vathos.runner import Runner
from vathos.trainer.checkpoint import MODEL_CHECKPOINT, write_atomic
from vathos.utils.config import read_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vathos.trainer import Progress

__all__ = ["DemoResult", "train"]

_CONFIG: dict[str, Any] = {
    "name": "demo",
    "device": "auto",
    "model": "ResUNet",
    "dataset": {"root": ".", "loader_args": {"batch_size": 32}},
    "seg_loss": "BCEDiceLoss",
    "depth_loss": "RMSELoss",
    "optimizer": {"type": "AdamW", "args": {"lr": 0.001}},
    "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.004}},
    "training": {"steps": 200, "test_samples": 512, "checkpoint_every": 50},
}
_GRID_ROWS = 8


@dataclass(frozen=True)
class DemoResult:
    """The result table (Markdown), and where the picture grid, the summary, the configuration and
    the network lie."""

    table: str
    grid: Path
    summary: Path
    config: Path
    checkpoint: Path


def train(folder: Path, on_progress: Callable[[Progress], None] | None = None) -> DemoResult:
    """Train on the archives in `folder`, continuing a run that was stopped there."""
    config = folder / "config.yaml"
    text = "# The demo's run: depthgen train config.yaml\n" + yaml.safe_dump(
        _CONFIG, sort_keys=False
    )
    write_atomic(config, lambda file: file.write(text.encode()))
    runner = Runner(read_config(config), on_progress)
    metrics = runner.start_train()
    table = result_table(runner, metrics)
    grid, summary = folder / "grid.png", folder / "summary.md"
    assert runner.trainer is not None
    rows = thin(runner.test_rows, _GRID_ROWS, runner.config.seed)
    figure = prediction_grid(runner.trainer.predict(rows.tolist()), _GRID_ROWS)
    write_atomic(grid, lambda file: figure.savefig(file, format="png", dpi=120))
    write_atomic(summary, lambda file: file.write(_summary(table).encode()))
    return DemoResult(table, grid, summary, config, runner.run_folder / MODEL_CHECKPOINT)


def _summary(table: str) -> str:
    steps = _CONFIG["training"]["steps"]
    return (
        "# What the demo trained\n\n"
        f"{_CONFIG['model']}, {steps} steps of {_CONFIG['dataset']['loader_args']['batch_size']} "
        "samples, tested on backgrounds that it never saw.\n\n"
        f"{table}\n\n"
        "The difference threshold is strong here, for both pictures differ in nothing but the "
        "cut-out; it knows no depth, and two photographs of one room would defeat it.\n\n"
        "![bg, composite, mask, predicted mask, depth, predicted depth](grid.png)\n"
    )
