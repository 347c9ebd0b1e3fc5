"""The stage `mask`: cut-outs trimmed to what can be seen of them, and their masks.

The one rule: a mask is white exactly where alpha is above zero, at the cut-out's own size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from depthgen import images
from depthgen.errors import OptionsError, StageError
from depthgen.prepare.pictures import read_picture, source_pictures
from depthgen.produce import Part, produce
from depthgen.stage import Progress, Summary, files_digest, no_progress, open_stage
from depthgen.workers import default_workers
from depthgen.workspace import Workspace, picture_member

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from depthgen.archive import Entry


@dataclass(frozen=True)
class MaskOptions:
    """`workers` processes; `overwrite` starts anew. Raises `OptionsError`."""

    workers: int = field(default_factory=default_workers)
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise OptionsError(f"--workers must be at least 1, not {self.workers}")


def run(workspace: Workspace, options: MaskOptions, progress: Progress = no_progress) -> Summary:
    """Write `fg.zip` (RGBA) and `fg_mask.zip` (1 bit) from `W/sources/fg`.

    Raises `StageError` if there are no cut-outs, `ImageError` for one that cannot be read.
    """
    paths = source_pictures(workspace, "fg")
    outputs = (workspace.archive("fg"), workspace.archive("fg_mask"))

    def reads() -> dict[str, str]:
        return {"sources/fg": files_digest(paths)}

    with open_stage(workspace, "mask", {}, reads, outputs, options.overwrite) as stage:
        if stage.done:
            return stage.summary()
        ones = [1] * len(paths)
        part = Part(outputs, list(enumerate(paths)), (ones, ones), ones)
        produce([part], _cut_out, options.workers, _describe, progress)
        return stage.finish({"fg": len(paths), "fg_mask": len(paths)})


def _describe(item: tuple[int, Path]) -> str:
    return str(item[1])


def _cut_out(item: tuple[int, Path]) -> tuple[list[Entry], list[Entry]]:
    number, path = item
    cutout = trim(images.decode(read_picture(path), "RGBA", name=str(path)), str(path))
    picture = images.encode_png(cutout)
    mask = images.encode_mask(cutout[:, :, 3])
    return (
        [(picture_member("fg", "fg", number, ".png"), picture, crc32(picture))],
        [(picture_member("fg_mask", "fg", number, ".png"), mask, crc32(mask))],
    )


def trim(rgba: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Cut (H, W, 4) down to the smallest box around every pixel with alpha above 0.

    Raises `StageError` if there is none.
    """
    visible = rgba[:, :, 3] > 0
    rows = np.flatnonzero(visible.any(axis=1))
    columns = np.flatnonzero(visible.any(axis=0))
    if not rows.size:
        raise StageError(f"{name} is fully transparent; replace it by a cut-out that can be seen")
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
