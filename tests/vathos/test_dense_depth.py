"""DenseDepth against what was put into the archives."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from depthgen.images import decode
from vathos.data_loader import DenseDepth
from vathos.data_loader.dense_depth import normalise
from vathos.data_loader.figures import prediction_grid, prediction_tiles
from vathos.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_items_hold_what_the_archives_hold_paired_by_sample_index(
    tiny_set: Callable[..., Any],
) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    assert len(dataset) == 16
    for row, item in enumerate(dataset[i] for i in range(len(dataset))):
        index = int(dataset.sample_indices[row])
        assert {key: (value.dtype, tuple(value.shape)) for key, value in item.items()} == {
            "bg": (torch.float32, (3, 16, 16)),
            "fg_bg": (torch.float32, (3, 16, 16)),
            "fg_bg_mask": (torch.float32, (1, 16, 16)),
            "depth_fg_bg": (torch.float32, (1, 16, 16)),
        }
        assert np.array_equal(item["fg_bg_mask"][0].numpy(), made.mask[index])
        assert np.allclose(item["depth_fg_bg"][0].numpy(), made.depth[index], atol=1e-6)
        picture = decode(dataset.archives["fg_bg"][dataset.sample_name(row)], "RGB")
        expected = np.float32(picture.transpose(2, 0, 1)) / np.float32(255)
        assert np.array_equal(item["fg_bg"].numpy(), expected)
        bg = made.bg[int(dataset.backgrounds[row])].transpose(2, 0, 1) / 255
        assert np.abs(item["bg"].numpy() - bg).max() < 0.05


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 1e-6), (16, 1e-6), (32, 1e-7)])
def test_depth_of_any_width_is_a_label_between_0_and_1(
    tiny_set: Callable[..., Any], bits: int, tolerance: float
) -> None:
    made = tiny_set(depth_bits=bits, n_bg=1, n_fg=1).write()
    depth = DenseDepth(made.folder, made.folder)[0]["depth_fg_bg"]
    assert torch.allclose(depth.unique(), torch.tensor([0.2, 0.6]), atol=tolerance)


def test_the_layout_of_the_original_loads(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set(original=True, suffix="_small").write()
    dataset = DenseDepth(made.folder, made.folder)
    assert len(dataset) == 16
    item = dataset[5]
    assert set(item["fg_bg_mask"].unique().tolist()) == {0.0, 1.0}
    agreement = (item["fg_bg_mask"][0].numpy() == made.mask[5]).mean()
    assert agreement > 0.95  # its masks are JPEG


def test_a_jpeg_mask_is_white_from_128_where_the_original_wanted_150() -> None:
    grey = torch.tensor([127, 128, 140], dtype=torch.uint8).view(1, 1, 1, 3)
    assert normalise({"fg_bg_mask": grey})["fg_bg_mask"].flatten().tolist() == [0, 1, 1]


def test_a_batch_is_stored_numbers_that_prepare_to_the_items(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    stored = dataset.load_batch([3, 0, 3])
    assert all(value.dtype == torch.uint8 for value in stored.values())
    assert stored["fg_bg"].is_contiguous(memory_format=torch.channels_last)
    prepared = dataset.prepare(stored)
    for at, row in enumerate([3, 0, 3]):
        for key, value in dataset[row].items():
            assert torch.equal(prepared[key][at], value)


def test_transforms_are_applied_to_inputs_and_to_targets(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set().write()
    plain = DenseDepth(made.folder, made.folder)
    turned = DenseDepth(
        made.folder, made.folder, transform=lambda x: 1 - x, target_transform=lambda x: x.flip(-1)
    )
    assert torch.equal(turned[1]["fg_bg"], 1 - plain[1]["fg_bg"])
    assert torch.equal(turned[1]["depth_fg_bg"], plain[1]["depth_fg_bg"].flip(-1))


@pytest.mark.parametrize(
    ("gap", "sentence"),
    [
        (
            "bg_001_mask_000006",
            r"fg_bg_mask\.zip has no member fg_bg_mask/bg_001/fg_001_bg_001_mask_000006\.png",
        ),
        (
            "bg_001_depth_000005",
            r"depth_fg_bg\.zip has no member depth_fg_bg/bg_001/fg_000_bg_001_depth_000005\.png",
        ),
        ("bg_001_000004", r"fg_bg\.zip has no member fg_bg/bg_001/fg_000_bg_001_000004\.jpg"),
        ("bg/bg_002.jpg", r"bg\.zip has no member bg/bg_002\.jpg"),
    ],
)
def test_a_missing_member_is_named(tiny_set: Callable[..., Any], gap: str, sentence: str) -> None:
    made = tiny_set().write(leave_out=(gap,))
    with pytest.raises(DataError, match=sentence):
        DenseDepth(made.folder, made.folder)


def test_a_doubled_member_is_named(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set().write(double="mask_000003")
    with pytest.raises(DataError, match=r"two members for one sample, .*mask_000003\.png and"):
        DenseDepth(made.folder, made.folder)


def test_archives_of_two_different_sets_are_refused(tiny_set: Callable[..., Any]) -> None:
    tiny_set(n_bg=2, n_fg=2).write()
    made = tiny_set(n_bg=4, n_fg=1)
    (made.folder / "depth_fg_bg.zip").rename(made.folder / "kept")
    for name in ("bg", "fg_bg", "fg_bg_mask"):
        (made.folder / f"{name}.zip").unlink()
    made.write()
    (made.folder / "kept").replace(made.folder / "depth_fg_bg.zip")
    with pytest.raises(DataError, match="not of one set"):
        DenseDepth(made.folder, made.folder)


def test_a_missing_archive_is_named(tiny_set: Callable[..., Any], tmp_path: Path) -> None:
    made = tiny_set().write()
    (made.folder / "depth_fg_bg.zip").unlink()
    with pytest.raises(DataError, match=r"has no depth_fg_bg\.zip"):
        DenseDepth(made.folder, made.folder)
    with pytest.raises(DataError, match="neither"):
        DenseDepth(tmp_path, tmp_path)


def test_the_suffix_picks_a_variant_and_the_plain_one_is_the_default(
    tiny_set: Callable[..., Any],
) -> None:
    tiny_set(size=32).write()
    made = tiny_set(size=16, suffix="_small").write()
    assert DenseDepth(made.folder, made.folder).height == 32
    assert DenseDepth(made.folder, made.folder, suffix="_small").height == 16
    assert DenseDepth(made.folder, made.folder, suffix="small").height == 16


def test_byte_equal_backgrounds_are_one_group(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set(twins=True).write()
    assert DenseDepth(made.folder, made.folder).background_groups() == [[0, 3]]


def test_a_pickled_data_set_reads_the_same(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[7]["fg_bg"], dataset[7]["fg_bg"])


def test_extractall_unpacks_below_the_root(tiny_set: Callable[..., Any], tmp_path: Path) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(tmp_path / "out", made.folder)
    dataset.extractall()
    assert (tmp_path / "out" / dataset.sample_name(0)).is_file()
    assert (tmp_path / "out" / "bg" / "bg_003.jpg").is_file()


def test_apply_on_batch_calls_the_function_on_each_value() -> None:
    assert DenseDepth.apply_on_batch({"a": 1, "b": 2}, lambda x: 2 * x) == {"a": 2, "b": 4}


def test_plots_have_a_picture_for_each_key_and_need_no_pyplot(
    tiny_set: Callable[..., Any],
) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    batch = dataset.prepare(dataset.load_batch(range(5)))
    predicted = {"pred_mask": batch["fg_bg_mask"], "pred_depth": batch["depth_fg_bg"]}
    assert len(DenseDepth.plot_sample(dataset[0]).axes) == 4
    assert len(DenseDepth.plot4_batch(batch).axes) == 16
    assert len(DenseDepth.plot_results({**batch, **predicted}).axes) == 30


def test_the_grid_and_its_tiles_show_one_row_a_sample_and_six_pictures(
    tiny_set: Callable[..., Any], tmp_path: Path
) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    batch = dataset.prepare(dataset.load_batch(range(3)))
    batch["pred_mask"], batch["pred_depth"] = batch["fg_bg_mask"] / 2, batch["depth_fg_bg"]
    tiles = prediction_tiles(batch)
    assert tiles.shape == (3 * 16, 6 * 16, 3)
    assert np.array_equal(tiles[:16, 32:48, 0] == 255, made.mask[0])
    assert np.array_equal(tiles[:, 64:80], tiles[:, 80:96])
    prediction_grid(batch, samples=2).savefig(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000
