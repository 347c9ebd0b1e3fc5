"""From a sample back to the files or URLs that it was made of."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from depthgen.composite import CompositeOptions
from depthgen.composite import run as composite
from depthgen.errors import StageError
from depthgen.prepare.crop import CropOptions
from depthgen.prepare.crop import run as crop
from depthgen.prepare.mask import MaskOptions
from depthgen.prepare.mask import run as mask
from depthgen.sources.crawl import CrawlOptions
from depthgen.sources.crawl import run as crawl
from depthgen.trace import trace
from depthgen.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path


def picture(seed: int, mode: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, len(mode)), np.uint8)
    if mode == "RGBA":
        y, x = np.mgrid[:48, :48] - 24
        pixels[:, :, 3] = (x**2 + y**2 < 300) * 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "W")
    for kind, mode in (("fg", "RGBA"), ("bg", "RGB")):
        folder = tmp_path / kind
        folder.mkdir()
        for n in range(3):
            (folder / f"{n}.png").write_bytes(picture(n, mode))
        crawl(made, CrawlOptions("folder", kind, origin=folder))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("what", ["fg_002", "fg002", "fg/fg_002.png", "fg_mask/fg_002.png"])
def test_a_picture_is_traced_to_its_origin(workspace: Workspace, tmp_path: Path, what: str) -> None:
    (found,) = trace(workspace, what)
    assert found.stem == "fg_002"
    assert found.sighting.origin == str(tmp_path / "fg" / "2.png")
    assert found.text().startswith(f"fg_002: {tmp_path / 'fg' / '2.png'}\n")
    assert found.to_json()["origin"] == found.sighting.origin


def test_a_sample_is_traced_to_both_of_its_pictures(workspace: Workspace, tmp_path: Path) -> None:
    mask(workspace, MaskOptions(workers=1))
    crop(workspace, CropOptions(size=32, workers=1))
    composite(workspace, CompositeOptions(placements=2, workers=1))
    # 1 · (3 · 2 · 2) + 2 · (2 · 2) + 1 · 2: background 1, cut-out 2, placement 1
    for what in ("22", "fg_bg/bg_001/fg_002_bg_001_000022.jpg", "fg_002_bg_001_mask_000022"):
        fg, bg = trace(workspace, what)
        assert fg.sighting.origin == str(tmp_path / "fg" / "2.png")
        assert bg.sighting.origin == str(tmp_path / "bg" / "1.png")
    with pytest.raises(StageError, match="there are 36 samples"):
        trace(workspace, "36")


def test_a_picture_that_was_renamed_is_known_by_its_bytes(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = workspace.sources("fg")
    (folder / "fg_002.png").replace(folder / "fg_000.png")
    (found,) = trace(workspace, "fg_000")
    assert found.sighting.origin == str(tmp_path / "fg" / "2.png")
    assert found.note == "it was fg/fg_002.png when it was taken in"
    (gone,) = trace(workspace, "fg_002")
    assert "no longer in the sources" in gone.note


def test_what_cannot_be_traced_is_one_sentence(workspace: Workspace) -> None:
    (workspace.sources("fg") / "fg_003.png").write_bytes(picture(9, "RGBA"))
    for what, words in (
        ("fg_007", "there is no picture fg_007"),
        ("fg_003", "put there by hand"),
        ("nonsense", "names no picture"),
        ("5", "run `depthgen composite` first"),
    ):
        with pytest.raises(StageError, match=words):
            trace(workspace, what)
