"""The commands with the most to say: where pictures come from, and who labels them.

They are entered in the group by `cli.py`. The one rule: a command parses, calls its stage and
prints; nothing heavy is imported before it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from depthgen.console import AS_JSON, OVERWRITE, WORKERS, Session, duration, given


@click.command()
@click.option(
    "--source",
    default="bing",
    show_default=True,
    help="bing, google, baidu or flickr; urls, a list of them; or folder.",
)
@click.option(
    "--kind",
    type=click.Choice(["fg", "bg", "both"]),
    help="Cut-outs, backgrounds or both.  [default: both, of a search]",
)
@click.option(
    "--keyword",
    "keywords",
    multiple=True,
    help="What to search for; may be repeated.  [default: people, animals, … and interiors]",
)
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path),
    help="The folder, or the list: txt, csv, tsv, jsonl or parquet.",
)
@click.option("--url-column", help="Of the list.  [default: url]")
@click.option("--depth", "depth_origin", type=click.Path(path_type=Path), help="Their depth maps.")
@click.option(
    "--count", type=int, help="How many to have.  [default: 100 of a search; else all there are]"
)
@click.option("--license", help="Of a search: creativecommons, publicdomain, commercial, …")
@click.option(
    "--min-size",
    type=int,
    help="Refuse pictures with a side below this many pixels.  [default: 32]",
)
@click.option("--max-bytes", type=int, help="Refuse larger files.  [default: 32 MiB from the web]")
@click.option("--dedupe", is_flag=True, help="Refuse duplicates from a folder, too.")
@click.option("--deadline", "deadline_s", type=float, help="Seconds.  [default: 1800 of a search]")
@click.option("--timeout", "timeout_s", type=float, help="Seconds a picture.  [default: 10]")
@click.option("--retries", type=int, help="After a failure that may pass.  [default: 2]")
@click.option(
    "--per-host-delay",
    "per_host_delay_s",
    type=float,
    help="Seconds between requests to a host.  [default: 0.2 of a search; else 0]",
)
@click.option("--threads", type=int, help="Downloads at a time.  [default: 16]")
@click.option("--flickr-key", envvar="FLICKR_API_KEY", show_envvar=True, help="For Flickr.")
@click.option("--allow-private", is_flag=True, help="Connect to private addresses, too.")
@click.option("--ignore-opt-out", is_flag=True, help="Take what X-Robots-Tag asks not to take.")
@click.pass_obj
def crawl(session: Session, /, kind: str | None, **options: Any) -> None:
    """Take pictures in: screened, numbered, with their provenance.

    Without options it searches Bing for 100 cut-outs and 100 backgrounds. What was kept or refused
    before is not downloaded again; what failed is tried again.
    """
    from depthgen.sources import crawl as stage

    each = stage.options_for(kind, given(options))
    for summary in stage.run_each(
        session.workspace, each, lambda kind: session.progress(f"crawl {kind}", "pictures")
    ):
        session.report(summary)


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
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps, …")
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
    if asked.picture is not None:
        session.say(f"  {asked.picture}")
