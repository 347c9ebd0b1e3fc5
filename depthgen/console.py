"""What the command line says to a person: results on standard output, progress beside it.

The one rule: it only prints; what there is to say is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from depthgen.stage import Progress, Summary
    from depthgen.workspace import Workspace


EXIT_NO, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

SEED = click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness.")
QUALITY = click.option(
    "--quality", type=int, default=90, show_default=True, help="Of the JPEG files."
)
WORKERS = click.option("--workers", type=int, help="Processes to use.  [default: all cores]")
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Delete what an earlier run made and start anew."
)
DEVICE = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps, …"
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass
class Session:
    """What the options of the group say, for every command."""

    root: Path = Path("data")
    quiet: bool = False
    debug: bool = False

    @property
    def workspace(self) -> Workspace:
        from depthgen.workspace import Workspace

        return Workspace(self.root)

    def say(self, text: str = "") -> None:
        if not self.quiet:
            click.echo(text)

    def progress(self, title: str, unit: str = "samples") -> Progress:
        from depthgen.progress import progress_bar

        return progress_bar(title, unit, self.quiet)

    def report(self, summary: Summary) -> None:
        """Print what a stage did: counts, findings, and where it lies."""
        counts = ", ".join(f"{name} {count:,}" for name, count in summary.counts.items())
        done = "done before" if summary.already_done else "done"
        self.say(f"{summary.stage}: {done} ({counts})")
        for note in summary.notes:
            self.say(f"  {note}")
        for path in summary.outputs:
            self.say(f"  {path}")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed; a stage has its own default for the others."""
    return {name: value for name, value in options.items() if value is not None}
