"""The baselines against brute force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from vathos.baselines import difference, measure_baselines
from vathos.data_loader import DenseDepth

if TYPE_CHECKING:
    from collections.abc import Callable


def test_baselines_equal_brute_force_over_thresholds(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    train, test = np.arange(10), np.arange(10, 16)
    result = measure_baselines(dataset, train, test)

    def ious(rows: np.ndarray, threshold: int) -> list[float]:
        scores = []
        for row in rows:
            item = dataset[int(row)]
            gap = (item["fg_bg"] - item["bg"]).abs().amax(0) * 255
            predicted, truth = gap > threshold + 0.01, item["fg_bg_mask"][0] > 0
            union = (predicted | truth).sum().item()
            scores.append((predicted & truth).sum().item() / union if union else 1.0)
        return scores

    on_train = [np.mean(ious(train, t)) for t in range(256)]
    assert result.threshold == int(np.argmax(on_train))
    assert result.difference_iou == pytest.approx(np.mean(ious(test, result.threshold)))
    assert result.difference_iou_at_12 == pytest.approx(np.mean(ious(test, 12)))
    labels = torch.stack([dataset[i]["depth_fg_bg"] for i in range(16)]).double()
    assert result.depth == pytest.approx(labels[:10].mean().item(), abs=1e-7)
    rmse = (labels[10:] - result.depth).square().mean((1, 2, 3)).sqrt().mean()
    assert result.depth_rmse == pytest.approx(rmse.item(), abs=1e-7)
    assert result.samples == 6


def test_difference_is_absolute_and_the_largest_over_channels() -> None:
    bg = np.array([[[10]], [[200]], [[0]]], np.uint8)
    fg_bg = np.array([[[5]], [[100]], [[30]]], np.uint8)
    assert difference(bg, fg_bg).tolist() == [[100]]
