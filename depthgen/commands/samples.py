"""`mask`, `crop`, `prepare` and `composite`: from pictures to samples.

The one rule: what these write is decided by their options and the workspace alone.
"""

from __future__ import annotations

from typing import Any

import click

from depthgen.console import OVERWRITE, QUALITY, SEED, WORKERS, Session, duration, given

SIDE = click.option("--size", type=int, default=192, show_default=True, help="Side, in pixels.")


@click.command()
@WORKERS
@OVERWRITE
@click.pass_obj
def mask(session: Session, /, **options: Any) -> None:
    """Trim cut-outs to their alpha, and mask them.

    Writes fg.zip and fg_mask.zip: the mask is white where alpha is above 0.
    """
    from depthgen.prepare import mask as stage

    asked = stage.MaskOptions(**given(options))
    session.report(stage.run(session.workspace, asked, session.progress("mask", "pictures")))


@click.command()
@SIDE
@QUALITY
@WORKERS
@OVERWRITE
@click.pass_obj
def crop(session: Session, /, **options: Any) -> None:
    """Cut the centre square out of each background.

    Writes bg.zip, and bg_depth.zip if every background came with depth.
    """
    from depthgen.prepare import crop as stage

    asked = stage.CropOptions(**given(options))
    session.report(stage.run(session.workspace, asked, session.progress("crop", "pictures")))


@click.command()
@SIDE
@QUALITY
@WORKERS
@OVERWRITE
@click.pass_context
def prepare(
    context: click.Context, size: int, quality: int, workers: int | None, overwrite: bool
) -> None:
    """Do mask and crop, one after the other."""
    context.invoke(mask, workers=workers, overwrite=overwrite)
    context.invoke(crop, size=size, quality=quality, workers=workers, overwrite=overwrite)


@click.command()
@click.option("--bg", type=int, help="Backgrounds to use.  [default: all]")
@click.option("--fg", type=int, help="Cut-outs to use.  [default: all]")
@click.option(
    "--placements", type=int, default=20, show_default=True, help="Of each pair and flip."
)
@click.option("--flip/--no-flip", default=True, show_default=True, help="Mirror each cut-out too.")
@click.option(
    "--scale",
    type=(float, float),
    default=(0.25, 0.55),
    show_default=True,
    metavar="LO HI",
    help="Longest side of a cut-out, as a fraction of the background's.",
)
@QUALITY
@click.option("--mask-format", type=click.Choice(["png", "jpg"]), default="png", show_default=True)
@SEED
@WORKERS
@click.option("--shards", type=int, default=1, show_default=True, help="Files to split into.")
@click.option("--dry-run", is_flag=True, help="Print count, bytes and time to expect, and stop.")
@OVERWRITE
@click.pass_obj
def composite(session: Session, /, dry_run: bool, **options: Any) -> None:
    """Paste every cut-out onto every background.

    Writes fg_bg.zip and fg_bg_mask.zip, in step.
    """
    from depthgen import composite as stage

    asked = stage.CompositeOptions(**given(options))
    if dry_run:
        expected = stage.forecast(session.workspace, asked)
        click.echo(
            f"{expected.samples:,} composites and as many masks, about "
            f"{expected.nbytes / 1e9:.2f} GB, in about {duration(max(1, expected.seconds))}"
        )
        return
    session.report(stage.run(session.workspace, asked, session.progress("composite")))
