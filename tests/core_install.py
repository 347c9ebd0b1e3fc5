"""Install the project without extras in an environment of its own, and use it there.

    python tests/core_install.py

What has no need of torch must work where there is none: render, mask, crop, composite, depthmap,
stats and verify; and `train` must say in one sentence what to install. Called by `make test-core`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHAIN = (
    ("render", "--bg", "3", "--fg", "3", "--size", "64"),
    ("prepare", "--size", "64"),
    ("composite", "--placements", "2"),
    ("depthmap",),
    ("stats",),
    ("verify",),
    ("status",),
    ("doctor",),
)


def copy_of_the_project(folder: Path) -> Path:
    """What an installation needs, so that building leaves nothing in the working tree."""
    target = folder / "project"
    target.mkdir()
    for name in ("depthgen", "vathos"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        venv.create(folder / "venv", with_pip=True)
        bin_folder = folder / "venv" / "bin"
        install = (bin_folder / "pip", "install", "--quiet", "--disable-pip-version-check", "-c")
        project = copy_of_the_project(folder)
        subprocess.run([*install, ROOT / "constraints.txt", project], check=True)
        found = subprocess.run([bin_folder / "python", "-c", "import torch"], capture_output=True)
        assert found.returncode, "torch is there: this proves nothing"
        depthgen = (bin_folder / "depthgen", "-w", folder / "workspace")
        for command in CHAIN:
            subprocess.run([*depthgen, *command], check=True, cwd=folder)
        train = subprocess.run(
            [*depthgen, "train", "x.yaml"], capture_output=True, text=True, cwd=folder
        )
        assert train.returncode == 1, train
        assert train.stderr.count("\n") == 1, train.stderr
        assert "pip install 'depthgen-vathos[train]'" in train.stderr, train.stderr
    sys.stdout.write("an install without extras works, without torch\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
