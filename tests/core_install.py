"""Install the project without extras in an environment of its own, and use it there.

    python tests/core_install.py

What has no need of torch must work where there is none: render, mask, crop, composite, depthmap,
stats and verify; and whatever needs an extra must say in one sentence what to install. Called by
`make test-core`.
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
# What to type, and the extra that its one sentence must name.
NEEDS = (
    (("train", "x.yaml"), "train"),
    (("bench",), "train"),
    (("demo",), "train"),
    (("evaluate", "x.pt"), "train"),
    (("predict", "x.pt", "--bg", "a.jpg", "--fg-bg", "b.jpg", "-o", "out"), "train"),
    (("export", "x.pt", "--format", "onnx"), "train"),
    (("export", "x.pt", "--format", "pt2"), "train"),
    (("depthmap", "--overwrite", "--model", "densedepth", "--weights", "net.h5"), "train"),
    (("depthmap", "--overwrite", "--model", "densedepth", "--weights", "net.pt"), "train"),
    (("depthmap", "--overwrite", "--model", "keras", "--weights", "net.h5"), "keras"),
    (("depthmap", "--overwrite", "--model", "onnx", "--weights", "net.onnx"), "onnx"),
    (("depthmap", "--overwrite", "--model", "depth-anything-v2-small"), "transformers"),
    (("depthmap", "--overwrite", "--model", "someone/something"), "transformers"),
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


def ask(depthgen: tuple[Path | str, ...], arguments: tuple[str, ...], extra: str, at: Path) -> None:
    """Type a command that needs an extra, and check that it says so in one sentence."""
    done = subprocess.run([*depthgen, *arguments], capture_output=True, text=True, cwd=at)
    assert done.returncode == 1, (arguments, done)
    assert done.stderr.count("\n") == 1, (arguments, done.stderr)
    assert f"pip install 'depthgen-vathos[{extra}]'" in done.stderr, (arguments, done.stderr)


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
        for name in ("net.h5", "net.pt", "net.onnx"):
            (folder / name).write_bytes(b"weights")
        for arguments, extra in NEEDS:
            ask(depthgen, arguments, extra, folder)
    sys.stdout.write("an install without extras works, without torch\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
