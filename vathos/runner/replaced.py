"""What a run begun anew replaces: out of the way while the new one is set up, gone once it stands.

The one rule: until the new run stands, the earlier one can be had back. Where setting up fails, it
is put back at once; where it was killed, when the folder is taken the next time.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["put_back", "replaced"]

# In each folder, so that a move is a rename; TensorBoard takes it for a run of its own meanwhile.
ASIDE = "replaced"


@contextmanager
def replaced(paths: Sequence[Path]) -> Iterator[None]:
    """Move the files aside; at the end remove them in this order, or put them back after an error.

    Raises `OSError` if they cannot be moved.
    """
    folders = {path.parent for path in paths}
    try:
        for folder in folders:
            (folder / ASIDE).mkdir(exist_ok=True)
        aside = [path.rename(path.parent / ASIDE / path.name) for path in paths]
        yield
    except BaseException:
        for folder in folders:
            put_back(folder)
        raise
    for path in aside:
        path.unlink()
    for folder in folders:
        (folder / ASIDE).rmdir()


def put_back(folder: Path) -> None:
    """Undo what a `replaced` that was killed has done in this folder."""
    aside = folder / ASIDE
    if aside.is_dir():
        for path in aside.iterdir():
            path.replace(folder / path.name)
        aside.rmdir()
