"""`crawl` and `render`: where pictures come from.

The one rule: what was taken in or made before is not taken in or made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from depthgen.console import SEED, WORKERS, Session, given


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


@click.command()
@click.option("--bg", type=int, default=100, show_default=True, help="Rooms, with exact depth.")
@click.option("--fg", type=int, default=100, show_default=True, help="Cut-outs, with alpha.")
@click.option("--size", type=int, default=192, show_default=True, help="Longest side, in pixels.")
@SEED
@WORKERS
@click.pass_obj
def render(session: Session, /, **options: Any) -> None:
    """Ray-cast furnished rooms, and things to put in.

    Rooms come with their exact depth; what was rendered before is not rendered again.
    """
    from depthgen.sources import studio as stage

    asked = stage.RenderOptions(**given(options))
    session.report(stage.run(session.workspace, asked, session.progress("render", "pictures")))
