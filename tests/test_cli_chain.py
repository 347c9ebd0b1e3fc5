"""The whole chain from the command line: going through, stopping and going on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.command_line import cutout, fill, prepared, room
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Run


def test_the_chain_from_a_folder_to_stats(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    cutouts = fill(tmp_path / "fg", {f"{side}.png": cutout(side) for side in (40, 60)})
    rooms = fill(tmp_path / "bg", {"b.png": room(48, 1), "a.png": room(64, 2)})
    fill(tmp_path / "depth", {})
    for name, side in (("a", 64), ("b", 48)):
        depth = np.full((side, side), 2500, np.uint16)
        Image.fromarray(depth).save(tmp_path / "depth" / f"{name}.png")
    for arguments in (
        ["crawl", "--source", "folder", "--kind", "fg", "--from", cutouts],
        [
            "crawl",
            "--source",
            "folder",
            "--kind",
            "bg",
            "--from",
            rooms,
            "--depth",
            tmp_path / "depth",
        ],
        ["prepare", "--size", "32"],
        ["composite", "--placements", "2", "--workers", "2"],
        ["depthmap"],
        ["resize", "--size", "16"],
        ["stats"],
        ["verify"],
    ):
        result = depthgen(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), arguments
    with zipfile.ZipFile(tmp_path / "W" / "depth_fg_bg.zip") as labels:
        assert len(labels.namelist()) == 2 * 2 * 2 * 2 + 1
    assert "train CONFIG.yaml" in depthgen("status").stdout
    assert json.loads(depthgen("stats", "--json").stdout)
    assert json.loads(depthgen("verify", "--json").stdout)["ok"] is True


def test_dry_run_writes_nothing(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    prepared(tmp_path)
    result = depthgen("composite", "--dry-run")
    assert result.returncode == 0
    assert "160 composites" in result.stdout
    assert sorted(path.name for path in (tmp_path / "W").iterdir()) == ["bg.zip", "fg.zip"]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_stopping_exits_with_130_and_goes_on_later(
    signal_: signal.Signals, depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    prepared(tmp_path)
    arguments = ["-w", str(tmp_path / "W"), "composite", "--placements", "2000", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    partial = tmp_path / "W" / "fg_bg.zip.partial"
    while not (partial.exists() and partial.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal_)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert stderr.strip() == "Stopped. Type the same command again to go on."
    assert not (tmp_path / "W" / "lock").exists()
    assert partial.exists()
    assert depthgen("composite", "--placements", "2000").returncode == 0
    assert depthgen("verify").returncode == 0
