"""The figures of a `Bench` as a table and as a plot.

The one rule: a figure never stands without what it was measured on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vathos.bench.result import OUT_OF_MEMORY
from vathos.bench.timeline import KINDS
from vathos.errors import CheckpointError, UsageError
from vathos.report import markdown
from vathos.trainer.checkpoint import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from vathos.bench.result import Bench, Row
    from vathos.bench.roof import Roof

__all__ = ["bench_report", "draw"]

HEADER = ("network", "batch", "samples/s", "ms/sample", *KINDS)
RATES = ("GFLOP/s", "GB/s", "of roof", "memory")
COLOURS = {"data": "tab:orange", "model": "tab:blue", "rest": "tab:gray"}


def bench_report(found: Bench) -> str:
    """The table, the sentences of what did not run, and what all of it was measured on."""
    rows = [_cells(row, found.roof) for row in found.rows]
    problems = [
        f"{row.network}, {row.batch_size}: {row.problem}."
        for row in found.rows
        if row.problem is not None
    ]
    blocks = [markdown((*HEADER, *RATES), rows), _about(found)]
    if problems:
        blocks.insert(1, "\n".join(problems))
    if found.doubles:
        largest = ", ".join(f"{name} {size}" for name, size in found.largest().items())
        blocks.append(f"Largest batch that fits: {largest or 'none'}.")
    return "\n\n".join(blocks)


def draw(found: Bench, path: Path) -> None:
    """Write a PNG: rate and time of a sample by batch size, and where the time goes.

    Raises `UsageError` if it cannot be written.
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    rates, shares = figure.subplots(1, 2)
    done = [row for row in found.rows if row.problem is None]
    _draw_rates(rates, done)
    _draw_shares(shares, done)
    figure.suptitle(f"{found.device}, {found.precision}, {_size(found)}", fontsize=10)
    try:
        write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=120))
    except CheckpointError as error:
        raise UsageError(f"{path} cannot be written; name another place with -o") from error


def _cells(row: Row, roof: Roof) -> tuple[str, ...]:
    about = (row.network, str(row.batch_size))
    if row.problem is not None:
        nothing = [""] * (len(HEADER) + len(RATES) - len(about) - 1)
        short = OUT_OF_MEMORY if row.problem.startswith(OUT_OF_MEMORY) else "failed"
        return (*about, short, *nothing)
    memory = "–" if row.memory is None else f"{row.memory / 1e9:.2f} GB"
    return (
        *about,
        f"{row.samples_per_s:,.1f}",
        f"{1000 / row.samples_per_s:,.2f}",
        *(f"{share:.1%}" for share in row.shares.values()),
        f"{row.flop_per_s / 1e9:,.0f}",
        f"{row.bytes_per_s / 1e9:,.1f}",
        f"{row.of_roof(roof):.0%}",
        memory,
    )


def _about(found: Bench) -> str:
    roof = found.roof
    data = "drawn pictures, so nothing was read or decoded" if found.drawn else "the archives"
    return (
        f"{found.device}, {found.precision}, {_size(found)}, {data}; median of the steps. Roof: "
        f"{roof.flop_per_s / 1e9:,.0f} GFLOP/s, {roof.bytes_per_s / 1e9:,.1f} GB/s."
    )


def _size(found: Bench) -> str:
    return f"{found.size[1]} × {found.size[0]} px"


def _draw_rates(axes: Any, rows: list[Row]) -> None:
    """samples/s drawn through on the left scale, ms/sample dashed on the right one."""
    times = axes.twinx()
    for number, name in enumerate(dict.fromkeys(row.network for row in rows)):
        mine = sorted((row for row in rows if row.network == name), key=lambda row: row.batch_size)
        at = [row.batch_size for row in mine]
        rates = [row.samples_per_s for row in mine]
        colour = f"C{number}"
        axes.plot(at, rates, "o-", color=colour, label=name)
        times.plot(at, [1000 / rate for rate in rates], "x--", color=colour, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes := sorted({row.batch_size for row in rows}), map(str, sizes))
    axes.minorticks_off()
    axes.set_xlabel("batch size")
    axes.set_ylabel("samples/s (—)")
    times.set_ylabel("ms/sample (- -)")
    axes.set_ylim(bottom=0)
    times.set_ylim(bottom=0)
    if rows:
        axes.legend()


def _draw_shares(axes: Any, rows: list[Row]) -> None:
    names = [f"{row.network}\n{row.batch_size}" for row in rows]
    places = range(len(rows))
    below = [0.0] * len(rows)
    for kind in reversed(KINDS):
        values = [row.shares[kind] for row in rows]
        axes.bar(places, values, bottom=below, color=COLOURS[kind], label=kind)
        below = [low + value for low, value in zip(below, values, strict=True)]
    axes.set_xticks(places, names, fontsize=8)
    axes.set_ylabel("share of the time")
    axes.set_ylim(0, 1)
    if rows:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
