"""The baselines against brute force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from vathos.baselines import FIXED_THRESHOLD, Baselines, difference, fit_baselines, fit_threshold
from vathos.data_loader import DenseDepth
from vathos.evaluate import Scores, zones

if TYPE_CHECKING:
    from collections.abc import Callable

Items = list[dict[str, torch.Tensor]]


@pytest.fixture
def items(tiny_set: Callable[..., Any]) -> Items:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    return [dataset[row] for row in range(len(dataset))]


def batched(items: Items, size: int) -> Items:
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    return [
        {key: torch.stack([item[key] for item in chunk]) for key in chunk[0]} for chunk in chunks
    ]


def iou(predicted: torch.Tensor, truth: torch.Tensor) -> float:
    union = (predicted | truth).sum().item()
    return (predicted & truth).sum().item() / union if union else 1.0


def changed(item: dict[str, torch.Tensor], threshold: int) -> torch.Tensor:
    return (item["fg_bg"] - item["bg"]).abs().amax(0) * 255 > threshold + 0.01


def test_the_threshold_is_the_best_of_all(items: Items) -> None:
    found = fit_baselines(batched(items, 5))
    each = [
        np.mean([iou(changed(item, t), item["fg_bg_mask"][0] > 0) for item in items])
        for t in range(256)
    ]
    assert found.threshold == int(np.argmax(each)) == fit_threshold(batched(items, 7))


def test_means_are_those_of_the_training_samples(items: Items) -> None:
    found = fit_baselines(batched(items, 5))
    masks = torch.stack([item["fg_bg_mask"][0] for item in items]).double()
    depths = torch.stack([item["depth_fg_bg"][0] for item in items]).double()
    assert np.allclose(found.mean_mask, masks.mean(0))
    assert np.allclose(found.mean_depth, depths.mean(0))
    assert found.depth == pytest.approx(depths.mean().item())


def test_no_level_of_the_mean_mask_is_better_than_the_one_taken(items: Items) -> None:
    found = fit_baselines(batched(items, 5))
    mean = torch.from_numpy(found.mean_mask)

    def score(above: float) -> float:
        return float(np.mean([iou(mean > above, item["fg_bg_mask"][0] > 0) for item in items]))

    levels = [-0.1, *(float(each) for each in mean.unique())]
    assert score(found.mask_threshold) == pytest.approx(max(map(score, levels)))


def test_guesses_are_scored_as_what_they_guess(items: Items) -> None:
    fitted = fit_baselines(batched(items[:10], 5))
    found = {}
    for name, guess in (fitted.seeing() | fitted.blind()).items():
        scores = Scores()
        for batch in batched(items[10:], 4):  # 6 samples: an uneven last batch
            mask = batch["fg_bg_mask"]
            scores.add(guess(batch), mask, batch["depth_fg_bg"], zones(mask))
        found[name] = scores.means()
    tested = items[10:]
    for threshold, suffix in ((fitted.threshold, " (best)"), (FIXED_THRESHOLD, "")):
        expected = [iou(changed(item, threshold), item["fg_bg_mask"][0] > 0) for item in tested]
        means = found[f"difference > {threshold}{suffix}"]
        assert means["iou"] == pytest.approx(np.mean(expected))
        assert means["dice"] == pytest.approx(np.mean([2 * x / (1 + x) for x in expected]))
        assert means["soft_dice_half"] == pytest.approx(means["dice"] / 2, abs=1e-5)
    depths = torch.stack([item["depth_fg_bg"][0] for item in tested]).double()
    for name, depth in (
        ("mean depth of each pixel", torch.from_numpy(fitted.mean_depth)),
        (f"depth {fitted.depth:.3f} everywhere", torch.tensor(fitted.depth)),
    ):
        rmse = (depths - depth).square().mean((1, 2)).sqrt().mean().item()
        assert found[name]["rmse"] == pytest.approx(rmse, abs=1e-6)
        assert set(found[name]) == {"rmse", "ssim"}


def test_baselines_of_a_set_without_objects_and_without_depth_are_finite() -> None:
    zero = torch.zeros(2, 1, 16, 16)
    batch = {"bg": torch.zeros(2, 3, 16, 16), "fg_bg": torch.zeros(2, 3, 16, 16)}
    batch |= {"fg_bg_mask": zero, "depth_fg_bg": zero}
    found: Baselines = fit_baselines([batch])
    assert found.depth == 0
    scores = Scores()
    for guess in (found.seeing() | found.blind()).values():
        scores.add(guess(batch), zero, zero, zones(zero))
    assert scores.means()["iou"] == 1
    assert scores.means()["rmse"] == pytest.approx(0, abs=1e-5)


def test_difference_is_absolute_and_the_largest_over_channels() -> None:
    bg = torch.tensor([10, 200, 0]).reshape(1, 3, 1, 1) / 255
    fg_bg = torch.tensor([5, 100, 30]).reshape(1, 3, 1, 1) / 255
    assert difference(bg, fg_bg).tolist() == [[[100]]]
