"""Perturbed pictures: the same for a row whatever its batch, different for bg and fg_bg."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vathos.data_loader.perturb import GAIN, NOISE, perturb


def make_batch(count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 3, 2, 2, generator=generator) * 120 + 60
    picture = torch.nn.functional.interpolate(corners, (32, 48), mode="bilinear").byte()
    mask = torch.zeros(count, 1, 32, 48, dtype=torch.uint8)
    return {"bg": picture, "fg_bg": picture.clone(), "fg_bg_mask": mask, "depth_fg_bg": mask + 9}


def test_pictures_change_and_labels_do_not() -> None:
    batch = make_batch()
    before = {key: value.clone() for key, value in batch.items()}
    out = perturb(batch, 0, range(6))
    for key in ("bg", "fg_bg"):
        assert out[key].dtype == torch.uint8
        assert out[key].shape == batch[key].shape
        assert not torch.equal(out[key], batch[key])
    assert out["depth_fg_bg"] is batch["depth_fg_bg"]
    assert all(torch.equal(batch[key], before[key]) for key in batch)


def test_a_row_is_perturbed_the_same_in_any_batch_and_otherwise_by_another_seed() -> None:
    batch = make_batch()
    whole = perturb(batch, 7, np.arange(10, 16))
    for at in range(6):
        alone = perturb({key: value[at : at + 1] for key, value in batch.items()}, 7, [10 + at])
        assert torch.equal(alone["bg"][0], whole["bg"][at])
        assert torch.equal(alone["fg_bg"][0], whole["fg_bg"][at])
    assert not torch.equal(perturb(batch, 8, range(10, 16))["bg"], whole["bg"])


def test_background_and_composite_are_exposed_apart() -> None:
    grey = torch.full((300, 3, 16, 16), 128, dtype=torch.uint8)
    out = perturb({"bg": grey, "fg_bg": grey}, 0, range(300))
    bg, fg_bg = ((out[key].double() / 128).mean(dim=(1, 2, 3)).numpy() for key in ("bg", "fg_bg"))
    assert abs(np.corrcoef(bg, fg_bg)[0, 1]) < 0.2
    for gains in (bg, fg_bg):
        assert GAIN[0] - 0.02 < gains.min() < GAIN[0] + 0.02
        assert GAIN[1] - 0.02 < gains.max() < GAIN[1] + 0.02
        assert abs(np.log(gains).mean()) < 0.03  # as likely darker as brighter
    # JPEG takes some of the noise away, never all of it.
    deviations = out["bg"].double().std(dim=(2, 3)).mean(dim=1)
    assert 0.2 < deviations.median() < NOISE[1]


def test_floats_come_back_as_floats_of_the_same_eight_bits() -> None:
    batch = make_batch()
    stored = perturb(batch, 3, range(6))
    floats = perturb({key: value.float() / 255 for key, value in batch.items()}, 3, range(6))
    assert torch.equal(floats["fg_bg"], stored["fg_bg"].float() / 255)


def test_as_many_rows_as_samples_are_wanted() -> None:
    with pytest.raises(ValueError, match="zip"):
        perturb(make_batch(), 0, [1, 2])
