"""Centre crop and resize, against Pillow, and depth cut like its picture."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from depthgen.archive import shard_path
from depthgen.errors import OptionsError, StageError
from depthgen.images import encode_jpeg
from depthgen.prepare.crop import CropOptions, centre_square, run
from depthgen.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def seeds_crop(picture: Image.Image) -> Image.Image:
    """The original's rule, in Pillow's terms."""
    width, height = picture.size
    side = min(width, height)
    box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    return picture.crop(box)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.sources("bg").mkdir(parents=True)
    workspace.sources("bg_depth").mkdir()
    return workspace


def put(workspace: Workspace, *sizes: tuple[int, int]) -> None:
    for number, size in enumerate(sizes):
        scene(number, size).save(workspace.sources("bg") / f"bg_{number:03d}.png")


def put_depth(workspace: Workspace, number: int, depth: NDArray[Any]) -> None:
    path = workspace.sources("bg_depth") / f"bg_{number:03d}"
    if depth.dtype == np.float32:
        np.save(path.with_suffix(".npy"), depth)
    else:
        Image.fromarray(depth).save(path.with_suffix(".png"))


def test_a_background_is_its_centred_square_resized_bicubic(workspace: Workspace) -> None:
    sizes = ((101, 64), (64, 101), (50, 50), (20, 31))
    put(workspace, *sizes)
    summary = run(workspace, CropOptions(size=32, quality=85, workers=1))
    with zipfile.ZipFile(workspace.archive("bg")) as archive:
        for number, size in enumerate(sizes):
            square = seeds_crop(scene(number, size))
            expected = np.array(square.resize((32, 32), Image.Resampling.BICUBIC))
            assert archive.read(f"bg/bg_{number:03d}.jpg") == encode_jpeg(expected, 85)
    assert "1 backgrounds were smaller than 32" in summary.notes[0]
    assert not workspace.archive("bg_depth").exists()


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (6, 3)])
def test_the_square_is_the_originals(shape: tuple[int, int]) -> None:
    grey = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    assert np.array_equal(centre_square(grey), np.array(seeds_crop(Image.fromarray(grey))))


def test_depth_is_cut_alike_and_never_blended(workspace: Workspace) -> None:
    put(workspace, (60, 40), (60, 40), (60, 40))
    near_far = np.where(np.arange(60)[None] < 33, 800, 9000) + np.zeros((40, 1))
    put_depth(workspace, 0, near_far.astype(np.uint16))
    put_depth(workspace, 1, (near_far / 1000).astype(np.float32))
    put_depth(workspace, 2, (near_far / 10_000 * 255).astype(np.uint8))
    run(workspace, CropOptions(size=16, workers=1))
    with zipfile.ZipFile(workspace.archive("bg_depth")) as archive:
        assert archive.namelist() == [
            "bg_depth/bg_000.png",
            "bg_depth/bg_001.npy",
            "bg_depth/bg_002.png",
        ]
        wide = np.array(Image.open(io.BytesIO(archive.read("bg_depth/bg_000.png"))))
        metres = np.load(io.BytesIO(archive.read("bg_depth/bg_001.npy")))
        label = np.array(Image.open(io.BytesIO(archive.read("bg_depth/bg_002.png"))))
    columns = np.arange(16) * 2.5 + 1.25 + 10  # where the middle of each pixel falls
    expected = np.where(columns < 33, 800, 9000) + np.zeros((16, 1))
    assert np.array_equal(wide, expected)
    assert np.array_equal(metres, (expected / 1000).astype(np.float32))
    assert label.dtype == np.uint8
    assert np.array_equal(label, (expected / 10_000 * 255).astype(np.uint8))


def test_depth_of_some_backgrounds_only_is_a_note(workspace: Workspace) -> None:
    put(workspace, (40, 40), (40, 40))
    put_depth(workspace, 1, np.full((40, 40), 900, np.uint16))
    summary = run(workspace, CropOptions(size=16, workers=1))
    assert summary.notes == (
        "1 of 2 backgrounds have no depth (bg_000), so bg_depth.zip is not made",
    )
    assert not workspace.archive("bg_depth").exists()


def test_starting_anew_without_depth_removes_what_crop_made_and_nothing_else(
    workspace: Workspace,
) -> None:
    put(workspace, (40, 40))
    put_depth(workspace, 0, np.full((40, 40), 900, np.uint16))
    run(workspace, CropOptions(size=16, workers=1))
    (workspace.sources("bg_depth") / "bg_000.png").unlink()
    run(workspace, CropOptions(size=16, workers=1, overwrite=True))
    assert not workspace.archive("bg_depth").exists()
    workspace.archive("bg_depth").write_bytes(b"mine")
    run(workspace, CropOptions(size=16, workers=1, overwrite=True))
    assert workspace.archive("bg_depth").read_bytes() == b"mine"


def test_an_unfinished_depth_of_an_earlier_run_goes_with_it(workspace: Workspace) -> None:
    put(workspace, (40, 40))
    put_depth(workspace, 0, np.full((40, 40), 900, np.uint16))
    run(workspace, CropOptions(size=16, workers=1))
    path = workspace.archive("bg_depth")
    path.rename(path.with_suffix(".zip.partial"))
    shard_path(path, 0, 2).write_bytes(b"")
    mine = path.with_name("bg_depth_mine.zip")
    mine.write_bytes(b"")
    (workspace.sources("bg_depth") / "bg_000.png").unlink()
    run(workspace, CropOptions(size=16, workers=1, overwrite=True))
    left = sorted(each.name for each in workspace.root.glob("*.zip*"))
    assert left == ["bg.zip", "bg_depth_mine.zip"]


def test_other_options_are_refused_and_any_number_of_workers_gives_the_same_bytes(
    workspace: Workspace,
) -> None:
    put(workspace, *[(40, 50)] * 4)
    run(workspace, CropOptions(size=16, workers=1))
    one = workspace.archive("bg").read_bytes()
    with pytest.raises(StageError, match="size was 16, now 24"):
        run(workspace, CropOptions(size=24, workers=1))
    run(workspace, CropOptions(size=16, workers=2, overwrite=True))
    assert workspace.archive("bg").read_bytes() == one
    assert run(workspace, CropOptions(size=16)).already_done


def test_options_that_make_no_sense_are_refused(workspace: Workspace) -> None:
    for size, quality, workers in ((8, 90, 1), (64, 0, 1), (64, 101, 1), (64, 90, 0)):
        with pytest.raises(OptionsError):
            CropOptions(size, quality, workers)
    with pytest.raises(StageError, match="depthgen crawl --kind bg"):
        run(workspace, CropOptions())
