"""The command line as a person meets it: answers at once, exit codes, defaults."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import cli
from depthgen.console import Session
from tests.command_line import said
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Run


# --- answering at once ------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cli", "--help"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"numpy", "cv2", "PIL", "torch", "matplotlib", "pydantic", "yaml", "tqdm"}


@pytest.mark.parametrize("command", ["composite", "stats", "crop", "verify", "status"])
def test_stages_do_not_load_torch(command: str, tmp_path: Path) -> None:
    code = (
        "import sys, cli\n"
        f"sys.argv = ['depthgen', '-w', {str(tmp_path / 'W')!r}, '{command}']\n"
        "try: cli.entry()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"


# --- the line between click and the stages ------------------------------------------------------

OPTIONS = {
    "crawl": ("depthgen.sources.crawl", "CrawlOptions"),
    "render": ("depthgen.sources.studio", "RenderOptions"),
    "mask": ("depthgen.prepare.mask", "MaskOptions"),
    "crop": ("depthgen.prepare.crop", "CropOptions"),
    "composite": ("depthgen.composite", "CompositeOptions"),
    "depthmap": ("depthgen.depth", "DepthmapOptions"),
    "resize": ("depthgen.resize", "ResizeOptions"),
    "stats": ("depthgen.stats", "StatsOptions"),
    "verify": ("depthgen.verify", "VerifyOptions"),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_defaults_on_the_command_line_are_the_stages_own(command: str) -> None:
    module, name = OPTIONS[command]
    options = {
        field.name: field.default
        for field in dataclasses.fields(getattr(importlib.import_module(module), name))
    }
    parent = cli.main.make_context("depthgen", [command], resilient_parsing=True)
    each = cli.main.commands[command]
    context = each.make_context(command, [], parent=parent, resilient_parsing=True)
    for name, typed in context.params.items():
        if name in ("dry_run", "as_json"):
            continue
        assert name in options, name
        if typed is not None:  # None leaves it to the stage
            assert typed == options[name], name


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["composite", "--bg", "many"],
        ["composite", "--quality", "101"],
        ["composite", "--scale", "0.6", "0.5"],
        ["composite", "--nonsense"],
        ["crawl", "--source", "folder", "--kind", "fg"],
        ["crawl", "--kind", "fg", "--source", "nowhere"],
        ["crop", "--size", "3"],
        ["depthmap", "--model", "magic"],
        ["render", "--bg", "0", "--fg", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(
    arguments: list[str], depthgen: Callable[..., Run]
) -> None:
    result = depthgen(*arguments)
    assert result.returncode == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(depthgen: Callable[..., Run]) -> None:
    result = depthgen("--debug", "composite")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "StageError" in result.stderr


@pytest.mark.parametrize(
    ("command", "next_command"),
    [
        ("mask", "crawl --kind fg"),
        ("crop", "crawl --kind bg"),
        ("composite", "depthgen crop"),
        ("depthmap", "depthgen composite"),
        ("stats", "depthgen"),
        ("resize", "depthgen composite"),
    ],
)
def test_an_empty_workspace_says_what_to_type_first(
    command: str, next_command: str, depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    assert next_command in said(depthgen(command), 1)
    assert not list(tmp_path.glob("W/*.zip*"))


def test_status_and_doctor_speak_json(depthgen: Callable[..., Run]) -> None:
    assert json.loads(depthgen("status", "--json").stdout)
    findings = json.loads(depthgen("doctor", "--json").stdout)
    assert {"python", "numpy", "CPU", "for a TPU"} <= {finding["name"] for finding in findings}


def test_help_of_every_command_works() -> None:
    for name in cli.main.commands:
        result = CliRunner().invoke(cli.main, [name, "--help"], obj=Session())
        assert result.exit_code == 0
