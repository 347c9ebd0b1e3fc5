"""The whole data chain, small: the first half of `depthgen demo`.

The one rule: it calls the stages as anyone would, with options that anyone could type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthgen import composite, depth, stats, verify
from depthgen.errors import StageError
from depthgen.prepare import crop, mask
from depthgen.sources import studio
from depthgen.stage import Summary
from depthgen.workers import default_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from depthgen.stage import Progress
    from depthgen.workspace import Workspace

ROOMS, THINGS, PLACEMENTS, SIZE = 48, 48, 1, 64


def make(
    workspace: Workspace, progress: Callable[[str, str], Progress], workers: int | None = None
) -> Iterator[Summary]:
    """Render, mask, crop, composite, label, count and check; yields each stage's summary.

    progress: gives a stage's callback for its name and unit. Raises what the stages raise, and
    `StageError` if the result does not verify.
    """
    count = default_workers() if workers is None else workers
    rendered = studio.RenderOptions(bg=ROOMS, fg=THINGS, size=2 * SIZE, workers=count)
    yield studio.run(workspace, rendered, progress("render", "pictures"))
    yield mask.run(workspace, mask.MaskOptions(workers=count), progress("mask", "pictures"))
    cropped = crop.CropOptions(size=SIZE, workers=count)
    yield crop.run(workspace, cropped, progress("crop", "pictures"))
    pasted = composite.CompositeOptions(placements=PLACEMENTS, workers=count)
    yield composite.run(workspace, pasted, progress("composite", "samples"))
    labelled = depth.DepthmapOptions(model="layered", workers=count)
    yield depth.run(workspace, labelled, progress("depthmap", "samples"))
    yield stats.run(workspace, stats.StatsOptions(workers=count), progress("stats", "pictures"))
    report = verify.run(
        workspace, verify.VerifyOptions(workers=count), progress("verify", "members")
    )
    if report.findings:
        raise StageError(f"the demo's archives are not sound: {report.findings[0]}")
    yield Summary("verify", report.counts)
