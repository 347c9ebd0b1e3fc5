"""Masks from alpha, against Pillow's own box and the masks that people made."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from depthgen.errors import OptionsError, StageError
from depthgen.images import ImageError
from depthgen.prepare.mask import MaskOptions, run
from depthgen.sources.crawl import CrawlOptions
from depthgen.sources.crawl import run as crawl
from depthgen.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path


def cutout(seed: int, size: tuple[int, int] = (30, 20)) -> Image.Image:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (*size[::-1], 4), np.uint8)
    pixels[:, :, 3] = 0
    pixels[5:-3, 4:-6, 3] = generator.integers(0, 3, (size[1] - 8, size[0] - 10)) * 127
    return Image.fromarray(pixels)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.sources("fg").mkdir(parents=True)
    return workspace


def put(workspace: Workspace, count: int) -> None:
    for number in range(count):
        cutout(number).save(workspace.sources("fg") / f"fg_{number:03d}.png")


def picture(path: Path, member: str) -> Image.Image:
    with zipfile.ZipFile(path) as archive:
        return Image.open(io.BytesIO(archive.read(member)))


def test_cut_outs_are_trimmed_and_masks_are_white_where_alpha_is_not_zero(
    workspace: Workspace,
) -> None:
    put(workspace, 3)
    assert run(workspace, MaskOptions(workers=1)).counts == {"fg": 3, "fg_mask": 3}
    for number in range(3):
        source = cutout(number)
        alpha = source.getchannel("A")
        expected = source.crop(alpha.getbbox())
        fg = picture(workspace.archive("fg"), f"fg/fg_{number:03d}.png")
        mask = picture(workspace.archive("fg_mask"), f"fg_mask/fg_{number:03d}.png")
        assert np.array_equal(np.array(fg), np.array(expected))
        assert np.array_equal(np.array(mask.convert("L")) == 255, np.array(expected)[:, :, 3] > 0)


def test_any_number_of_workers_gives_the_same_bytes(workspace: Workspace, tmp_path: Path) -> None:
    put(workspace, 4)
    run(workspace, MaskOptions(workers=1))
    one = workspace.archive("fg").read_bytes(), workspace.archive("fg_mask").read_bytes()
    run(workspace, MaskOptions(workers=2, overwrite=True))
    two = workspace.archive("fg").read_bytes(), workspace.archive("fg_mask").read_bytes()
    assert one == two


def test_a_finished_run_is_not_repeated_and_changed_sources_are_refused(
    workspace: Workspace,
) -> None:
    put(workspace, 2)
    run(workspace, MaskOptions(workers=1))
    assert run(workspace, MaskOptions(workers=1)).already_done
    put(workspace, 3)
    with pytest.raises(StageError, match=r"sources/fg has changed.*--overwrite"):
        run(workspace, MaskOptions(workers=1))
    assert run(workspace, MaskOptions(workers=1, overwrite=True)).counts["fg"] == 3


def test_missing_sources_and_gaps_are_one_sentence(workspace: Workspace) -> None:
    with pytest.raises(StageError, match="depthgen crawl --kind fg"):
        run(workspace, MaskOptions())
    put(workspace, 3)
    (workspace.sources("fg") / "fg_001.png").unlink()
    with pytest.raises(StageError, match="no fg_001"):
        run(workspace, MaskOptions())
    cutout(1).save(workspace.sources("fg") / "fg_001.webp", lossless=True)
    cutout(1).save(workspace.sources("fg") / "fg_001.png")
    with pytest.raises(StageError, match="one number"):
        run(workspace, MaskOptions())
    with pytest.raises(OptionsError):
        MaskOptions(workers=0)


def test_a_bad_source_is_named_and_no_archive_appears(workspace: Workspace) -> None:
    put(workspace, 2)
    path = workspace.sources("fg") / "fg_001.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match="fg_001"):
        run(workspace, MaskOptions(workers=1))
    Image.new("RGBA", (20, 20)).save(path)
    with pytest.raises(StageError, match="fully transparent"):
        run(workspace, MaskOptions(workers=1, overwrite=True))
    assert not workspace.archive("fg").exists()


@pytest.mark.realdata
def test_masks_agree_with_those_made_by_hand(realdata: Path, workspace: Workspace) -> None:
    crawl(workspace, CrawlOptions("folder", "fg", origin=realdata / "fg"))
    run(workspace, MaskOptions())
    hand_made = sorted((realdata / "fg_mask").iterdir())
    overlaps = []
    with zipfile.ZipFile(workspace.archive("fg_mask")) as archive:
        for number, path in enumerate(hand_made):
            mask = Image.open(io.BytesIO(archive.read(f"fg_mask/fg_{number:03d}.png")))
            ours = np.array(mask.convert("L")) >= 128
            # The hand-made masks have the size of the cut-out before it is trimmed.
            source = Image.open(realdata / "fg" / path.name)
            left, top, right, bottom = source.getchannel("A").getbbox() or (0, 0, 0, 0)
            theirs = Image.open(path).convert("L").resize(source.size, Image.Resampling.NEAREST)
            hand = np.array(theirs) >= 128
            whole = np.zeros_like(hand)
            whole[top:bottom, left:right] = ours
            overlaps.append((whole & hand).sum() / (whole | hand).sum())
    assert len(overlaps) == 100
    assert np.mean(overlaps) >= 0.96


def test_a_link_to_nowhere_is_one_sentence(workspace: Workspace, tmp_path: Path) -> None:
    put(workspace, 2)
    (workspace.sources("fg") / "fg_002.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StageError, match=r"cannot read .*fg_002\.png: No such file"):
        run(workspace, MaskOptions(workers=1))
