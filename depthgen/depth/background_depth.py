"""The backgrounds' depth, computed by a network for `layered` to build on.

The one rule: it is metres, or nothing; layers of another quantity cannot be laid into each other.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from depthgen import images
from depthgen.archive import Archive, ArchiveWriter
from depthgen.depth.forward import Forward, NotFiniteError
from depthgen.depth.network_plan import device_of
from depthgen.depth.plan import NETWORK_DEPTH, NETWORK_STAGE
from depthgen.depth.quantity import FAR_M
from depthgen.errors import OptionsError, StageError
from depthgen.stage import archive_digest, open_stage, require_archive, sound_member
from depthgen.workspace import parse_picture, picture_member

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from depthgen.archive import Entry
    from depthgen.depth.choose import Network
    from depthgen.depth.estimator import Estimator
    from depthgen.depth.run import DepthmapOptions
    from depthgen.workspace import Workspace


def load_background_network(
    workspace: Workspace,
    options: DepthmapOptions,
    network: Network,
    tell: Callable[[str], None],
) -> BackgroundDepth:
    """Raises `OptionsError` if the network's depth has no unit."""
    require_archive(workspace, "bg", "crop")
    for sentence in network.announce():
        tell(sentence)
    estimator = network.load(device_of(options.device), "float32")
    if estimator.quantity != "depth_m":
        raise OptionsError(
            f"layered needs metres, and {estimator.model} gives {estimator.quantity}; take for "
            "--bg-model a network that gives metres, such as densedepth, zoedepth-nyu or "
            "depth-anything-v2-metric-indoor-small"
        )
    return BackgroundDepth(workspace, estimator, network, options.overwrite)


@dataclass(frozen=True)
class BackgroundDepth:
    """What makes `bg_depth_network.zip`; `load_background_network` makes it."""

    workspace: Workspace
    estimator: Estimator
    network: Network
    overwrite: bool

    def settings(self) -> dict[str, Any]:
        return {
            "bg_model": self.network.asked,
            "weights": self.estimator.digest,
            "given": dict(self.network.given),
        }

    def write(self, labels: Mapping[str, Any]) -> None:
        """Make the archive, a stage of its own; every depth float32 metres, 0.1 to 10.

        labels: what `status` needs beside the settings to tell how the labels are gone on with, if
        this is stopped before they have a manifest.
        Raises `StageError` naming the background that the network fails on.
        """
        output = self.workspace.archive(NETWORK_DEPTH)

        def reads() -> Mapping[str, str]:
            return {"bg.zip": archive_digest(self.workspace, "bg", "crop")}

        with open_stage(
            *(self.workspace, NETWORK_STAGE, self.settings(), reads),
            *([output], self.overwrite),
        ) as stage:
            if stage.done:
                return
            stage.keep(labels)
            with ArchiveWriter(output, resume=False) as writer:
                for name, data, checksum in self._entries():
                    writer.add(name, data, checksum)
            stage.finish({"bg": len(writer)}, **labels)

    def sample(self, path: Path) -> float:
        """Write the first background's depth alone to `path`; seconds that all will take."""
        with Archive.open(self.workspace.archive("bg")) as backgrounds:
            count = len(backgrounds)
        with closing(self._entries()) as entries:
            with ArchiveWriter(path, resume=False) as writer:
                writer.add(*next(entries))  # not timed: the first call chooses kernels
            began = time.perf_counter()
            next(entries, None)
            return (time.perf_counter() - began) * count

    def _entries(self) -> Generator[Entry, None, None]:
        forward = Forward(self.estimator, 1.0, bits=32, limit=1)
        with Archive.open(self.workspace.archive("bg")) as backgrounds:
            for at, name in enumerate(backgrounds.names):
                picture = parse_picture(name)
                if picture is None:
                    continue
                pixels = images.decode(sound_member(backgrounds, at, "crop"), "RGB", name=name)
                try:
                    label = forward.labels(pixels[None])[0]
                except NotFiniteError as error:
                    raise StageError(
                        f"{self.estimator.model} gives a value that is no number for {name}; "
                        "try another --bg-model"
                    ) from error
                data = images.encode_depth(label * np.float32(FAR_M))
                member = picture_member("bg_depth", "bg", picture[1], ".npy")
                yield member, data, crc32(data)
