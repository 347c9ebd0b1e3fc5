"""What the tests of the command line share: small pictures, and the sentence of an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from depthgen import images
from depthgen.archive import ArchiveWriter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Run


def said(result: Run, code: int) -> str:
    """The error's one line, after checking that it is the only thing on standard error."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("Error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


def cutout(side: int = 40) -> Image.Image:
    rgba = np.random.default_rng(side).integers(0, 256, (side, side, 4), np.uint8)
    y, x = np.ogrid[:side, :side]
    rgba[:, :, 3] = np.where((y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2, 255, 0)
    return Image.fromarray(rgba)


def room(side: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def fill(folder: Path, pictures: dict[str, Image.Image | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        if isinstance(picture, bytes):
            (folder / name).write_bytes(picture)
        else:
            picture.save(folder / name)
    return folder


def prepared(root: Path, n_bg: int = 2, n_fg: int = 2) -> None:
    """A workspace with bg.zip and fg.zip."""
    with ArchiveWriter(root / "W" / "bg.zip") as backgrounds:
        for number in range(n_bg):
            data = images.encode_jpeg(np.asarray(room(32, number)), 90)
            backgrounds.add(f"bg/bg_{number:03d}.jpg", data)
    with ArchiveWriter(root / "W" / "fg.zip") as cutouts:
        for number in range(n_fg):
            cutouts.add(f"fg/fg_{number:03d}.png", images.encode_png(np.asarray(cutout())))
