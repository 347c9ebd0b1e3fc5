"""The command `depthgen`: the only place that knows both wings of the house.

It parses, calls and prints; every command is a thin call of a stage's `run`. The one rule: nothing
heavy is imported before a command needs it, so that `depthgen --help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from depthgen import __version__, commands
from depthgen.console import AS_JSON, OVERWRITE, WORKERS, Session, duration, given
from depthgen.errors import DepthgenError, OptionsError

EXIT_NO, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


SEED = click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness.")
SIDE = click.option("--size", type=int, default=192, show_default=True, help="Side, in pixels.")
QUALITY = click.option(
    "--quality", type=int, default=90, show_default=True, help="Of the JPEG files."
)


class _Chain(click.Group):
    """Lists the commands in the order of the chain."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Chain, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version", prog_name="depthgen")
@click.option(
    "-w",
    "--workspace",
    type=click.Path(file_okay=False, path_type=Path),
    default="data",
    show_default=True,
    envvar="DEPTHGEN_WORKSPACE",
    show_envvar=True,
    help="The folder that everything is read from and written to.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_obj
def main(session: Session, /, workspace: Path, quiet: bool, debug: bool) -> None:
    """Composited image data sets with masks and depth, and the network trained on them.

    The chain: crawl (or render) → mask and crop → composite → depthmap → stats → train. Every
    command can be stopped at any moment and typed again to go on.
    """
    session.root, session.quiet, session.debug = workspace, quiet, debug
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # strange servers are counted, not told


main.add_command(commands.crawl)


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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


main.add_command(commands.depthmap)
main.add_command(commands.depth_agreement)


@main.command()
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


@main.command()
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


@main.command()
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
        sys.exit(EXIT_NO)


@main.command()
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


@main.command()
@AS_JSON
def doctor(as_json: bool) -> None:
    """Say what this machine has, and what to install."""
    from depthgen.doctor import examine

    report = examine()
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else report.text())


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--fresh", is_flag=True, help="Throw away what the run of this name has so far.")
@click.pass_obj
def train(session: Session, /, config: Path, overrides: tuple[str, ...], fresh: bool) -> None:
    """Train a network as CONFIG says.

    KEY=VALUE, such as training.epochs=3, overrides the file. A run that was stopped goes on.
    """
    _needs_torch()
    from depthgen.progress import training_bar
    from vathos.report import result_table
    from vathos.runner import Runner
    from vathos.utils.config import read_config

    with training_bar(session.quiet) as on_progress:
        settings = read_config(config, overrides, default_root=session.root.resolve())
        runner = Runner(settings, on_progress, fresh)
        metrics = runner.start_train()

    click.echo(result_table(runner, metrics))
    session.say(f"  {runner.run_folder}")


@main.command()
@WORKERS
@click.pass_context
def demo(context: click.Context, workers: int | None) -> None:
    """Run the whole chain, small and offline.

    In the folder `demo`, or in the workspace given with -w.
    """
    _needs_torch()
    from depthgen import demo as data
    from depthgen.progress import training_bar
    from vathos import demo as network

    session: Session = context.obj
    assert context.parent is not None
    if context.parent.get_parameter_source("workspace") is ParameterSource.DEFAULT:
        session.root = Path("demo")
    for summary in data.make(session.workspace, session.progress, workers):
        session.report(summary)
    with training_bar(session.quiet) as on_progress:
        result = network.train(session.root, on_progress)
    click.echo(result.table)
    click.echo("Look at these:")
    for path in (result.grid, result.summary):
        click.echo(f"  {path}")
    click.echo("Go on with:")
    click.echo(f"  depthgen train {result.config} name=longer training.steps=2000")


def _needs_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise DepthgenError(
            "training needs PyTorch, which is not installed; type "
            "`pip install 'depthgen-vathos[train]'`"
        )


def entry() -> None:
    """What the installed command calls: run, and turn errors into one sentence and an exit code."""
    session = Session()
    # A polite kill ends like Ctrl-C: locks are let go and partial archives closed.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    sys.exit(_run(session))


def _run(session: Session) -> int:
    try:
        main.main(prog_name="depthgen", standalone_mode=False, obj=session)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped. Type the same command again to go on.", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `depthgen status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO
    except Exception as error:
        code = _exit_code(error)
        if session.debug or code is None:
            raise
        click.echo(f"Error: {error}", err=True)
        return code
    return 0


def _exit_code(error: Exception) -> int | None:
    """2 for a wrong command line, 1 for what a person can mend, None for a bug."""
    from vathos.errors import UsageError, VathosError

    if isinstance(error, OptionsError | UsageError):
        return EXIT_USAGE
    return EXIT_NO if isinstance(error, DepthgenError | VathosError) else None


if __name__ == "__main__":
    entry()
