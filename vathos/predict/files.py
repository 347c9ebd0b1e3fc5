"""Pictures in files: which belong together, and what is written of each pair.

The one rule: nothing is passed over in silence; what has no partner, is no picture or cannot be
read is named, and the rest is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthgen.images import ImageError, encode_png
from vathos.errors import CheckpointError, DataError, UsageError, VathosError
from vathos.predict.overlay import draw_overlay
from vathos.predict.predictor import read_picture
from vathos.trainer.checkpoint import write_atomic
from vathos.utils.allocator import give_back, keep_freed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vathos.predict.predictor import Predictor, Size

__all__ = ["Left", "Pair", "Pairs", "Written", "find_pairs", "predict_pairs", "write_file"]

SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".avif"),
}
MASK_THRESHOLD = 0.5
FULL_SCALE = 65535


@dataclass(frozen=True)
class Pair:
    """A background and the same view with something in it; `name` is the latter's, bare."""

    name: str
    bg: Path
    fg_bg: Path


@dataclass(frozen=True)
class Pairs:
    """What was found; `left_out` has a sentence for each file that belongs to no pair."""

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """What was written of a pair: the files, the share of the picture that the mask covers, and the
    least and largest depth label."""

    name: str
    mask: Path
    depth: Path
    overlay: Path
    covered: float
    nearest: float
    farthest: float

    def text(self, metres: float | None) -> str:
        """One line; metres: of a label of 1, None where labels have no unit."""
        names = ", ".join((str(self.mask), self.depth.name, self.overlay.name))
        ends = [each * (metres or 1) for each in (self.nearest, self.farthest)]
        unit = " m" if metres else ""
        return f"{names}: mask {self.covered:.1%}, depth {ends[0]:.2f} to {ends[1]:.2f}{unit}"


@dataclass(frozen=True)
class Left:
    """A pair that could not be done, and why, in a sentence."""

    name: str
    reason: str


def find_pairs(bg: Path, fg_bg: Path) -> Pairs:
    """Two files; a file and a folder, where the one background serves all; or two folders, by stem.

    Raises `UsageError` if there is none.
    """
    for path in (bg, fg_bg):
        if not path.exists():
            raise UsageError(f"{path} does not exist; name a picture, or a folder of pictures")
    if fg_bg.is_file():
        if bg.is_dir():
            raise UsageError(
                f"{bg} is a folder and {fg_bg} a file; name one background, or two folders"
            )
        return Pairs((Pair(fg_bg.stem, bg, fg_bg),))
    composites, left_out = _pictures(fg_bg)
    if bg.is_file():
        backgrounds = dict.fromkeys(composites, bg)
    else:
        backgrounds, more = _pictures(bg)
        left_out += more
    for mine, others, folder in ((composites, backgrounds, bg), (backgrounds, composites, fg_bg)):
        alone = [path for stem, path in mine.items() if stem not in others]
        left_out += [f"{path} has no partner of that name in {folder}" for path in alone]
    pairs = [
        Pair(stem, backgrounds[stem], composites[stem])
        for stem in sorted(composites.keys() & backgrounds.keys())
    ]
    if not pairs:
        raise UsageError(
            f"{fg_bg} and {bg} have no pair of pictures: partners have one name but for its "
            "ending, such as rooms/a.jpg and rooms_with/a.png"
        )
    return Pairs(tuple(pairs), tuple(left_out))


def predict_pairs(
    predictor: Predictor, pairs: Sequence[Pair], out: Path, size: Size = None
) -> Iterator[Written | Left]:
    """Write NAME_mask.png, NAME_depth.png and NAME_overlay.png of each pair into the folder `out`.

    The mask is 8 bits, 0 or 255, white where its probability exceeds 0.5; the depth 16 bits, label
    × 65535. Each file is written beside its place and renamed. Raises `UsageError` if `out` is a
    file, or if a picture that is read would be written over, `DataError` if it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder to write to")
    _keep_what_is_read(pairs, out)
    try:
        for pair in pairs:
            yield _predict_pair(predictor, pair, out, size)
            keep_freed(predictor.device)
    finally:
        give_back()


def _predict_pair(predictor: Predictor, pair: Pair, out: Path, size: Size) -> Written | Left:
    try:
        composite = read_picture(pair.fg_bg)
        mask, depth = predictor(pair.bg, pair.fg_bg, size)
    except UsageError:
        raise
    except (ImageError, VathosError) as error:
        return Left(pair.name, str(error))
    return _write(out, pair.name, composite, mask > MASK_THRESHOLD, depth)


def _keep_what_is_read(pairs: Sequence[Pair], out: Path) -> None:
    read = {path.resolve() for pair in pairs for path in (pair.bg, pair.fg_bg)}
    for path in (each for pair in pairs for each in _targets(out, pair.name).values()):
        if path.resolve() in read:
            raise UsageError(
                f"{path} is one of the pictures to read, and would be written over; name another "
                "folder to write to"
            )


def _targets(out: Path, name: str) -> dict[str, Path]:
    return {kind: out / f"{name}_{kind}.png" for kind in ("mask", "depth", "overlay")}


def _write(
    out: Path,
    name: str,
    composite: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    depth: NDArray[np.float32],
) -> Written:
    drawn: dict[str, NDArray[Any]] = {
        "mask": mask.astype(np.uint8) * np.uint8(255),
        "depth": (depth.astype(np.float64) * FULL_SCALE + 0.5).astype(np.uint16),
        "overlay": draw_overlay(composite, mask, depth),
    }
    paths = _targets(out, name)
    for kind, array in drawn.items():
        write_file(paths[kind], encode_png(array))
    ends = float(depth.min()), float(depth.max())
    return Written(name, **paths, covered=float(mask.mean()), nearest=ends[0], farthest=ends[1])


def write_file(path: Path, data: bytes) -> None:
    """Write beside the place and rename. Raises `DataError` if the disk says no."""
    try:
        write_atomic(path, lambda file: file.write(data))
    except CheckpointError as error:
        raise DataError(
            f"{path} cannot be written ({error.__cause__}); make room or name another place"
        ) from error


def _pictures(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """(stem -> picture, sentences about what is none). Raises `UsageError` for two of one stem."""
    found: dict[str, Path] = {}
    left_out = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            left_out.append(f"{path} is not a picture")
        elif path.stem in found:
            raise UsageError(
                f"{found[path.stem]} and {path} have one name but for the ending, so what is "
                "written of them would too; rename one"
            )
        else:
            found[path.stem] = path
    return found, left_out
