"""Write `docs/cli.md` from the commands' own `--help`.

    python docs/make_cli_reference.py

The one rule: the reference is never written by hand; a test compares it with what this makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import cli

TARGET = Path(__file__).with_name("cli.md")
_HEAD = "# All commands\n\nWritten by `make docs` from `depthgen COMMAND --help`.\n"


def reference() -> str:
    """The page: the group's help, then each command's, in the order of the chain."""
    group = cli.main
    settings: dict[str, Any] = {**group.context_settings, "terminal_width": 90}
    with click.Context(group, info_name="depthgen", **settings) as context:
        parts = [_HEAD, _section("depthgen", group.get_help(context))]
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            with click.Context(command, info_name=name, parent=context) as inner:
                parts.append(_section(f"depthgen {name}", command.get_help(inner)))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
