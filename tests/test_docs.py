"""The documentation says what the code does."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_command_reference_is_what_make_docs_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEPTHGEN_WORKSPACE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    made = runpy.run_path(str(ROOT / "docs" / "make_cli_reference.py"))["reference"]()
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == made


@pytest.mark.parametrize("command", list(cli.main.commands))
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"`{command}`" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_the_documentation_exists(page: Path) -> None:
    known = {
        option
        for command in (cli.main, *cli.main.commands.values())
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "--logdir"}
    text = page.read_text("utf-8")
    if "torchrun" in text:
        launcher = pytest.importorskip("torch.distributed.run").get_args_parser()
        known |= {option for action in launcher._actions for option in action.option_strings}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert used <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_import_in_the_documentation_works(page: Path) -> None:
    pytest.importorskip("torch")
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
        imports = [line for line in block.splitlines() if re.match(r"(from|import) ", line)]
        exec("\n".join(imports), {})
    assert "depthgen" in sys.modules


@pytest.mark.slow
def test_the_examples_of_a_trained_network_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in ("torch", "onnxruntime", "onnxscript"):
        pytest.importorskip(library)
    from tests.vathos.checkpoints import save_run
    from tests.vathos.conftest import TinySet
    from tests.vathos.trainings import name_networks

    name_networks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "W").mkdir()
    save_run(TinySet(tmp_path / "W").write().folder, tmp_path / "runs" / "x")
    for seed, name in enumerate(("room.jpg", "room_with_cat.jpg")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    python = (ROOT / "docs" / "python.md").read_text("utf-8").partition("## Predicting")[2]
    using = (ROOT / "docs" / "using.md").read_text("utf-8")
    for page in (python, using):
        for block in re.findall(r"```python\n(.*?)```", page, re.S):
            exec(block, {})
    assert "metres = 10 × label" in capsys.readouterr().out
    assert (tmp_path / "net.onnx").exists()
