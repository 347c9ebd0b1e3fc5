"""Run every benchmark, or those named, one after the other, and keep what they print.

    python -m benchmarks [NAME]...

Writes `benchmarks/results/<benchmark>.txt`. Leave the machine alone meanwhile: each script compares
two things in one run, and a neighbour disturbs both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = (
    "archive",
    "composite",
    "stats",
    "crawl",
    "depthmap",
    "layered_truth",
    "train",
    "step",
    "curves",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run benchmarks and keep what they print.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names
    if strange := set(names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(strange))}")
    results = FOLDER / "results"
    results.mkdir(exist_ok=True)
    failed = 0
    for name in names or NAMES:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
        print(done.stdout, flush=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            failed += 1
            continue
        text = f"$ python -m benchmarks.{name}\n{done.stdout}"
        (results / f"{name}.txt").write_text(text, encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
