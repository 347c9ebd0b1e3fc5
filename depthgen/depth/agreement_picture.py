"""Two label archives side by side: the median sample, the worst ones, and all pixels as a cloud.

The one rule: both labels of a row are drawn on one scale, and all differences on another, so that
colours can be compared.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from depthgen.depth.agreement_sums import Comparison, Sums, read_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthgen.archive import Archive
    from depthgen.depth.agreement import Agreement

    Floats = NDArray[np.float64]

_DOTS_PER_INCH = 110


def draw(
    agreement: Agreement,
    archives: tuple[Archive, Archive],
    pairs: list[tuple[int, int]],
    comparison: Comparison,
    total: Sums,
) -> bytes:
    """A PNG: a row for the median and each of the worst samples, and the cloud below.

    pairs: the samples' indices in the two archives, the median first. Where labels have no unit,
    the first is drawn as fitted to the second.
    """
    drawn = [read_pair(archives, pair, comparison) for pair in pairs]
    scored = (agreement.median, *agreement.worst)
    figure = Figure(figsize=(8.4, 2.6 * len(pairs) + 4.2), layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.6 * len(pairs), 4.2])
    upper, lower = halves[:, 0]
    axes = upper.subplots(len(pairs), 3, squeeze=False)
    shown = [each.first if comparison.metric else each.fitted for each in drawn]
    reach = max(float(np.abs(a - b.second).max()) for a, b in zip(shown, drawn, strict=True)) or 1.0
    for row, a, each in zip(axes, shown, drawn, strict=True):
        _row(upper, row, a, each.second, reach, comparison.unit)
    for line, (row, sample) in enumerate(zip(axes, scored, strict=True)):
        row[0].set_ylabel(f"{'worst' if line else 'median'}, {sample.score:.3f}", fontsize=8)
        row[0].set_xlabel(sample.name.rpartition("/")[2], fontsize=7)
    fitted = "" if comparison.metric else ", fitted"
    titles = (f"{agreement.first.model}{fitted}", agreement.second.model, "difference")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    _cloud(lower, agreement, comparison, total)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return stream.getvalue()


def _row(figure: Any, axes: Any, a: Floats, b: Floats, reach: float, unit: str) -> None:
    """Two labels and their difference, which is drawn from −reach to reach."""
    low, high = float(min(a.min(), b.min())), float(max(a.max(), b.max()))
    for axis, label in zip(axes[:2], (a, b), strict=True):
        shown = axis.imshow(label, cmap="viridis_r", vmin=low, vmax=high)
    figure.colorbar(shown, ax=axes[:2], shrink=0.85, label=unit)
    shown = axes[2].imshow(a - b, cmap="RdBu", vmin=-reach, vmax=reach)
    figure.colorbar(shown, ax=axes[2:], shrink=0.85, label=unit)
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def _cloud(figure: Any, agreement: Agreement, comparison: Comparison, total: Sums) -> None:
    """How often which value of the first meets which of the second, on a scale of powers of ten."""
    axis = figure.subplots()
    counts = np.where(total.histogram > 0, np.log10(np.maximum(total.histogram, 1)), np.nan)
    top = comparison.top
    shown = axis.imshow(counts, origin="lower", extent=(0, top, 0, top), cmap="magma_r")
    axis.plot([0, top], [0, top], color="grey", linewidth=0.6)
    axis.set_xlabel(f"{agreement.second.model}, {comparison.unit}", fontsize=8)
    axis.set_ylabel(f"{agreement.first.model}, {comparison.unit}", fontsize=8)
    figure.colorbar(shown, ax=axis, label="pixels, log10")
