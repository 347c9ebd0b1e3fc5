"""What `depthmap` has decided: who labels, with which settings, and how.

The one rule: the settings hold everything that decides a label, so that two plans with the same
settings make the same labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from depthgen.archive import Archive
from depthgen.stage import require_archive

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from depthgen.depth.quantity import Quantity
    from depthgen.stage import Progress
    from depthgen.workspace import Workspace

# The backgrounds' depth as a network computes it for `layered`: its stage and its archive.
NETWORK_STAGE, NETWORK_DEPTH = "depthmap_backgrounds", "bg_depth_network"


@dataclass(frozen=True)
class Forecast:
    """How long labelling all will take, after a few batches."""

    samples: int
    seconds: float


class Plan(Protocol):
    """Ready to run. settings: for the manifest. facts: what else stands there at the end."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    @property
    def quantity(self) -> Quantity: ...

    @property
    def outputs(self) -> list[Path]: ...

    def reads(self) -> Mapping[str, str]:
        """A digest of each archive that is read, by its name."""
        ...

    def text(self) -> str:
        """Who labels, and on what, in a line."""
        ...

    def begin(self) -> None:
        """Make what the stage reads and no earlier stage makes."""
        ...

    def label(self, progress: Progress) -> int:
        """Make what is missing of the label archives; returns how many samples there are."""
        ...

    def forecast(self) -> Forecast:
        """Label a few samples, write nothing, and extrapolate."""
        ...


def shards_of(workspace: Workspace, name: str) -> list[Path]:
    """The files of an archive of samples."""
    with Archive.open(require_archive(workspace, name, "composite")) as archive:
        return list(archive.paths)


def outputs_for(shards: list[Path], name: str) -> list[Path]:
    """The label archives beside the shards of archive `name`."""
    return [path.with_name(path.name.replace(name, "depth_fg_bg", 1)) for path in shards]
