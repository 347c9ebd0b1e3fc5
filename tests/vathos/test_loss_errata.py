"""The slips of the original, each as it stood, and shown to differ where ours is right."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.vathos import loss_formulae as formula
from vathos.model import loss as L
from vathos.model.loss.berhu_loss import berhu
from vathos.model.loss.ssim_loss import ssim_loss

EPS = 1e-6


def original_iou(outputs: Tensor, labels: Tensor) -> Tensor:
    """It divides by the sum of both masks, not by their union."""
    p, t = torch.sigmoid(outputs).flatten(1), labels.flatten(1)
    return ((p * t).sum(1) / (p.sum(1) + t.sum(1) + EPS)).mean()


def original_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Nothing is said of an empty mask."""
    p, t = torch.sigmoid(logits).flatten(1), labels.flatten(1)
    return (1 - 2 * (p * t).sum(1) / (p.sum(1) + t.sum(1) + EPS)).mean()


def original_berhu_branch(size: Tensor, c: Tensor) -> Tensor:
    """`/ 2 * c` multiplies by the border where it should divide."""
    return torch.where(size <= c, size, (size**2 + c**2) / 2 * c)


def original_berhu(logits: Tensor, labels: Tensor, threshold: float = 0.2) -> Tensor:
    """The border comes from the raw logits, the error from the sigmoid."""
    c = threshold * (logits - labels).abs().max()
    return original_berhu_branch((torch.sigmoid(logits) - labels).abs(), c).mean()


def original_rmse_with_ssim(logits: Tensor, labels: Tensor) -> Tensor:
    """Two bare roots."""
    error = torch.sigmoid(logits) - labels
    return torch.sqrt(ssim_loss(logits, labels)) + 4 * torch.sqrt(error.square().mean())


@pytest.fixture
def mask() -> Tensor:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 1
    return mask


def test_a_perfect_mask_scores_one_where_the_original_stops_at_a_half(mask: Tensor) -> None:
    perfect = 40 * (mask - 0.5)
    assert L.iou(perfect, mask).item() == 1
    assert original_iou(perfect, mask).item() == pytest.approx(0.5, abs=1e-6)


def test_the_figure_of_the_original_is_kept_under_a_name_that_says_what_it_is(
    mask: Tensor,
) -> None:
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    ours, theirs = L.soft_dice_half(logits, mask), original_iou(logits, mask)
    torch.testing.assert_close(ours, theirs)


def test_an_empty_mask_predicted_empty_costs_nothing_where_the_original_charges_all() -> None:
    empty = torch.zeros(2, 1, 4, 4)
    logits = torch.full_like(empty, -3.0)
    assert L.DiceLoss()(logits, empty).item() == 0
    assert L.TverskyLoss(0.6, 0.5)(logits, empty).item() == 0
    assert L.iou(logits, empty).item() == 1
    assert original_dice_loss(logits, empty).item() == 1
    assert original_iou(logits, empty).item() == 0


@pytest.mark.parametrize("criterion", [L.DiceLoss(), L.TverskyLoss(0.6, 0.5)])
def test_an_empty_mask_predicted_full_costs_one(criterion: torch.nn.Module) -> None:
    empty = torch.zeros(2, 1, 4, 4)
    assert criterion(torch.ones_like(empty), empty).item() == 1


def test_eps_stands_in_the_denominator_only() -> None:
    logits, tiny = torch.full((1, 1, 2, 2), -20.0), torch.zeros(1, 1, 2, 2)
    tiny[..., 0, 0] = 1e-6
    # An eps in the numerator as well would halve this loss.
    assert L.DiceLoss()(logits, tiny).item() == pytest.approx(1, abs=1e-6)
    assert L.TverskyLoss(0.6, 0.5)(logits, tiny).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("criterion", [L.DiceLoss(), L.TverskyLoss(0.5, 0.5)])
