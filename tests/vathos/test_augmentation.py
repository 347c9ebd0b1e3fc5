"""The augmentation: what is shared stays shared, what is a camera's own is independent."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from kornia.enhance import adjust_saturation_with_gray_subtraction
from PIL import Image
from torch import Tensor

from vathos.data_loader.augmentation import DepthLightAug
from vathos.errors import ConfigError

SIZE = (48, 64)
GEOMETRY_ONLY: dict[str, Any] = {"photometric": 0.0, "flip": 0.5, "crop": 1.0, "crop_side": 0.5}
NOTHING: dict[str, Any] = {"flip": 0.0, "crop": 0.0, "photometric": 0.0}
QUIET: dict[str, Any] = {
    "flip": 0.0,
    "crop": 0.0,
    "photometric": 1.0,
    "shift": 0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "blur": 0.0,
    "noise": 0.0,
    "jpeg": 0.0,
}


def make_batch(count: int = 6, size: tuple[int, int] = SIZE) -> dict[str, Tensor]:
    """Smooth pictures; the composite has a bright box, which is nearer."""
    height, width = size
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 3, 2, 2, generator=generator) * 0.4 + 0.2
    bg = torch.nn.functional.interpolate(corners, size, mode="bilinear")
    mask = torch.zeros(count, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 4 : width // 2] = 1
    return {
        "bg": bg,
        "fg_bg": torch.where(mask > 0, 0.9, bg),
        "fg_bg_mask": mask,
        "depth_fg_bg": torch.where(mask > 0, 0.2, 0.6),
    }


def augment(batch: dict[str, Tensor], seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return DepthLightAug(**arguments)(batch)


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_keeps_its_shape_and_range_and_its_labels_their_values(
    count: int, seed: int
) -> None:
    batch = make_batch(count)
    before = {key: value.clone() for key, value in batch.items()}
    out = augment(batch, seed)
    assert set(out) == set(batch)
    for key, value in out.items():
        assert value.shape == batch[key].shape
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert value.min() >= 0
        assert value.max() <= 1
        assert torch.equal(batch[key], before[key])
    assert set(out["fg_bg_mask"].unique().tolist()) <= {0.0, 1.0}
    values = before["depth_fg_bg"].unique().tolist()
    assert set(out["depth_fg_bg"].unique().tolist()) <= set(values)


def test_the_same_state_of_the_generator_gives_the_same_batch_and_another_another() -> None:
    batch = make_batch()
    augmentation = DepthLightAug()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = augmentation(batch), augmentation(batch)
    torch.set_rng_state(state)
    again = augmentation(batch)
    assert all(torch.equal(first[key], again[key]) for key in batch)
    assert not torch.equal(first["bg"], second["bg"])


def test_with_all_probabilities_at_zero_nothing_changes() -> None:
    batch = make_batch()
    out = augment(batch, **NOTHING)
    assert all(torch.allclose(out[key], batch[key], atol=1e-5) for key in batch)
    assert torch.equal(out["fg_bg_mask"], batch["fg_bg_mask"])


def test_a_flip_mirrors_all_four() -> None:
    batch = make_batch()
    out = augment(batch, **{**NOTHING, "flip": 1.0})
    assert torch.equal(out["fg_bg_mask"], batch["fg_bg_mask"].flip(-1))
    assert torch.equal(out["depth_fg_bg"], batch["depth_fg_bg"].flip(-1))
    for key in ("bg", "fg_bg"):
        assert torch.allclose(out[key], batch[key].flip(-1), atol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_labels_stay_on_what_the_composite_shows(shift: int) -> None:
    # The composite's colours are its coordinates, so that the mask can be computed from them.
    height, width = SIZE
    rows, columns = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    picture = torch.stack((rows, columns, rows)).expand(16, -1, -1, -1)
    batch = {
        "bg": picture,
        "fg_bg": picture,
        "fg_bg_mask": (picture[:, :1] > 0.5).float(),
        "depth_fg_bg": (picture[:, 1:2] > 0.3).float(),
    }
    disturbing = {**QUIET, "shift": shift, "crop": 1.0, "crop_side": 0.5, "flip": 0.5}
    out = augment(batch, **disturbing)
    for key, channel, edge, side in (
        ("fg_bg_mask", 0, 0.5, height),
        ("depth_fg_bg", 1, 0.3, width),
    ):
        seen = out["fg_bg"][:, channel : channel + 1]
        sure = (seen - edge).abs() > 0.51 / side  # nearest is up to half a pixel off
        assert sure.float().mean() > 0.9
        assert torch.equal((seen > edge)[sure], (out[key] > 0)[sure])


def test_geometry_is_shared_and_of_the_clean_pair_only_the_object_differs() -> None:
    out = augment(make_batch(16), **GEOMETRY_ONLY)
    change = (out["fg_bg"] - out["bg"]).abs().amax(dim=1, keepdim=True)
    inside = -torch.nn.functional.max_pool2d(-out["fg_bg_mask"], 5, 1, 2) > 0
    outside = torch.nn.functional.max_pool2d(out["fg_bg_mask"], 5, 1, 2) == 0
    assert (change[inside] > 0.1).all()
    assert (change[outside] == 0).all()
    assert not torch.equal(out["bg"], make_batch(16)["bg"])


def test_shifts_are_whole_pixels_and_drawn_for_each_picture_alone() -> None:
    noise = torch.rand(64, 3, 16, 16)
    batch = {**make_batch(64, (16, 16)), "bg": noise, "fg_bg": noise}
    out = augment(batch, **{**QUIET, "shift": 1})

    def shift_of(picture: Tensor, original: Tensor) -> tuple[int, int]:
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                moved = original.roll((-down, -right), (1, 2))[:, 2:-2, 2:-2]
                if torch.allclose(picture[:, 2:-2, 2:-2], moved, atol=1e-4):
                    return down, right
        raise AssertionError("not a shift of whole pixels")

    shifts = {
        key: [shift_of(*pair) for pair in zip(out[key], noise, strict=True)]
        for key in ("bg", "fg_bg")
    }
    assert len(set(shifts["bg"])) == len(set(shifts["fg_bg"])) == 9
    same = sum(a == b for a, b in zip(shifts["bg"], shifts["fg_bg"], strict=True))
    assert 1 <= same <= 20  # one in nine by chance


def test_noise_of_the_two_pictures_is_not_correlated_and_as_strong_as_asked() -> None:
    grey = torch.full((64, 3, 32, 32), 0.5)
    batch = {**make_batch(64, (32, 32)), "bg": grey, "fg_bg": grey}
    out = augment(batch, **{**QUIET, "noise": 0.1})
    bg, fg_bg = ((out[key] - grey).numpy().ravel() for key in ("bg", "fg_bg"))
    assert abs(np.corrcoef(bg, fg_bg)[0, 1]) < 0.01
    assert abs(bg.std() - 0.1 / 3**0.5) < 0.01  # of a deviation uniform from 0 to 0.1


@pytest.mark.parametrize("what", ["brightness", "contrast", "saturation", "hue"])
def test_colours_of_the_two_pictures_change_independently(what: str) -> None:
    picture = make_batch(48)["bg"]
    batch = {**make_batch(48), "fg_bg": picture}
    out = augment(batch, **{**QUIET, what: 0.2})
    bg, fg_bg = ((out[key] - picture).flatten(1)[:, 7].numpy() for key in ("bg", "fg_bg"))
    assert max(np.abs(bg).max(), np.abs(fg_bg).max()) > 0.002
    assert abs(np.corrcoef(bg, fg_bg)[0, 1]) < 0.45  # 48 independent draws


def test_saturation_is_that_of_kornia_and_hue_leaves_grey_alone() -> None:
    picture = make_batch(1)["bg"]
    augmentation = DepthLightAug(**{**QUIET, "saturation": 0.5})
    torch.manual_seed(2)
    out = augmentation._recolour(picture)
    torch.manual_seed(2)
    torch.rand(2)  # brightness and contrast are drawn first
    factor = float(1 + 0.5 * (2 * torch.rand(()) - 1))
    expected = adjust_saturation_with_gray_subtraction(picture, factor)
    assert torch.allclose(out, expected, atol=2e-3)
    grey = picture.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(DepthLightAug(**{**QUIET, "hue": 0.5})._recolour(grey), grey, atol=1e-6)


@pytest.mark.parametrize("quality", [30, 70])
def test_jpeg_leaves_the_marks_that_pillow_leaves(quality: int) -> None:
    smooth = make_batch(1, (96, 96))["fg_bg"]
    picture = (smooth + 0.05 * torch.rand(smooth.shape, generator=torch.Generator())).clamp(0, 1)
    picture = (picture * 255).round() / 255
    batch = {**make_batch(1, (96, 96)), "bg": picture, "fg_bg": picture}
    out = augment(batch, **{**QUIET, "jpeg": 1.0, "jpeg_quality": (quality, quality)})
    stream = io.BytesIO()
    pixels = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    coded = torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1) / 255
    ours, theirs = (out["bg"][0] - picture[0]), (coded - picture[0])
    assert 0.8 < float(ours.std() / theirs.std()) < 1.1
    assert np.corrcoef(ours.numpy().ravel(), theirs.numpy().ravel())[0, 1] > 0.85


def test_a_difference_threshold_no_longer_finds_the_object() -> None:
    def score(batch: dict[str, Tensor]) -> float:
        """IoU of the best one threshold on the difference."""
        change = (batch["fg_bg"] - batch["bg"]).abs().amax(dim=1, keepdim=True)
        mask = batch["fg_bg_mask"] > 0.5

        def iou(threshold: float) -> float:
            found = change > threshold
            both, either = (found & mask).sum((1, 2, 3)), (found | mask).sum((1, 2, 3))
            return float((both / either.clamp(min=1)).mean())

        return max(iou(level / 40) for level in range(1, 30))

    batch = make_batch(32)
    # An object about as bright as the room, as most are.
    batch["fg_bg"] = torch.where(batch["fg_bg_mask"] > 0, batch["bg"] + 0.12, batch["bg"])
    assert score(batch) > 0.99
    assert score(augment(batch, photometric=1.0)) < 0.6


def test_some_samples_keep_their_clean_pair() -> None:
    batch = make_batch(200, (16, 16))
    out = augment(batch, **{**NOTHING, "photometric": 0.75})
    clean = [
        torch.allclose(after, before, atol=1e-5)
        for after, before in zip(out["bg"], batch["bg"], strict=True)
    ]
    assert 30 <= sum(clean) <= 70


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"flip": 1.5}, "flip is 1.5"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"shift": 0.5}, "shift is 0.5, but must be a whole number"),
        ({"crop_side": 0.0}, "crop_side is 0.0"),
        ({"jpeg_quality": [95, 30]}, r"jpeg_quality is \[95, 30\]"),
        ({"jpeg_quality": [30]}, r"jpeg_quality is \[30\]"),
    ],
)
def test_a_value_out_of_its_range_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DepthLightAug(**arguments)
