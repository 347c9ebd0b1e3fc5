"""Losses and metrics against the same formulae in float64 NumPy, and the original's slips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vathos.model import loss as L

EPS = 1e-6


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(5, 1, 9, 7, generator=generator, dtype=torch.float64)


@pytest.fixture
def mask() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    share = torch.tensor([0.0, 0.01, 0.3, 0.7, 1.0], dtype=torch.float64).view(5, 1, 1, 1)
    noise = torch.rand(5, 1, 9, 7, generator=generator, dtype=torch.float64)
    return (noise < share).double()


def numpy_dice_losses(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    losses = []
    for z, t in zip(logits, mask, strict=True):
        p = sigmoid(z)
        losses.append(1 - 2 * (p * t).sum() / (p.sum() + t.sum() + EPS))
    return np.array(losses)


def numpy_bce(logits: np.ndarray, mask: np.ndarray) -> float:
    p = sigmoid(logits)
    return float(-(mask * np.log(p) + (1 - mask) * np.log1p(-p)).mean())


def seed_iou(outputs: Tensor, labels: Tensor) -> Tensor:
    """The original's metric: it divides by the sum of both, not by their union."""
    p = torch.sigmoid(outputs).flatten(1)
    t = labels.flatten(1)
    return ((p * t).sum(1) / (p.sum(1) + t.sum(1) + EPS)).mean()


def test_dice_is_taken_per_sample_and_then_averaged(logits: Tensor, mask: Tensor) -> None:
    expected = numpy_dice_losses(logits.numpy(), mask.numpy()).mean()
    assert L.DiceLoss()(logits, mask).item() == pytest.approx(expected, abs=1e-12)


def test_bce_dice_is_bce_plus_twice_dice(logits: Tensor, mask: Tensor) -> None:
    z, t = logits.numpy(), mask.numpy()
    expected = numpy_bce(z, t) + 2 * numpy_dice_losses(z, t).mean()
    assert L.BCEDiceLoss()(logits, mask).item() == pytest.approx(expected, abs=1e-12)


def test_rmse_loss_is_the_root_over_the_batch(logits: Tensor) -> None:
    depth = torch.rand(logits.shape, dtype=torch.float64)
    error = sigmoid(logits.numpy()) - depth.numpy()
    expected = np.sqrt((error**2).mean() + 1e-4)
    assert L.RMSELoss(eps=1e-4)(logits, depth).item() == pytest.approx(expected, abs=1e-12)


def test_bce_with_logits_is_importable_and_is_binary_cross_entropy(
    logits: Tensor, mask: Tensor
) -> None:
    expected = numpy_bce(logits.numpy(), mask.numpy())
    assert L.BCEWithLogitsLoss()(logits, mask).item() == pytest.approx(expected, abs=1e-12)


def test_an_empty_mask_predicted_empty_costs_nothing_and_scores_one() -> None:
    empty = torch.zeros(2, 1, 4, 4)
    logits = torch.full_like(empty, -3.0)
    assert L.DiceLoss()(logits, empty).item() == 0
    assert L.iou(logits, empty).item() == 1


def test_an_empty_mask_predicted_full_costs_one_and_scores_zero() -> None:
    empty = torch.zeros(2, 1, 4, 4)
    assert L.DiceLoss()(torch.ones_like(empty), empty).item() == 1
    assert L.iou(torch.ones_like(empty), empty).item() == 0


def test_iou_is_intersection_over_union_of_the_thresholded_mask(
    logits: Tensor, mask: Tensor
) -> None:
    expected = []
    for z, t in zip(logits.numpy(), mask.numpy(), strict=True):
        predicted, truth = sigmoid(z) > 0.5, t > 0.5
        union = (predicted | truth).sum()
        expected.append((predicted & truth).sum() / union if union else 1.0)
    assert L.iou(logits, mask).item() == pytest.approx(np.mean(expected), abs=1e-7)


def test_a_perfect_mask_scores_one_where_the_original_stops_at_a_half() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 1
    perfect = 40 * (mask - 0.5)
    assert L.iou(perfect, mask).item() == 1
    assert seed_iou(perfect, mask).item() == pytest.approx(0.5, abs=1e-6)


def test_soft_dice_half_is_the_figure_of_the_original(logits: Tensor, mask: Tensor) -> None:
    assert torch.equal(L.soft_dice_half(logits, mask), seed_iou(logits, mask))


def test_rmse_is_taken_per_sample_and_then_averaged(logits: Tensor) -> None:
    depth = torch.rand(logits.shape, dtype=torch.float64)
    error = (sigmoid(logits.numpy()) - depth.numpy()).reshape(5, -1)
    expected = np.sqrt((error**2).mean(1)).mean()
    assert L.rmse(logits, depth).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["iou", "rmse", "soft_dice_half"])
def test_metrics_do_not_depend_on_how_samples_are_batched(
    name: str, logits: Tensor, mask: Tensor
) -> None:
    metric = getattr(L, name)
    uneven = (metric(logits[:3], mask[:3]) * 3 + metric(logits[3:], mask[3:]) * 2) / 5
    assert metric(logits, mask).item() == pytest.approx(uneven.item(), abs=1e-6)


@pytest.mark.parametrize("name", ["DiceLoss", "BCEDiceLoss", "RMSELoss", "BCEWithLogitsLoss"])
@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-100.0, 0.0, 100.0])
def test_losses_and_gradients_stay_finite_on_constant_inputs(
    name: str, label: float, logit: float
) -> None:
    logits = torch.full((2, 1, 4, 4), logit, requires_grad=True)
    loss = getattr(L, name)()(logits, torch.full((2, 1, 4, 4), label))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["DiceLoss", "BCEDiceLoss", "RMSELoss"])
def test_gradients_agree_with_finite_differences(name: str, logits: Tensor, mask: Tensor) -> None:
    criterion = getattr(L, name)()
    assert torch.autograd.gradcheck(lambda z: criterion(z, mask), logits.requires_grad_())