def test_a_large_object_does_not_hide_a_small_one(mask: Tensor, criterion: torch.nn.Module) -> None:
    full = torch.ones_like(mask)
    # The large object is found, the small one is missed altogether.
    logits = torch.cat((40 * (full - 0.5), torch.full_like(mask, -20.0)))
    both = torch.cat((full, mask))
    assert criterion(logits, both).item() == pytest.approx(0.5, abs=1e-6)
    of_one_batch = criterion(logits.reshape(1, -1), both.reshape(1, -1))
    assert of_one_batch.item() < 0.1


def test_the_branches_of_berhu_meet_where_those_of_the_original_jump() -> None:
    c = torch.tensor(0.2, dtype=torch.float64)
    below, above = torch.tensor([0.2, 0.2 + 1e-9], dtype=torch.float64)
    assert (berhu(above, c) - berhu(below, c)).item() == pytest.approx(0, abs=1e-8)
    jump = original_berhu_branch(above, c) - original_berhu_branch(below, c)
    assert jump.item() == pytest.approx(0.2**3 - 0.2, abs=1e-8)


def test_the_border_of_berhu_comes_from_the_sigmoid_and_not_from_the_logits() -> None:
    labels = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64).view(1, 1, 2, 2)
    logits = torch.logit(labels + torch.tensor([0.0, 0.05, 0.1, 0.4]).view(1, 1, 2, 2))
    # c = 0.2 x 0.4 = 0.08; 0.05 is below it, 0.1 and 0.4 above.
    by_hand = np.mean([0, 0.05, (0.1**2 + 0.08**2) / 0.16, (0.4**2 + 0.08**2) / 0.16])
    assert L.BerHuLoss()(logits, labels).item() == pytest.approx(by_hand, abs=1e-7)
    # Raw logits put the border at 0.34, so the original has 0.1 on the wrong branch.
    assert original_berhu(logits, labels).item() < 0.5 * by_hand


def test_rmse_with_ssim_has_a_gradient_where_all_agrees_and_the_bare_roots_have_none() -> None:
    logits = torch.zeros(1, 1, 16, 16, requires_grad=True)
    labels = torch.full_like(logits, 0.5, requires_grad=False)
    (bare,) = torch.autograd.grad(original_rmse_with_ssim(logits, labels), logits)
    assert bare.isnan().all()
    (ours,) = torch.autograd.grad(L.RMSEwSSIMLoss()(logits, labels), logits)
    assert torch.isfinite(ours).all()


def test_rmse_with_ssim_takes_the_root_of_the_ssim_loss_alone() -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(2, 1, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.rand(2, 1, 16, 16, generator=generator, dtype=torch.float64)
    dissimilarity = formula.ssim_loss(logits.numpy(), labels.numpy())
    error = formula.rmse_loss(logits.numpy(), labels.numpy(), eps=0)
    ours = L.RMSEwSSIMLoss()(logits, labels).item()
    # What is under a root is near 1 and near 0.1 here: the eps of 1e-6 moves the third decimal by
    # less than 1.
    assert ours == pytest.approx(np.sqrt(dissimilarity) + 4 * error, abs=1e-4)
    assert abs(ours - np.sqrt(dissimilarity + 4 * error)) > 0.1


def test_the_ssim_loss_is_the_sum_of_two_means_and_reaches_past_one() -> None:
    stripes = torch.arange(32.0, dtype=torch.float64).remainder(2).expand(1, 1, 32, 32)
    opposite = 40 * (0.5 - stripes)
    assert L.SSIMLoss()(opposite, stripes).item() == pytest.approx(
        formula.ssim_loss(opposite.numpy(), stripes.numpy()), abs=1e-12
    )
    assert L.SSIMLoss()(opposite, stripes).item() > 1.9


def test_the_prices_of_bce_tversky_are_those_of_the_original_unless_given(mask: Tensor) -> None:
    parameters = inspect.signature(L.BCETverskyLoss).parameters
    assert {name: p.default for name, p in parameters.items()} == {"alpha": 0.6, "beta": 0.5}
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    fixed = L.BCETverskyLoss()(logits, mask).item()
    assert L.BCETverskyLoss(alpha=0.1, beta=0.9)(logits, mask).item() != pytest.approx(fixed)
