"""A label that can only be memorised: what a network scores on it is what has leaked.

Each background (or each cut-out) carries a random pattern as the mask of all its samples, and its
picture, which is noise, says nothing about it. On pictures that were never trained on, a network
can do no better than toss coins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch
from torch import nn

from depthgen.archive import ArchiveWriter
from depthgen.images import encode_jpeg, encode_mask, encode_png
from depthgen.workspace import Member, sample_member
from vathos.data_loader import DenseDepth
from vathos.data_loader.split import make_split

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIZE, CELLS = 16, 4
CARRIERS, PARTNERS = 60, 5


def write_set(folder: Path, carrier: Literal["background", "cutout"]) -> DenseDepth:
    """60 carriers with 16 random cells each, seen in 5 samples: one with each partner."""
    generator = np.random.default_rng(0)
    n_bg, n_fg = (CARRIERS, PARTNERS) if carrier == "background" else (PARTNERS, CARRIERS)
    rooms = generator.integers(0, 256, (n_bg, SIZE, SIZE, 3), np.uint8)
    things = generator.integers(0, 256, (n_fg, SIZE // 2, SIZE // 2, 3), np.uint8)
    cells = generator.integers(0, 2, (CARRIERS, CELLS, CELLS)).astype(bool)
    masks = cells.repeat(SIZE // CELLS, axis=1).repeat(SIZE // CELLS, axis=2)
    depth = encode_png(np.full((SIZE, SIZE), 100, np.uint8))
    with (
        ArchiveWriter(folder / "bg.zip") as backgrounds,
        ArchiveWriter(folder / "fg_bg.zip") as composites,
        ArchiveWriter(folder / "fg_bg_mask.zip") as mask_archive,
        ArchiveWriter(folder / "depth_fg_bg.zip") as depths,
    ):
        for bg, room in enumerate(rooms):
            backgrounds.add(f"bg/bg_{bg:03d}.jpg", encode_jpeg(room, 95))
            for fg, thing in enumerate(things):
                member = Member(fg, bg, bg * n_fg + fg)
                picture = room.copy()
                picture[:8, :8] = thing
                mask = masks[bg if carrier == "background" else fg]
                composites.add(sample_member("fg_bg", member, ".jpg"), encode_jpeg(picture, 95))
                mask_archive.add(sample_member("fg_bg_mask", member, ".png"), encode_mask(mask))
                depths.add(sample_member("depth_fg_bg", member, ".png"), depth)
    return DenseDepth(folder, folder)


def accuracy(
    dataset: DenseDepth, train: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[float, float]:
    """Share of cells that a small network has right after training: (of `train`, of `test`)."""

    def load(rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = dataset.prepare(dataset.load_batch(rows))
        inputs = torch.cat((batch["bg"], batch["fg_bg"]), dim=1) - 0.5
        return inputs, batch["fg_bg_mask"][:, :, ::CELLS, ::CELLS].flatten(1)

    torch.manual_seed(0)
    inputs, labels = load(train)
    pixels = inputs[0].numel()
    network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, 16))
    optimizer = torch.optim.AdamW(network.parameters(), 0.004)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(inputs), labels)
        loss.backward()
        optimizer.step()

    def right(rows: NDArray[np.int64]) -> float:
        inputs, labels = load(rows)
        return float(((network(inputs) > 0) == (labels > 0.5)).float().mean())

    with torch.no_grad():
        return right(train), right(test)


def split_of_the_original(rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The original's: 70 % of the samples train, and 30 % of *these* are called the test set."""
    train = np.random.default_rng(0).permutation(rows)[: round(0.7 * rows)]
    return train, train[: round(0.3 * len(train))]


@pytest.mark.parametrize("carrier", ["background", "cutout"])
def test_a_memorised_label_scores_at_chance_by_our_split_and_far_above_by_the_original(
    tmp_path: Path, carrier: Literal["background", "cutout"]
) -> None:
    dataset = write_set(tmp_path, carrier)
    trained, tested = accuracy(dataset, *make_split(dataset, carrier, 0.3, seed=0).rows(dataset))
    assert trained > 0.95  # it has memorised what it could
    assert abs(tested - 0.5) < 0.1  # 18 x 16 coins: a standard deviation is 0.03
    _, leaked = accuracy(dataset, *split_of_the_original(len(dataset)))
    assert leaked > 0.95


def test_things_new_in_places_new_score_at_chance_too(tmp_path: Path) -> None:
    dataset = write_set(tmp_path, "background")
    split = make_split(dataset, "both", 0.3, seed=0)
    parts = split.parts(dataset)
    scores = {
        part: accuracy(dataset, parts["train"], rows)[1]
        for part, rows in parts.items()
        if part != "train"
    }
    # A cut-out's label does not hang on it here: on a background that was seen it is known.
    assert scores["new cut-outs"] > 0.95
    assert abs(scores["new backgrounds"] - 0.5) < 0.12
    assert abs(scores["new both"] - 0.5) < 0.12
