"""`resize`, `stats`, `verify`, `status` and `doctor`: what there is, and whether it is sound.

The one rule: but for `resize`, nothing here changes an archive.
"""

from __future__ import annotations

import json
from typing import Any

import click

from depthgen.console import AS_JSON, EXIT_NO, OVERWRITE, WORKERS, Session, given


@click.command()
@click.option("--size", type=int, default=96, show_default=True, help="Side, in pixels.")
@click.option("--suffix", default="small", show_default=True, help="fg_bg.zip → fg_bg_small.zip.")
@click.option("--quality", type=int, help="Of the JPEG files.  [default: as they were]")
@WORKERS
@OVERWRITE
@click.pass_obj
def resize(session: Session, /, **options: Any) -> None:
    """Write the archives again at another size.

    Pictures and depth are area-averaged, member names stay.
    """
    from depthgen import resize as stage

    asked = stage.ResizeOptions(**given(options))
    session.report(stage.run(session.workspace, asked, session.progress("resize", "members")))


@click.command()
@click.option("--suffix", help="Of resized archives instead of the full-size ones, such as small.")
@WORKERS
@AS_JSON
@click.pass_obj
def stats(session: Session, /, as_json: bool, **options: Any) -> None:
    """Compute mean and std of every archive.

    Prints a table, writes stats.json and a histogram. `std` is pooled over all pixels; `std of
    images` is the mean of each picture's own std.
    """
    from depthgen import stats as stage

    asked = stage.StatsOptions(**given(options))
    summary = stage.run(session.workspace, asked, session.progress("stats", "pictures"))
    if as_json:
        click.echo(session.workspace.stats.read_text("utf-8"))
        return
    click.echo(stage.table(session.workspace))
    for path in summary.outputs:
        session.say(f"  {path}")


@click.command()
@WORKERS
@AS_JSON
@click.pass_obj
def verify(session: Session, /, as_json: bool, **options: Any) -> None:
    """Check every member, and name what is wrong.

    Checksums, counts, pairings, and that every picture decodes.
    """
    from depthgen import verify as stage

    asked = stage.VerifyOptions(**given(options))
    report = stage.run(session.workspace, asked, session.progress("verify", "members"))
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else report.text())
    if report.findings:
        click.get_current_context().exit(EXIT_NO)


@click.command()
@click.option("--trace", "what", help="Say where a picture comes from: fg_012, or a sample.")
@AS_JSON
@click.pass_obj
def status(session: Session, /, what: str | None, as_json: bool) -> None:
    """Say what is done, and what to type next."""
    if what is not None:
        from depthgen.trace import trace

        traces = trace(session.workspace, what)
        as_text = "\n".join(each.text() for each in traces)
        click.echo(
            json.dumps([each.to_json() for each in traces], indent=2) if as_json else as_text
        )
        return
    from depthgen import status as stage

    report = stage.status(session.workspace)
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else report.text())


@click.command()
@AS_JSON
def doctor(as_json: bool) -> None:
    """Say what this machine has, and what to install."""
    from depthgen.doctor import examine

    report = examine()
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else report.text())
