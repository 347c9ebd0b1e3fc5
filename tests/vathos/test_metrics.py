"""Every metric against its formula in float64 NumPy, over uneven batches and on odd inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.vathos import loss_formulae as formula
from vathos.model import loss as L
from vathos.model.loss import metrics

if TYPE_CHECKING:
    from torch import Tensor

MASK = ("iou", "dice", "soft_dice_half")
RELATIVE = ("abs_rel", "log10", "delta")
DEPTH = ("rmse", *RELATIVE, "ssim")
ALL = (*MASK, *DEPTH)
SHAPE = (5, 1, 9, 7)


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)


@pytest.fixture
def labels() -> dict[str, Tensor]:
    """By metric: masks from empty to full, or depth maps of which two have pixels of 0."""
    generator = torch.Generator().manual_seed(2)
    share = torch.tensor([0.0, 0.01, 0.3, 0.7, 1.0], dtype=torch.float64).view(5, 1, 1, 1)
    mask = (torch.rand(SHAPE, generator=generator, dtype=torch.float64) < share).double()
    depth = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    depth[1, :, :3] = 0
    depth[2, :, :, 1:] = 0
    return dict.fromkeys(MASK, mask) | dict.fromkeys(DEPTH, depth)


@pytest.mark.parametrize("name", ALL)
def test_metrics_of_each_sample_are_the_formula(
    name: str, logits: Tensor, labels: dict[str, Tensor]
) -> None:
    found = getattr(metrics, f"{name}_per_sample")(logits, labels[name])
    expected = getattr(formula, name)(logits.numpy(), labels[name].numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6 if name in MASK else 1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_delta_is_taken_at_each_power_of_its_limit(
    k: int, logits: Tensor, labels: dict[str, Tensor]
) -> None:
    expected = formula.delta(logits.numpy(), labels["delta"].numpy(), k)
    found = metrics.delta_per_sample(logits, labels["delta"], k)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert L.delta(logits, labels["delta"], k).item() == pytest.approx(expected.mean(), abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_mean_over_samples_does_not_depend_on_uneven_batches(
    name: str, logits: Tensor, labels: dict[str, Tensor]
) -> None:
    metric, truth = getattr(L, name), labels[name]
    uneven = (3 * metric(logits[:3], truth[:3]) + 2 * metric(logits[3:], truth[3:])) / 5
    whole = metric(logits, truth)
    assert whole.shape == ()
    assert whole.item() == pytest.approx(uneven.item(), abs=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-100.0, -50.0, 0.0, 50.0, 100.0])
def test_metrics_are_finite_on_constant_inputs(name: str, label: float, logit: float) -> None:
    metric = getattr(metrics, f"{name}_per_sample")
    found = metric(torch.full((2, 1, 8, 8), logit), torch.full((2, 1, 8, 8), label))
    assert found.shape == (2,)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_logits_do_not_coarsen_a_metric(
    name: str, kind: torch.dtype, logits: Tensor, labels: dict[str, Tensor]
) -> None:
    rounded = logits.to(kind)
    metric = getattr(metrics, f"{name}_per_sample")
    found = metric(rounded, labels[name].float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), metric(rounded.double(), labels[name]).double(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("name", "best"), [("abs_rel", 0), ("log10", 0), ("delta", 1)])
def test_a_sample_without_a_label_above_0_has_no_relative_error(name: str, best: int) -> None:
    logits, labels = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    labels[1, 0, 0, 0] = 0.05
    empty, one_pixel = getattr(metrics, f"{name}_per_sample")(logits, labels).tolist()
    assert empty == best
    # 0.5 against 0.05, and the other 63 pixels do not count.
    assert one_pixel == pytest.approx({"abs_rel": 9, "log10": 1, "delta": 0}[name], rel=1e-6)


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_metrics_do_not_see_the_prediction_where_the_label_is_0(
    name: str, logits: Tensor, labels: dict[str, Tensor]
) -> None:
    truth = labels[name]
    elsewhere = torch.where(truth == 0, -logits, logits)
    metric = getattr(L, name)
    assert not torch.equal(elsewhere, logits)
    assert metric(elsewhere, truth).item() == metric(logits, truth).item()


def test_the_logarithm_of_a_prediction_that_vanishes_in_float32_is_still_right() -> None:
    logits, labels = torch.full((1, 1, 2, 2), -230.2585), torch.ones(1, 1, 2, 2)
    assert torch.sigmoid(logits).max().item() == 0
    assert L.log10(logits, labels).item() == pytest.approx(100, rel=1e-6)


def test_a_perfect_depth_map_has_the_best_of_every_figure(labels: dict[str, Tensor]) -> None:
    depth = labels["rmse"].clamp(0.01, 0.99)
    perfect = torch.logit(depth)
    for name in ("rmse", "abs_rel", "log10"):
        assert getattr(L, name)(perfect, depth).item() == pytest.approx(0, abs=1e-12)
    assert L.delta(perfect, depth).item() == 1
    assert L.ssim(perfect, depth).item() == pytest.approx(1, abs=1e-12)


def test_dice_is_two_iou_over_one_plus_iou(logits: Tensor, labels: dict[str, Tensor]) -> None:
    iou = metrics.iou_per_sample(logits, labels["iou"])
    dice = metrics.dice_per_sample(logits, labels["iou"])
    torch.testing.assert_close(dice, 2 * iou / (1 + iou))


@pytest.mark.parametrize("name", ["iou", "dice"])
def test_an_empty_mask_scores_one_when_predicted_empty_and_zero_when_not(name: str) -> None:
    empty = torch.zeros(1, 1, 4, 4)
    assert getattr(L, name)(torch.full_like(empty, -3.0), empty).item() == 1
    assert getattr(L, name)(torch.ones_like(empty), empty).item() == 0


@pytest.mark.parametrize("name", DEPTH)
def test_labels_of_another_shape_are_refused_and_not_repeated(
    name: str, labels: dict[str, Tensor]
) -> None:
    depth = labels[name]
    with pytest.raises(ValueError, match="give both the same shape"):
        getattr(L, name)(depth, depth[:1])
