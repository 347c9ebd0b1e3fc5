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
from depthgen.console import (
    AS_JSON,
    DEVICE,
    EXIT_INTERRUPTED,
    EXIT_NO,
    EXIT_USAGE,
    WORKERS,
    Session,
)
from depthgen.errors import DepthgenError, OptionsError


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


for _command in commands.CHAIN:
    main.add_command(_command)


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--fresh", is_flag=True, help="Throw away what the run of this name has so far.")
@click.pass_obj
def train(session: Session, /, config: Path, overrides: tuple[str, ...], fresh: bool) -> None:
    """Train a network as CONFIG says.

    KEY=VALUE, such as training.epochs=3, overrides the file. A run that was stopped goes on.
    """
    _need("train")
    from depthgen.progress import training_bar
    from vathos.report import result_table
    from vathos.runner import Runner
    from vathos.trainer import joined
    from vathos.utils.config import read_config

    with training_bar(session.quiet) as on_progress, joined() as processes:
        if processes.writes and not session.quiet:
            logging.getLogger("vathos").setLevel(logging.INFO)  # what `auto` has chosen
        settings = read_config(config, overrides, default_root=session.root.resolve())
        runner = Runner(settings, on_progress, fresh)
        metrics = runner.start_train()

    if processes.writes:
        click.echo(result_table(runner, metrics))
        session.say(f"  {runner.run_folder}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Of the run.  [default: config.yaml beside CHECKPOINT]",
)
@click.option(
    "--zip-dir",
    type=click.Path(path_type=Path),
    help="Where the archives are now.  [default: -w if given, else where they were]",
)
@click.option("--samples", type=int, default=256, show_default=True, help="At most, of each part.")
@click.option(
    "--batch-size", type=int, default=16, show_default=True, help="Samples a forward pass."
)
@DEVICE
@click.option(
    "--perturbed",
    is_flag=True,
    help="Also with brightness, noise and JPEG quality of bg and fg_bg each its own.",
)
@AS_JSON
@click.pass_context
def evaluate(
    context: click.Context, /, checkpoint: Path, zip_dir: Path | None, as_json: bool, **options: Any
) -> None:
    """Score a trained network beside the baselines.

    CHECKPOINT is a file, or the folder of a run. By part of its run's split: samples that it was
    trained on, and those with backgrounds, cut-outs or both that it never saw; depth also by
    region: cut-out, border (±3 px) and rest.
    """
    _need("evaluate")
    from vathos.evaluate import EvaluateOptions
    from vathos.evaluate import evaluate as stage
    from vathos.report import evaluation_report

    session: Session = context.obj
    if zip_dir is None and _workspace_was(context, ParameterSource.COMMANDLINE):
        zip_dir = session.root
    asked = EvaluateOptions(zip_dir=zip_dir, **options)
    found = stage(checkpoint, asked, session.progress("evaluate"))
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else evaluation_report(found))


