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

from depthgen import __version__
from depthgen.console import Session, duration
from depthgen.errors import DepthgenError, OptionsError

EXIT_NO, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed; a stage has its own default for the others."""
    return {name: value for name, value in options.items() if value is not None}


WORKERS = click.option("--workers", type=int, help="Processes to use.  [default: all cores]")
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Delete what an earlier run made and start anew."
)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness.")
SIDE = click.option("--size", type=int, default=192, show_default=True, help="Side, in pixels.")
QUALITY = click.option(
    "--quality", type=int, default=90, show_default=True, help="Of the JPEG files."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _number_or_auto(_: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """A number above 0, or 0 for auto."""
    if value in (None, "auto"):
        return None
    if not value.isdecimal() or not int(value):
        raise click.BadParameter(f"{value!r} is neither auto nor a number above 0", param=option)
    return int(value)


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


@main.command()
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

    each = stage.options_for(kind, _given(options))
    for summary in stage.run_each(
        session.workspace, each, lambda kind: session.progress(f"crawl {kind}", "pictures")
    ):
        session.report(summary)


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

    given = stage.RenderOptions(**_given(options))
    session.report(stage.run(session.workspace, given, session.progress("render", "pictures")))


@main.command()
@WORKERS
@OVERWRITE
@click.pass_obj
def mask(session: Session, /, **options: Any) -> None:
    """Trim cut-outs to their alpha, and mask them.

    Writes fg.zip and fg_mask.zip: the mask is white where alpha is above 0.
    """
    from depthgen.prepare import mask as stage

    given = stage.MaskOptions(**_given(options))
    session.report(stage.run(session.workspace, given, session.progress("mask", "pictures")))


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

    given = stage.CropOptions(**_given(options))
    session.report(stage.run(session.workspace, given, session.progress("crop", "pictures")))


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

    given = stage.CompositeOptions(**_given(options))
    if dry_run:
        expected = stage.forecast(session.workspace, given)
        click.echo(
            f"{expected.samples:,} composites and as many masks, about "
            f"{expected.nbytes / 1e9:.2f} GB, in about {duration(max(1, expected.seconds))}"
        )
        return
    session.report(stage.run(session.workspace, given, session.progress("composite")))


@main.command()
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

    given = stage.DepthmapOptions(**_given(options))
    plan = stage.prepare(session.workspace, given, session.say)
    session.say(plan.text())
    if dry_run:
        expected = plan.forecast()
        click.echo(
            f"{expected.samples:,} labels in about {duration(max(1, expected.seconds))}, "
            f"{expected.samples / expected.seconds:,.1f} a second"
        )
        return
    session.report(stage.run(session.workspace, given, session.progress("depthmap"), plan))


@main.command("depth-agreement")
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

    given = stage.AgreementOptions(**_given(options))
    masks = masks or session.workspace.archive("fg_bg_mask")
    found = stage.run(first, second, masks, given, session.progress("depth-agreement"))
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.table())
    if given.picture is not None:
        session.say(f"  {given.picture}")


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

    given = stage.ResizeOptions(**_given(options))
    session.report(stage.run(session.workspace, given, session.progress("resize", "members")))


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

    given = stage.StatsOptions(**_given(options))
    summary = stage.run(session.workspace, given, session.progress("stats", "pictures"))
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

    given = stage.VerifyOptions(**_given(options))
    report = stage.run(session.workspace, given, session.progress("verify", "members"))
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
