"""The stage `crop`: backgrounds of one size, and the depth that came with them, cut alike.

The one rule: colour may be blended, depth may not. Between a chair and the wall behind it there is
no surface, so depth takes the value of the nearest pixel.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from depthgen import images
from depthgen.errors import OptionsError
from depthgen.files import delete
from depthgen.prepare.pictures import depth_maps, read_picture, source_pictures
from depthgen.produce import Part, produce
from depthgen.stage import (
    Manifest,
    Progress,
    Summary,
    files_digest,
    no_progress,
    open_stage,
)
from depthgen.workers import default_workers
from depthgen.workspace import Workspace, picture_member, picture_stem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from depthgen.archive import Entry

_DEPTH = "sources/bg_depth"
_NAMED_IN_A_NOTE = 5


@dataclass(frozen=True)
class CropOptions:
    """How to crop. Raises `OptionsError` where a value makes no sense.

    size: the side in pixels. quality: of the JPEG files, 1 to 100. workers: processes.
    """

    size: int = 192
    quality: int = 90
    workers: int = field(default_factory=default_workers)
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise OptionsError(f"--size must be 16 to 4096 pixels, not {self.size}")
        if not 1 <= self.quality <= 100:
            raise OptionsError(f"--quality must be 1 to 100, not {self.quality}")
        if self.workers < 1:
            raise OptionsError(f"--workers must be at least 1, not {self.workers}")


def run(workspace: Workspace, options: CropOptions, progress: Progress = no_progress) -> Summary:
    """Write `bg.zip` from `W/sources/bg`, and `bg_depth.zip` if every background has depth.

    Raises `StageError` if there are no backgrounds, `ImageError` for one that cannot be read.
    """
    pictures = source_pictures(workspace, "bg")
    depths, notes = _depths(workspace, len(pictures))
    outputs = [workspace.archive("bg")] + ([workspace.archive("bg_depth")] if depths else [])
    settings = {"size": options.size, "quality": options.quality}

    leftovers: list[Path] = []

    def reads() -> dict[str, str]:
        # Called under the lock, before the manifest that tells whose bg_depth.zip it is goes.
        if options.overwrite and not depths:
            leftovers.extend(_depth_of_an_earlier_run(workspace))
        digests = {"sources/bg": files_digest(pictures)}
        return digests | ({_DEPTH: files_digest(depths)} if depths else {})

    with open_stage(workspace, "crop", settings, reads, outputs, options.overwrite) as stage:
        for leftover in leftovers:
            delete(leftover)
        if stage.done:
            return stage.summary()
        items = [(n, path, depths[n] if depths else None) for n, path in enumerate(pictures)]
        ones = [1] * len(items)
        part = Part(outputs, items, [ones] * len(outputs), ones)
        work = partial(_crop, size=options.size, quality=options.quality)
        produce([part], work, options.workers, _describe, progress)
        notes += _enlarged(pictures, options.size)
        counts = {"bg": len(pictures)} | ({"bg_depth": len(depths)} if depths else {})
        return stage.finish(counts, notes, side=options.size)


def _depths(workspace: Workspace, count: int) -> tuple[list[Path], list[str]]:
    """The depth of every background, or none at all and a note why."""
    found = depth_maps(workspace)
    missing = [picture_stem("bg", number) for number in range(count) if number not in found]
    if not missing:
        return [found[number] for number in range(count)], []
    if len(missing) == count:
        return [], []
    return [], [
        f"{len(missing)} of {count} backgrounds have no depth ({_some(missing)}), so bg_depth.zip "
        "is not made"
    ]


def _depth_of_an_earlier_run(workspace: Workspace) -> list[Path]:
    """The files of `bg_depth.zip`, unfinished ones too, if crop made it.

    One that a user put there is not ours to delete.
    """
    earlier = Manifest.read(workspace.manifest("crop"))
    if earlier is None or _DEPTH not in earlier.reads:
        return []
    path = workspace.archive("bg_depth")
    ours = re.compile(
        rf"{re.escape(path.stem)}(-\d{{5}}-of-\d{{5}})?{re.escape(path.suffix)}(\.partial)?"
    )
    return sorted(each for each in path.parent.iterdir() if ours.fullmatch(each.name))


def _enlarged(pictures: Sequence[Path], size: int) -> list[str]:
    small = [
        path.stem
        for path in pictures
        if min(images.size_of(read_picture(path), name=str(path))) < size
    ]
    if not small:
        return []
    return [f"{len(small)} backgrounds were smaller than {size} and scaled up ({_some(small)})"]


def _some(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NAMED_IN_A_NOTE else ""
    return ", ".join(names[:_NAMED_IN_A_NOTE]) + more


def _describe(item: tuple[int, Path, Path | None]) -> str:
    return str(item[1])


def _crop(item: tuple[int, Path, Path | None], size: int, quality: int) -> list[list[Entry]]:
    number, path, depth_path = item
    rgb = images.decode(read_picture(path), "RGB", name=str(path))
    picture = images.encode_jpeg(images.resize(centre_square(rgb), size, size, "bicubic"), quality)
    blocks = [[(picture_member("bg", "bg", number, ".jpg"), picture, crc32(picture))]]
    if depth_path is not None:
        depth = images.decode_depth(read_picture(depth_path), name=str(depth_path))
        depth = images.resize(centre_square(depth), size, size, "nearest")
        suffix, data = _encode_depth(depth)
        blocks.append([(picture_member("bg_depth", "bg", number, suffix), data, crc32(data))])
    return blocks


def centre_square(picture: NDArray[Any]) -> NDArray[Any]:
    """The largest centred square of (H, W) or (H, W, C); an odd rest goes to the right or below."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _encode_depth(depth: NDArray[Any]) -> tuple[str, bytes]:
    """(suffix, bytes): integers stay PNG and floats stay `.npy`, so no unit changes."""
    if depth.dtype != np.float32:
        return ".png", images.encode_png(depth)
    stream = io.BytesIO()
    np.save(stream, depth)
    return ".npy", stream.getvalue()
