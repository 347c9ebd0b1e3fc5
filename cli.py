"""The command `depthgen`: the only place that knows both wings of the house.

It parses, calls and prints; every command is a thin call of a stage's `run`. The one rule: nothing
heavy is imported before a command needs it, so that `depthgen --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from depthgen import __version__, commands
from depthgen.console import EXIT_INTERRUPTED, EXIT_NO, EXIT_USAGE, WORKERS, Session
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
