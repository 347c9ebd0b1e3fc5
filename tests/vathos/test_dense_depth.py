"""DenseDepth against what was put into the archives."""

from __future__ import annotations

import json
import pickle
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from depthgen.archive import ArchiveWriter
from depthgen.images import decode, encode_png
from depthgen.sources.provenance import ProvenanceWriter, Sighting
from depthgen.workspace import Member, Workspace, sample_member
from vathos import model as models
from vathos.data_loader import DenseDepth
from vathos.data_loader.dense_depth import normalise
from vathos.data_loader.figures import prediction_grid, prediction_tiles
from vathos.errors import DataError
from vathos.runner import Runner

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


def test_train_or_not_is_the_same_set(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set().write()
    train, test = (DenseDepth(made.folder, made.folder, train=wish) for wish in (True, False))
    assert len(train) == len(test)
    for row in range(len(train)):
        assert all(torch.equal(value, test[row][key]) for key, value in train[row].items())


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 1e-6), (16, 1e-6), (32, 1e-7)])
def test_depth_of_any_width_is_a_label_between_0_and_1(
    tiny_set: Callable[..., Any], bits: int, tolerance: float
) -> None:
    made = tiny_set(depth_bits=bits, n_bg=1, n_fg=1).write()
    depth = DenseDepth(made.folder, made.folder)[0]["depth_fg_bg"]
    assert torch.allclose(depth.unique(), torch.tensor([0.2, 0.6]), atol=tolerance)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 7.5])
def test_a_float_label_that_is_no_number_from_0_to_1_is_named(
    tiny_set: Callable[..., Any], value: float
) -> None:
    made = tiny_set(depth_bits=32, spoil={5: value}).write()
    dataset = DenseDepth(made.folder, made.folder)
    with pytest.raises(DataError, match=r"bg_001/fg_000_bg_001_depth_000005\.png has values from"):
        dataset.load_batch(range(8))


def test_what_the_label_means_is_what_its_archive_says(tiny_set: Callable[..., Any]) -> None:
    quantity = {"quantity": "depth_m", "scale_m": 10.0, "bits": 8, "model": "layered"}
    made = tiny_set(quantity=quantity).write()
    assert DenseDepth(made.folder, made.folder).quantity == quantity
    made = tiny_set(original=True).write()
    assert DenseDepth(made.folder, made.folder).quantity is None


