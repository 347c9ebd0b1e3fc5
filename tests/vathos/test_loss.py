"""Every loss against the formula of its paper in float64 NumPy, and on inputs that break losses."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from tests.vathos import loss_formulae as formula
from vathos.model import loss as L
from vathos.model.loss.berhu_loss import berhu
from vathos.model.loss.ssim_loss import ssim_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

SHAPE = (5, 1, 9, 7)

SEGMENTATION: dict[str, tuple[Callable[[], nn.Module], Callable[..., float]]] = {
    "BCEWithLogitsLoss": (L.BCEWithLogitsLoss, formula.bce),
    "DiceLoss": (L.DiceLoss, formula.dice_loss),
    "BCEDiceLoss": (
        L.BCEDiceLoss,
        lambda z, t: formula.bce(z, t) + 2 * formula.dice_loss(z, t),
    ),
    "TverskyLoss": (
        partial(L.TverskyLoss, alpha=0.3, beta=0.7),
        partial(formula.tversky_loss, alpha=0.3, beta=0.7),
    ),
    "BCETverskyLoss": (
        L.BCETverskyLoss,
        lambda z, t: formula.bce(z, t) + 2 * formula.tversky_loss(z, t, 0.6, 0.5),
    ),
}
DEPTH: dict[str, tuple[Callable[[], nn.Module], Callable[..., float]]] = {
    "RMSELoss": (L.RMSELoss, formula.rmse_loss),
    "RMSELoss with another eps": (
        partial(L.RMSELoss, eps=1e-4),
        partial(formula.rmse_loss, eps=1e-4),
    ),
    "BerHuLoss": (L.BerHuLoss, formula.berhu_loss),
    "BerHuLoss with another threshold": (
        partial(L.BerHuLoss, threshold=0.5),
        partial(formula.berhu_loss, threshold=0.5),
    ),
    "GradLoss": (L.GradLoss, formula.grad_loss),
    "SSIMLoss": (L.SSIMLoss, formula.ssim_loss),
    "RMSEwSSIMLoss": (L.RMSEwSSIMLoss, formula.rmse_with_ssim_loss),
}
ALL = {name: criterion for name, (criterion, _) in (SEGMENTATION | DEPTH).items()}


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)


@pytest.fixture
def mask() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    share = torch.tensor([0.0, 0.01, 0.3, 0.7, 1.0], dtype=torch.float64).view(5, 1, 1, 1)
    return (torch.rand(SHAPE, generator=generator, dtype=torch.float64) < share).double()


@pytest.fixture
def depth() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def gradient(criterion: nn.Module, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    logits = logits.clone().requires_grad_()
    loss = criterion(logits, labels)
    (found,) = torch.autograd.grad(loss, logits)
    return loss.detach(), found


@pytest.mark.parametrize("name", SEGMENTATION)
def test_losses_of_the_mask_are_the_formula(name: str, logits: Tensor, mask: Tensor) -> None:
    criterion, expected = SEGMENTATION[name]
    loss = criterion()(logits, mask)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected(logits.numpy(), mask.numpy()), abs=1e-12)


@pytest.mark.parametrize("name", DEPTH)
def test_losses_of_depth_are_the_formula(name: str, logits: Tensor, depth: Tensor) -> None:
    criterion, expected = DEPTH[name]
    loss = criterion()(logits, depth)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected(logits.numpy(), depth.numpy()), abs=1e-12)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("BerHu")])
def test_gradients_agree_with_finite_differences(
    name: str, logits: Tensor, mask: Tensor, depth: Tensor
) -> None:
    labels = (mask if name in SEGMENTATION else depth)[2:4]
    criterion = ALL[name]()
    assert torch.autograd.gradcheck(lambda z: criterion(z, labels), logits[2:4].requires_grad_())


def test_the_gradient_of_berhu_is_that_of_its_branches_at_a_fixed_border(
    logits: Tensor, depth: Tensor
) -> None:
    p, t = formula.sigmoid(logits.numpy()), depth.numpy()
    d = p - t
    c = 0.2 * np.abs(d).max()
    slope = np.where(np.abs(d) <= c, np.sign(d), d / c)
    _, found = gradient(L.BerHuLoss(), logits, depth)
    np.testing.assert_allclose(found.numpy(), slope * p * (1 - p) / d.size, atol=1e-14)


def test_the_branches_of_berhu_agree_with_finite_differences() -> None:
    errors = torch.tensor([-0.9, -0.3, -0.1, 0.05, 0.19, 0.21, 1.0], dtype=torch.float64)
    border = torch.tensor(0.2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: berhu(d, border), errors.requires_grad_())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-100.0, -50.0, 0.0, 50.0, 100.0])
def test_values_and_gradients_stay_finite_on_constant_inputs(
    name: str, label: float, logit: float
) -> None:
    loss, slope = gradient(
        ALL[name](), torch.full((2, 1, 8, 8), logit), torch.full((2, 1, 8, 8), label)
    )
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("name", ALL)
def test_values_and_gradients_stay_finite_where_every_pixel_is_sure_and_half_are_wrong(
    name: str, mask: Tensor
) -> None:
    sure = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)).sub(0.5).sign() * 50
    loss, slope = gradient(ALL[name](), sure, mask.float())
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("name", ALL)
def test_one_sample_is_a_batch(name: str, logits: Tensor, mask: Tensor) -> None:
    loss, slope = gradient(ALL[name](), logits[1:2], mask[1:2])
    assert torch.isfinite(loss)
    assert slope.shape == (1, 1, 9, 7)


@pytest.mark.parametrize("name", [name for name in ALL if name != "BCEWithLogitsLoss"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_reckoned_in_float32(
    name: str, kind: torch.dtype, logits: Tensor, depth: Tensor
) -> None:
    rounded = logits.to(kind)
    loss = ALL[name]()(rounded, depth.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(ALL[name]()(rounded.double(), depth).item(), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in ALL if name != "BCEWithLogitsLoss"])
def test_labels_of_another_shape_are_refused_and_not_repeated(name: str, depth: Tensor) -> None:
    with pytest.raises(ValueError, match="give both the same shape"):
        ALL[name]()(depth, depth[:1])


@pytest.mark.parametrize("name", DEPTH)
def test_a_perfect_depth_map_costs_no_more_than_the_eps_under_its_roots(
    name: str, depth: Tensor
) -> None:
    perfect = torch.logit(depth)
    floor = {
        "RMSELoss": 1e-3,
        "RMSELoss with another eps": 1e-2,
        "RMSEwSSIMLoss": 5e-3,
    }.get(name, 0.0)
    loss, slope = gradient(ALL[name](), perfect, depth)
    assert loss.item() == pytest.approx(floor, abs=1e-12)
    assert torch.isfinite(slope).all()


def test_tversky_at_a_half_and_a_half_is_dice(logits: Tensor, mask: Tensor) -> None:
    # A sample without an object differs by eps alone.
    tversky = L.TverskyLoss(0.5, 0.5)(logits[1:], mask[1:])
    assert tversky.item() == pytest.approx(L.DiceLoss()(logits[1:], mask[1:]).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "beta", "wider_costs_more"), [(0.9, 0.1, True), (0.1, 0.9, False)]
)
def test_alpha_is_the_price_of_too_much_and_beta_of_too_little(
    alpha: float, beta: float, wider_costs_more: bool
) -> None:
    mask = torch.zeros(1, 1, 1, 9)
    mask[..., 2:7] = 1
    wider, narrower = torch.full_like(mask, 20.0), 20 * (2 * mask - 1)
    narrower[..., 2] = narrower[..., 6] = -20
    wider[..., 0] = wider[..., 8] = -20
    criterion = L.TverskyLoss(alpha, beta)
    assert (criterion(wider, mask) > criterion(narrower, mask)).item() == wider_costs_more


def test_the_gradient_loss_of_a_ramp_is_its_slope_inside_and_half_of_it_at_the_border() -> None:
    ramp = torch.arange(8.0).mul(0.1).add(0.1).expand(1, 1, 6, 8)
    flat = torch.zeros_like(ramp)
    # Six columns at 0.1 and two at 0.05 along x, nothing along y, over 2 x 8 columns.
    assert L.GradLoss()(flat, ramp).item() == pytest.approx(0.7 / 16, abs=1e-7)


def test_the_gradient_loss_does_not_see_a_constant_error(depth: Tensor) -> None:
    shifted = torch.logit(0.5 * depth + 0.25)
    assert L.GradLoss()(shifted, 0.5 * depth).item() == pytest.approx(0, abs=1e-12)


def test_ssim_is_that_of_scikit_image_away_from_the_border() -> None:
    generator = np.random.default_rng(6)
    x = generator.random((20, 17))
    y = np.clip(x + generator.normal(0, 0.2, x.shape), 0, 1)
    _, expected = structural_similarity(
        x, y, gaussian_weights=True, use_sample_covariance=False, data_range=1.0, full=True
    )
    ours = ssim_map(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None], 11)[0, 0]
    np.testing.assert_allclose(ours[5:-5, 5:-5], expected[5:-5, 5:-5], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_ssim_of_two_equal_flat_pictures_is_one(value: float) -> None:
    flat = torch.full((1, 1, 16, 16), value)
    assert ssim_map(flat, flat, 11).min().item() == 1


def test_ssim_of_a_picture_in_float32_is_that_in_float64(depth: Tensor) -> None:
    bright = 0.9 + 0.001 * depth  # where squares cancel most
    noisy = bright + 0.0005 * depth.flip(3)
    wide, narrow = ssim_map(bright, noisy, 11), ssim_map(bright.float(), noisy.float(), 11)
    assert (wide - narrow).abs().max().item() < 1e-3


def test_ssim_of_too_small_a_picture_says_how_large_it_must_be() -> None:
    with pytest.raises(ValueError, match="at least 6 x 6; these are 5 x 8"):
        L.SSIMLoss()(torch.zeros(1, 1, 5, 8), torch.zeros(1, 1, 5, 8))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(L.BerHuLoss, threshold=0.0), "threshold must be above 0"),
        (partial(L.TverskyLoss, alpha=-0.1, beta=0.5), "they are -0.1 and 0.5"),
        (partial(L.BCETverskyLoss, beta=-math.inf), "they are 0.6 and -inf"),
    ],
)
def test_parameters_that_make_no_loss_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
