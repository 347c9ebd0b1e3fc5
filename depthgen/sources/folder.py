"""The source `folder`: the pictures that a user has.

The one rule: a folder is taken in the order of its sorted names, hidden files left out, so that
the same folder gives the same numbers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from depthgen.errors import StageError
from depthgen.sources.intake import Candidate, Offer

if TYPE_CHECKING:
    from pathlib import Path

_DEPTH_SUFFIXES = (".png", ".npy")


def candidates(folder: Path, depth_folder: Path | None, max_bytes: int) -> list[Candidate]:
    """Every file of `folder`, each with the depth map of the same stem from `depth_folder`.

    Raises `StageError` if a folder cannot be listed, or a picture has two depth maps.
    """
    depths = _depth_maps(depth_folder) if depth_folder else {}
    return [
        Candidate(
            source="folder",
            origin=str(path.resolve()),
            name=path.name,
            read=partial(read_at_most, path, max_bytes),
            depth=_offer(depths[path.stem]) if path.stem in depths else None,
        )
        for path in _files(folder)
    ]


def _offer(path: Path) -> Offer:
    return Offer(str(path.resolve()), path.name, path.read_bytes)


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """The file's bytes; of a larger one, one byte more than `max_bytes`, for the screen to see."""
    with path.open("rb") as stream:
        return stream.read(max_bytes + 1)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StageError(f"{folder} is not a folder; name the one that holds the pictures")
    try:
        found = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise StageError(f"cannot list {folder}: {error.strerror}") from error
    return sorted((path for path in found if path.name[0] != "."), key=lambda path: path.name)


def _depth_maps(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() not in _DEPTH_SUFFIXES:
            continue
        other = found.setdefault(path.stem, path)
        if other != path:
            raise StageError(f"{other} and {path.name} are depth of one picture; keep one of them")
    return found
