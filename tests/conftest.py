"""What the tests of both wings share."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cli
from depthgen.console import Session

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
Run = subprocess.CompletedProcess[str]


def pytest_configure() -> None:
    with suppress(ImportError):  # what tests the TPU's trainer is installed without it
        from hypothesis import settings

        # Its 200 ms an example are wall-clock time, which a busy machine takes for anything.
        settings.register_profile("any machine", deadline=None)
        settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works() -> None:
    """A shell starts background jobs with SIGINT ignored, and every child would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def depthgen(tmp_path: Path) -> Callable[..., Run]:
    """Type a `depthgen` command in a process of its own, in the workspace `tmp_path / "W"`."""

    def run(*arguments: str | Path, before: str = "") -> Run:
        code = f"import sys\n{before}\nimport cli\nsys.argv[0] = 'depthgen'\ncli.entry()\n"
        command = [sys.executable, "-c", code, "-w", str(tmp_path / "W"), *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    return run


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Run]:
    """Type a command as in a shell in the test's folder, but in this process, where what it needs
    is loaded once."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Run:
        capsys.readouterr()
        logging.getLogger("vathos").setLevel(logging.NOTSET)  # as in a process of its own
        command = ["depthgen", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        code = cli._run(Session())
        return subprocess.CompletedProcess(command, code, *capsys.readouterr())

    return run