@main.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--batch-sizes",
    default="16,32,64,128,256",
    show_default=True,
    metavar="N,N,…|max",
    help="max doubles from 16 until one does not fit.",
)
@click.option("--models", metavar="NAME,NAME,…", help="[default: the configuration's]")
@click.option(
    "--size",
    type=int,
    help="Side in pixels.  [default: dataset.size, else that of the archives, else 96]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "GPU", "CPU"], case_sensitive=False),
    help="[default: the configuration's]",
)
@click.option("--steps", type=int, default=20, show_default=True, help="To time, each.")
@click.option(
    "--drawn", is_flag=True, default=None, help="On pictures drawn at random, not the archives."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="bench.png",
    show_default=True,
    help="The plot.",
)
@AS_JSON
@click.pass_context
def bench(
    context: click.Context,
    /,
    config: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Time training on this machine, by batch size.

    In the settings of CONFIG, or with all defaults: samples a second, the shares of data, model and
    rest, FLOP and bytes a second against what the device reaches at best, memory. Without CONFIG
    and archives, on pictures drawn at random. Ctrl-C shows what there is.
    """
    _need("bench")
    from vathos import bench as stage
    from vathos.utils.config import parse_config, read_config

    session: Session = context.obj
    root = session.root.resolve()
    if config is None:
        settings = parse_config({"dataset": {"root": str(root)}})
    else:
        settings = read_config(config, overrides, default_root=root)
        options["drawn"] = bool(options["drawn"])  # what it names must be there
    options["batch_sizes"] = stage.read_batch_sizes(options["batch_sizes"])
    options["models"] = stage.read_models(options["models"])
    asked = stage.BenchOptions(**options)
    found = stage.bench(settings, asked, session.progress("bench", "steps"))
    # First what took long: the plot may meet a full disk.
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else stage.bench_report(found))
    stage.draw(found, out)
    if not as_json:
        session.say(f"  {out}")
    if found.interrupted:
        click.echo("Stopped; this is what had been measured.", err=True)
        context.exit(EXIT_INTERRUPTED)


def _size(_: click.Context, option: click.Parameter, value: str | None) -> int | str | None:
    """A number above 0, or full."""
    if value is None or value == "full":
        return value
    if not value.isdecimal() or not int(value):
        raise click.BadParameter(f"{value!r} is neither full nor a number above 0", param=option)
    return int(value)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--bg",
    required=True,
    type=click.Path(path_type=Path),
    help="The scene alone: a picture or a folder.",
)
@click.option(
    "--fg-bg",
    required=True,
    type=click.Path(path_type=Path),
    help="The same with something in it: a picture or a folder.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder to write to.",
)
@click.option(
    "--size",
    callback=_size,
    metavar="N|full",
    help="The shorter side that the network sees.  [default: that of its training]",
)
@DEVICE
@click.pass_obj
def predict(
    session: Session, /, checkpoint: Path, bg: Path, fg_bg: Path, out: Path, size: Any, device: str
) -> None:
    """Find what is new in pictures, and how far everything is.

    CHECKPOINT is a file, or the folder of a run. Writes NAME_mask.png, NAME_depth.png (16 bits) and
    NAME_overlay.png of each pair. Folders are paired by name; one background may serve a folder.
    """
    _need("predict")
    from vathos.predict import Left, Predictor, find_pairs, predict_pairs

    found = find_pairs(bg, fg_bg)
    predictor = Predictor.load(checkpoint, device)
    reasons = []
    for each in predict_pairs(predictor, found.pairs, out, size):
        if isinstance(each, Left):
            reasons.append(each.reason)
        else:
            session.say(f"  {each.text(predictor.network.metres)}")
    session.say(f"depth: value / 65535 = label; {predictor.network.meaning()}")
    for sentence in found.left_out:
        click.echo(f"Left out: {sentence}", err=True)
    for reason in reasons:
        click.echo(f"Error: {reason}", err=True)
    if reasons:
        click.get_current_context().exit(EXIT_NO)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", required=True, type=click.Choice(["onnx", "pt2"]), help="What to write."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The file.  [default: beside CHECKPOINT]"
)
@click.pass_obj
def export(session: Session, /, checkpoint: Path, kind: str, out: Path | None) -> None:
    """Write a network for use without this program.

    CHECKPOINT is a file, or the folder of a run. Inputs bg and fg_bg, (N, 3, H, W) in [0, 1];
    outputs mask and depth, (N, 1, H, W) in [0, 1]. N, H and W are free; H and W are multiples of
    16, from 32. What was written is run and compared.
    """
    _need("export")
    from vathos.export import export as stage

    done = stage(checkpoint, kind, out)  # type: ignore[arg-type] # click has checked it
    session.say(
        f"{done.path}, {done.nbytes / 1e6:.1f} MB: gives what the network gives, but for "
        f"{done.difference:.1e} at most"
    )


@main.command()
@WORKERS
@click.pass_context
def demo(context: click.Context, workers: int | None) -> None:
    """Run the whole chain, small and offline.

    In the folder `demo`, or in the workspace given with -w.
    """
    _need("demo")
    from depthgen import demo as data
    from depthgen.progress import training_bar
    from vathos import demo as network

    session: Session = context.obj
    if _workspace_was(context, ParameterSource.DEFAULT):
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
    click.echo(f"  depthgen evaluate {result.checkpoint}")
    click.echo(f"  depthgen train {result.config} name=longer training.steps=2000")


def _workspace_was(context: click.Context, source: ParameterSource) -> bool:
    assert context.parent is not None
    return context.parent.get_parameter_source("workspace") is source


def _need(what: str) -> None:
    """Raise `DepthgenError` where the libraries of the extra [train] are not installed."""
    from depthgen.depth.extras import require

    require(what, "train", "torch", "kornia", "tensorboard")


def entry() -> None:
    """What the installed command calls: run, and turn errors into one sentence and an exit code."""
    session = Session()
    # A polite kill ends like Ctrl-C: locks are let go and partial archives closed.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    sys.exit(_run(session))


def _run(session: Session) -> int:
    try:
        # A command returns nothing; an exit code comes from `Context.exit`.
        code = main.main(prog_name="depthgen", standalone_mode=False, obj=session)
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
    return code or 0


def _exit_code(error: Exception) -> int | None:
    """2 for a wrong command line, 1 for what a person can mend, None for a bug."""
    from vathos.errors import UsageError, VathosError

    if isinstance(error, OptionsError | UsageError):
        return EXIT_USAGE
    return EXIT_NO if isinstance(error, DepthgenError | VathosError) else None


if __name__ == "__main__":
    entry()
