"""`depthmap` and `depth-agreement`: who labels the composites, and how well.

The one rule: what the numbers of a label are is said wherever they are shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from depthgen.console import AS_JSON, DEVICE, OVERWRITE, WORKERS, Session, duration, given


def _number_or_auto(_: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """A number above 0, or 0 for auto."""
    if value in (None, "auto"):
        return None
    if not value.isdecimal() or not int(value):
        raise click.BadParameter(f"{value!r} is neither auto nor a number above 0", param=option)
    return int(value)


@click.command()
@click.option(
    "--model",
    default="auto",
    show_default=True,
    help="layered, densedepth, keras, onnx, depth-anything-v2-small, …, a hub id or a folder.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="The network's file or folder.")
@click.option("--bg-model", help="With layered: the network that knows the backgrounds' depth.")
@click.option("--batch", type=int, default=1000, show_default=True, help="Samples a commit.")
@click.option(
    "--forward-batch", callback=_number_or_auto, help="Samples a forward pass.  [default: auto]"
)
@DEVICE
@click.option(
    "--precision", default="auto", show_default=True, help="float32, bf16, fp16; of a network."
)
@click.option("--bits", type=int, default=8, show_default=True, help="Of a label: 8, 16 or 32.")
@click.option("--quantity", help="What a Keras or ONNX file gives, where it does not say.")
@click.option("--input-size", type=(int, int), metavar="H W", help="Of its input, likewise.")
@click.option("--dry-run", is_flag=True, help="Time a few batches, print the forecast, and stop.")
@WORKERS
@OVERWRITE
@click.pass_obj
def depthmap(session: Session, /, dry_run: bool, **options: Any) -> None:
    """Label every composite with depth.

    Writes depth_fg_bg.zip. `auto` is layered if the backgrounds have depth: each cut-out as an
    upright plane in it, without a network. Else it is DenseDepth, if its weights are found, else
    Depth Anything V2 Small.
    """
    from depthgen import depth as stage

    asked = stage.DepthmapOptions(**given(options))
    plan = stage.prepare(session.workspace, asked, session.say)
    session.say(plan.text())
    if dry_run:
        expected = plan.forecast()
        click.echo(
            f"{expected.samples:,} labels in about {duration(max(1, expected.seconds))}, "
            f"{expected.samples / expected.seconds:,.1f} a second"
        )
        return
    session.report(stage.run(session.workspace, asked, session.progress("depthmap"), plan))


@click.command("depth-agreement")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--masks", type=click.Path(path_type=Path), help="[default: the workspace's fg_bg_mask.zip]"
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the comparison here.")
@click.option("--worst", type=int, help="Samples to draw that agree least.  [default: 3]")
@WORKERS
@AS_JSON
@click.pass_obj
def depth_agreement(
    session: Session,
    /,
    first: Path,
    second: Path,
    masks: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare two label archives.

    SECOND is taken for the truth. Errors and shares for cut-outs, their borders and the rest.
    """
    from depthgen.depth import agreement as stage

    asked = stage.AgreementOptions(**given(options))
    masks = masks or session.workspace.archive("fg_bg_mask")
    found = stage.run(first, second, masks, asked, session.progress("depth-agreement"))
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.table())
    if asked.picture is not None and not as_json:
        session.say(f"  {asked.picture}")
