"""Figures of archives, against brute force in float64 and the original's loop."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from depthgen.archive import ArchiveWriter, shard_path
from depthgen.errors import OptionsError, StageError
from depthgen.images import ImageError, encode_mask, encode_png
from depthgen.stats import StatsOptions, picture_path, read_stats, run, table
from depthgen.status import status
from depthgen.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray


def png(pixels: NDArray[Any]) -> bytes:
    return encode_png(pixels)


def npy(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def write(workspace: Workspace, name: str, members: list[bytes], suffix: str = ".png") -> None:
    with ArchiveWriter(workspace.archive(name)) as writer:
        for number, data in enumerate(members):
            writer.add(f"{name}/p_{number:06d}{suffix}", data)
        writer.add("labels/bg_000_label_info.txt", b"no picture")


def pictures(count: int, shape: tuple[int, ...], dtype: type = np.uint8) -> list[NDArray[Any]]:
    generator = np.random.default_rng(count)
    top = np.iinfo(dtype).max
    # Every picture has its own mean, so that the two deviations differ.
    lows = generator.integers(0, top // 2, count)
    return [generator.integers(low, top, shape, dtype, endpoint=True) for low in lows]


def seeds_std(arrays: list[NDArray[Any]], scale: float) -> NDArray[np.float64]:
    return np.mean(
        [
            (each / scale).reshape(each.shape[0] * each.shape[1], -1).std(0, ddof=1)
            for each in arrays
        ],
        axis=0,
    )


@pytest.fixture
def workspace(tmp_path: Any) -> Workspace:
    return Workspace(tmp_path)


def test_pooled_figures_are_those_of_all_pixels_at_once(workspace: Workspace) -> None:
    arrays = {
        "fg_bg": pictures(40, (24, 24, 3)),
        "fg_bg_mask": pictures(33, (24, 24)),
        "depth_fg_bg": pictures(37, (24, 24), np.uint16),
    }
    for name, each in arrays.items():
        write(workspace, name, [png(pixels) for pixels in each])
    assert run(workspace, StatsOptions(workers=1)).counts == {
        "fg_bg": 40,
        "fg_bg_mask": 33,
        "depth_fg_bg": 37,
    }
    for name, stats in read_stats(workspace).items():
        scale = 65535.0 if name == "depth_fg_bg" else 255.0
        flat = np.concatenate([p.reshape(24 * 24, -1) for p in arrays[name]]) / scale
        assert np.allclose(stats.mean, flat.mean(0), rtol=0, atol=1e-9)
        assert np.allclose(stats.std, flat.std(0), rtol=0, atol=1e-9)
        assert np.allclose(stats.std_of_images, seeds_std(arrays[name], scale), rtol=0, atol=1e-6)
        assert stats.pixels == len(arrays[name]) * 24 * 24


def test_pictures_of_different_sizes_weigh_by_their_pixels(workspace: Workspace) -> None:
    arrays = pictures(2, (10, 10, 3)) + pictures(3, (30, 20, 3))
    write(workspace, "bg", [png(pixels) for pixels in arrays])
    run(workspace, StatsOptions(workers=1))
    flat = np.concatenate([p.reshape(-1, 3) for p in arrays]) / 255
    stats = read_stats(workspace)["bg"]
    assert np.allclose(stats.mean, flat.mean(0), rtol=0, atol=1e-9)
    assert np.allclose(stats.std, flat.std(0), rtol=0, atol=1e-9)


def test_a_constant_picture_has_no_deviation(workspace: Workspace) -> None:
    write(workspace, "bg", [png(np.full((50, 50, 3), 201, np.uint8))] * 3)
    run(workspace, StatsOptions(workers=1))
    stats = read_stats(workspace)["bg"]
    assert stats.std == (0.0, 0.0, 0.0)
    assert stats.std_of_images == (0.0, 0.0, 0.0)
    assert stats.mean == pytest.approx((201 / 255,) * 3, abs=1e-15)


def test_one_bit_masks_and_float_labels(workspace: Workspace) -> None:
    generator = np.random.default_rng(1)
    masks = [generator.random((20, 20)) < 0.1 for _ in range(5)]
    labels = [generator.random((20, 20)).astype(np.float32) for _ in range(5)]
    write(workspace, "fg_bg_mask", [encode_mask(mask) for mask in masks])
    write(workspace, "depth_fg_bg", [npy(label) for label in labels], ".npy")
    run(workspace, StatsOptions(workers=1))
    stats = read_stats(workspace)
    assert stats["fg_bg_mask"].mean == pytest.approx((np.mean(masks),), abs=1e-9)
    wide = np.array(labels, np.float64)
    assert stats["depth_fg_bg"].mean == pytest.approx((wide.mean(),), abs=1e-9)
    assert stats["depth_fg_bg"].std == pytest.approx((wide.std(),), abs=1e-9)


def test_histograms_count_every_16th_member(workspace: Workspace) -> None:
    arrays = pictures(40, (8, 8, 3))
    write(workspace, "bg", [png(pixels) for pixels in arrays])
    run(workspace, StatsOptions(workers=1))
    flat = np.concatenate([p.reshape(-1, 3) for p in arrays[::16]])
    expected = [np.bincount(flat[:, channel], minlength=256) for channel in range(3)]
    assert np.array_equal(read_stats(workspace)["bg"].histogram, expected)


def test_any_number_of_workers_and_shards_gives_the_same_figures(workspace: Workspace) -> None:
    arrays = pictures(600, (6, 6, 3))
    write(workspace, "bg", [png(pixels) for pixels in arrays])
    run(workspace, StatsOptions(workers=1))
    one = read_stats(workspace)["bg"]
    workspace.archive("bg").unlink()
    for shard in range(2):
        with ArchiveWriter(shard_path(workspace.archive("bg"), shard, 2)) as writer:
            for number in range(shard * 300, shard * 300 + 300):
                writer.add(f"bg/{number}.png", png(arrays[number]))
    run(workspace, StatsOptions(workers=2))
    two = read_stats(workspace)["bg"]
    assert (two.mean, two.std, two.histogram) == (one.mean, one.std, one.histogram)
    assert two.std_of_images == pytest.approx(one.std_of_images, abs=1e-12)


def test_what_has_not_changed_is_not_measured_again(workspace: Workspace) -> None:
    write(workspace, "bg", [png(pixels) for pixels in pictures(3, (8, 8, 3))])
    assert not run(workspace, StatsOptions(workers=1)).already_done
    assert run(workspace, StatsOptions(workers=1)).already_done
    write(workspace, "fg_bg", [png(pixels) for pixels in pictures(4, (8, 8, 3))])
    assert not run(workspace, StatsOptions(workers=1)).already_done
    workspace.archive("bg").unlink()
    write(workspace, "bg", [png(pixels) for pixels in pictures(5, (8, 8, 3))])
    run(workspace, StatsOptions(workers=1))
    assert {name: each.pictures for name, each in read_stats(workspace).items()} == {
        "bg": 5,
        "fg_bg": 4,
    }


def test_small_archives_are_measured_by_their_suffix(workspace: Workspace) -> None:
    write(workspace, "bg_small", [png(pixels) for pixels in pictures(3, (8, 8, 3))])
    assert run(workspace, StatsOptions(suffix="small", workers=1)).counts == {"bg_small": 3}


def test_the_table_and_the_picture_can_be_opened(workspace: Workspace) -> None:
    write(workspace, "bg", [png(pixels) for pixels in pictures(3, (8, 8, 3))])
    run(workspace, StatsOptions(workers=1))
    assert json.loads(workspace.stats.read_text())["archives"]["bg"]["pictures"] == 3
    mean = read_stats(workspace)["bg"].mean[0]
    assert f"bg                  |        3 | red     | {mean:.4f}" in table(workspace)
    with Image.open(picture_path(workspace)) as picture:
        assert picture.size[0] > 500


def test_figures_of_archives_that_changed_or_went_are_dropped(workspace: Workspace) -> None:
    for count, name in enumerate(("bg", "fg_bg", "fg_bg_mask", "bg_small"), 2):
        shape = (8, 8) if "mask" in name else (8, 8, 3)
        write(workspace, name, [png(pixels) for pixels in pictures(count, shape)])
    run(workspace, StatsOptions(workers=1))
    run(workspace, StatsOptions(suffix="small", workers=1))
    assert "bg_small " in table(workspace)
    assert "fg_bg " not in table(workspace)
    assert set(read_stats(workspace)) == {"bg", "fg_bg", "fg_bg_mask", "bg_small"}
    for name in ("bg", "fg_bg_mask", "bg_small"):
        workspace.archive(name).unlink()
    write(workspace, "bg", [png(pixels) for pixels in pictures(7, (8, 8, 3))])
    workspace.archive("bg_small").write_bytes(b"damaged")
    run(workspace, StatsOptions(archives=("fg_bg",), workers=1))
    assert set(read_stats(workspace)) == {"fg_bg"}
    assert run(workspace, StatsOptions(archives=("fg_bg",), workers=1)).already_done


def test_status_tells_when_figures_are_of_an_older_archive(workspace: Workspace) -> None:
    write(workspace, "bg", [png(pixels) for pixels in pictures(3, (8, 8, 3))])
    run(workspace, StatsOptions(workers=1))
    workspace.archive("bg").unlink()
    write(workspace, "bg", [png(pixels) for pixels in pictures(4, (8, 8, 3))])
    assert [each.state for each in status(workspace).stages if each.stage == "stats"] == ["stale"]


def test_missing_and_damaged_input_is_one_sentence(workspace: Workspace) -> None:
    with pytest.raises(StageError, match="depthgen composite"):
        run(workspace, StatsOptions())
    with pytest.raises(StageError, match="depthgen crop"):
        run(workspace, StatsOptions(archives=("bg",)))
    with pytest.raises(OptionsError, match="fg_bg_mask"):
        StatsOptions(archives=("masks",))
    write(workspace, "bg", [png(pictures(1, (8, 8, 3))[0]), b"no picture"])
    with pytest.raises(ImageError, match="p_000001"):
        run(workspace, StatsOptions(workers=1))
    assert not workspace.stats.exists()


def test_neither_torch_nor_matplotlib_is_loaded_with_the_module() -> None:
    code = "import sys, depthgen.stats; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
