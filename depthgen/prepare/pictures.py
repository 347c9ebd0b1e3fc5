"""The original pictures of a kind, in the order of their numbers.

The one rule: numbers run from 0 without a gap and without a double, for composite counts on it;
here is where that is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthgen.errors import StageError
from depthgen.images import ImageError
from depthgen.workspace import Kind, Workspace, parse_picture, picture_stem

if TYPE_CHECKING:
    from pathlib import Path


def source_pictures(workspace: Workspace, kind: Kind) -> list[Path]:
    """The files of `W/sources/<kind>`; picture n is at place n.

    Raises `StageError` if there are none, if a number is missing, or if two files share one.
    """
    folder = workspace.sources(kind)
    found = _by_number(folder, kind)
    if not found:
        raise StageError(
            f"{folder} holds no pictures; run `depthgen crawl --kind {kind} --source folder "
            "--from DIR` or `depthgen render` first"
        )
    for number in range(len(found)):
        if number not in found:
            raise StageError(
                f"{folder} has no {picture_stem(kind, number)}, but later numbers; rename its last "
                "picture to that, or crawl the missing one again"
            )
    return [found[number] for number in range(len(found))]


def depth_maps(workspace: Workspace) -> dict[int, Path]:
    """The depth maps that came with backgrounds, by number; some or all may be missing."""
    return _by_number(workspace.sources("bg_depth"), "bg")


def read_picture(path: Path) -> bytes:
    """The bytes of an original. Raises `ImageError` if the system says no."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error


def _by_number(folder: Path, kind: Kind) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*")):
        parsed = parse_picture(path.name)
        # A link that leads nowhere is a picture still: it must not shift the count in silence.
        if parsed is None or parsed[0] != kind or path.is_dir():
            continue
        other = found.setdefault(parsed[1], path)
        if other != path:
            raise StageError(f"{other} and {path.name} have one number; move one of them away")
    return found
