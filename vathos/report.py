"""A run's result as a table, never without the baselines beside it.

The one rule: network and baselines are scored on the same test samples, by the same definitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vathos.baselines import FIXED_THRESHOLD, measure_baselines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vathos.runner import Runner

__all__ = ["result_table"]


def result_table(runner: Runner, metrics: Mapping[str, float]) -> str:
    """A Markdown table: IoU and RMSE of the network and of the baselines on unseen backgrounds.

    metrics: as `Runner.start_train` returns them.
    """
    samples = runner.config.training.test_samples
    base = measure_baselines(
        runner.dataset, runner.train_rows, runner.test_rows, samples, runner.config.seed
    )
    rows = [
        (
            f"{runner.config.model}, trained",
            f"{metrics['miou']:.3f}",
            f"{metrics['soft_dice_half']:.3f}",
            f"{metrics['mrmse']:.4f}",
        ),
        (f"\\|fg_bg − bg\\| > {base.threshold} (best)", f"{base.difference_iou:.3f}", "", ""),
        (
            f"\\|fg_bg − bg\\| > {FIXED_THRESHOLD}",
            f"{base.difference_iou_at_12:.3f}",
            "",
            "",
        ),
        (f"depth {base.depth:.3f} everywhere", "", "", f"{base.depth_rmse:.4f}"),
    ]
    header = ("on unseen backgrounds", "mask IoU", "the original's mIOU", "depth RMSE")
    lines = [header, ("---", "---:", "---:", "---:"), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{base.samples} test samples of {len(runner.split.test)} backgrounds."