def test_a_damaged_record_of_what_the_label_means_is_named(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set(quantity=["no", "record"]).write()
    with pytest.raises(DataError, match=r"labels/depth_fg_bg_info\.json is damaged"):
        _ = DenseDepth(made.folder, made.folder).quantity


def test_the_layout_of_the_original_loads(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set(original=True, suffix="_small").write()
    dataset = DenseDepth(made.folder, made.folder)
    assert len(dataset) == 16
    item = dataset[5]
    assert set(item["fg_bg_mask"].unique().tolist()) == {0.0, 1.0}
    agreement = (item["fg_bg_mask"][0].numpy() == made.mask[5]).mean()
    assert agreement > 0.95  # its masks are JPEG


class TinyNet(nn.Module):
    """Two filters: enough to find what is bright in the composite alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        depth, mask = self.body(x).split(1, dim=1)
        return depth, mask


def test_a_set_in_the_layout_of_the_original_trains(
    tiny_set: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "TinyNet", TinyNet, raising=False)
    made = tiny_set(original=True, suffix="_small", n_bg=20, n_fg=4).write()
    runner = Runner(
        {
            "name": "original",
            "chkpt_dir": str(tmp_path / "checkpoints"),
            "device": "CPU",
            "model": "TinyNet",
            "dataset": {"zip_dir": str(made.folder), "loader_args": {"batch_size": 4}},
            "optimizer": {"type": "AdamW", "args": {"lr": 0.1}},
            "training": {"epochs": 1},
        }
    )
    metrics = runner.start_train()
    assert metrics["miou"] > 0.6  # all white would have 0.25
    assert metrics["mrmse"] < 0.2


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


def test_byte_equal_cutouts_are_one_group_where_fg_zip_lies_beside_the_archives(
    tiny_set: Callable[..., Any],
) -> None:
    made = tiny_set(n_fg=4).write()
    dataset = DenseDepth(made.folder, made.folder)
    assert dataset.cutout_groups() == []
    with ArchiveWriter(made.folder / "fg.zip") as writer:
        for number, colour in enumerate((1, 2, 1, 3)):
            picture = np.full((8, 8, 4), colour, np.uint8)
            writer.add(f"fg/fg_{number:03d}.png", encode_png(picture))
    assert dataset.cutout_groups() == [[0, 2]]


def test_copies_that_the_provenance_links_are_groups_and_no_torn_line_is_in_the_way(
    tiny_set: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = tiny_set().write()
    lines = [
        {"kind": "bg", "file": "bg/bg_002.png", "duplicate_of": "bg/bg_001.jpg"},
        {"kind": "fg", "file": "fg/fg_001.png", "duplicate_of": "fg/fg_000.png"},
        {"kind": "bg", "file": "bg/bg_003.jpg", "duplicate_of": "bg/bg_000.jpg"},
        {"kind": "bg", "file": "bg/bg_003.jpg"},  # of several lines the last one holds
        {"kind": "bg", "duplicate_of": "bg/bg_000.jpg", "verdict": "refused"},
    ]
    damaged = [b"[1, 2]", b"[" * 100_000, b"\xff\x00", b'{"file": "bg/bg_000.jpg", "duplic']
    (made.folder / "sources").mkdir()
    stored = [*(json.dumps(line).encode() for line in lines), *damaged]
    (made.folder / "sources" / "sources.jsonl").write_bytes(b"\n".join(stored))
    dataset = DenseDepth(made.folder, made.folder)
    assert dataset.background_groups() == [[2, 1]]
    assert dataset.cutout_groups() == [[1, 0]]
    assert "has 4 lines that cannot be read" in caplog.text


def test_the_provenance_that_a_crawl_writes_is_what_the_groups_are_read_from(
    tiny_set: Callable[..., Any],
) -> None:
    made = tiny_set().write()
    line: dict[str, Any] = {
        "kind": "bg",
        "source": "folder",
        "origin": "/a",
        "name": "a",
        "time": "",
        "bytes": 1,
        "sha256": "",
        "width": 1,
        "height": 1,
        "verdict": "kept",
        "file": "bg/bg_002.jpg",
    }
    with ProvenanceWriter(Workspace(made.folder).provenance) as writer:
        writer.add(Sighting(**line, duplicate_of="bg/bg_000.jpg"))
    assert DenseDepth(made.folder, made.folder).background_groups() == [[2, 0]]


def test_of_many_labels_the_one_that_is_missing_is_named_and_quickly(tmp_path: Path) -> None:
    count = 20_000
    endings = {"fg_bg": ".jpg", "fg_bg_mask": ".png", "depth_fg_bg": ".png"}
    for stem, ending in endings.items():
        with ArchiveWriter(tmp_path / f"{stem}.zip") as writer:
            for index in range(count):
                member = Member(fg=index // 20 % 100, bg=index // 2000, index=index)
                if (stem, index) != ("depth_fg_bg", 12_345):
                    writer.add(sample_member(stem, member, ending), b"x")
    with ArchiveWriter(tmp_path / "bg.zip") as writer:
        writer.add("bg/bg_000.jpg", b"x")
    started = time.process_time()
    with pytest.raises(DataError, match=r"depth_fg_bg\.zip has no member .*_depth_012345\.png to"):
        DenseDepth(tmp_path, tmp_path)
    assert time.process_time() - started < 2  # 0.2 s; what grew with the square would take 100


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


def test_a_batch_that_is_still_held_keeps_its_values_and_others_share_memory(
    tiny_set: Callable[..., Any],
) -> None:
    made = tiny_set().write()
    dataset = DenseDepth(made.folder, made.folder)
    held = [dataset.load_batch([row, row + 1]) for row in range(14)]
    parts = [batch["fg_bg"][1:] for batch in held]
    del held
    fresh = DenseDepth(made.folder, made.folder)
    for row, part in enumerate(parts):
        for other in range(14):
            dataset.load_batch([other, other])
        assert torch.equal(part[0], fresh.load_batch([row + 1])["fg_bg"][0])
    del parts, part
    places = {dataset.load_batch([row, row])["fg_bg"].data_ptr() for row in range(14)}
    assert len(places) <= 2  # bg has the same shape
