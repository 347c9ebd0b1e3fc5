"""Opening a large archive and reading it at random, against `zipfile`.

    python -m benchmarks.archive [--members 400000]

Each side opens in a process of its own, so that neither's memory is counted for the other; the best
of several processes counts, the page cache is warm. "With names" is what it takes until the first
member can be found by its name: `zipfile` builds that table on opening, `Archive` on first use.
Resident memory counts the mapped directory, which is page cache; allocated memory does not. A read
of `ZipFile` copies and checks the CRC, one of `Archive` does neither: that is its point, and
`crc_is_right` is there for who wants it. With smaller members the copy costs less, and so the ratio
is lower.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

from benchmarks.machine import machine
from depthgen.archive import Archive, ArchiveWriter

MEMBER_BYTES = 4200  # a composite of the original data set: 1.6 GiB over 400,000
PROCESSES = 3
READS = 20_000
ROUNDS = 7


def name_of(index: int) -> str:
    """A composite's name, as `composite` writes them."""
    bg, fg = index // 4000, index // 40 % 100
    return f"fg_bg/bg_{bg:03d}/fg_{fg:03d}_bg_{bg:03d}_{index:06d}.jpg"


def write_archive(path: Path, members: int) -> None:
    noise = random.Random(0).randbytes(1 << 20)
    with ArchiveWriter(path) as writer:
        for index in range(members):
            start = index % (len(noise) - MEMBER_BYTES)
            writer.add(name_of(index), noise[start : start + MEMBER_BYTES])


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_once(side: str, path: Path, traced: bool) -> dict[str, float]:
    """Open in this process; seconds, and the growth of what is resident and what is allocated."""
    first = name_of(0)
    gc.collect()
    before = resident_bytes()
    if traced:
        tracemalloc.start()
    start = time.perf_counter()
    archive = Archive(path) if side == "archive" else zipfile.ZipFile(path)
    opened = time.perf_counter()
    if isinstance(archive, Archive):
        archive.index(first)
    else:
        archive.getinfo(first)
    found = time.perf_counter()
    kept, peak = tracemalloc.get_traced_memory() if traced else (0, 0)
    result = {
        "open_s": opened - start,
        "names_s": found - opened,
        "resident": resident_bytes() - before,
        "allocated": kept,
        "peak_allocated": peak,
    }
    archive.close()
    return result


def measure_open(side: str, path: Path) -> dict[str, float]:
    """The best of several processes; what is allocated comes from one of its own, for it slows."""

    def run(traced: bool) -> dict[str, float]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.archive",
            "--open",
            side,
            "--archive",
            str(path),
        ]
        command += ["--traced"] if traced else []
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result: dict[str, float] = json.loads(done.stdout)
        return result

    runs = [run(traced=False) for _ in range(PROCESSES)]
    best = {key: min(each[key] for each in runs) for key in ("open_s", "names_s", "resident")}
    best["both_s"] = min(each["open_s"] + each["names_s"] for each in runs)
    traced = run(traced=True)
    return best | {key: traced[key] for key in ("allocated", "peak_allocated")}


def measure_reads(path: Path, members: int) -> dict[str, float]:
    """Microseconds a read, the same members for each, the sides taking turns."""
    indices = random.Random(1).choices(range(members), k=READS)
    names = [name_of(index) for index in indices]
    times: dict[str, list[float]] = {"zipfile": [], "name": [], "index": []}
    with zipfile.ZipFile(path) as oracle, Archive(path) as archive:
        for name, index in zip(names[:200], indices, strict=False):
            assert oracle.read(name) == bytes(archive[name]) == bytes(archive[index])
        gc.collect()
        gc.disable()
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for name in names:
                oracle.read(name)
            times["zipfile"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for name in names:
                archive[name]
            times["name"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for index in indices:
                archive[index]
            times["index"].append(time.perf_counter() - start)
        gc.enable()
    # Each round's own ratio, and the middle one: a neighbour on the machine slows both sides.
    ratios = {
        f"{kind}_ratio": statistics.median(
            theirs / ours for theirs, ours in zip(times["zipfile"], times[kind], strict=True)
        )
        for kind in ("name", "index")
    }
    return {kind: min(spent) / READS * 1e6 for kind, spent in times.items()} | ratios


def report(path: Path, members: int) -> None:
    print(machine("numpy"))
    print(f"{members:,} members of {MEMBER_BYTES} bytes, {path.stat().st_size / 2**20:.0f} MiB\n")
    theirs, ours = measure_open("zipfile", path), measure_open("archive", path)
    print(f"{'opening':<34}{'zipfile':>12}{'Archive':>12}{'ratio':>9}")
    for label, key, unit, scale in (
        ("open", "open_s", "s", 1),
        ("what a look-up by name adds", "names_s", "s", 1),
        ("both together (wanted: 10 ×)", "both_s", "s", 1),
        ("resident memory (wanted: 5 ×)", "resident", "MiB", 2**-20),
        ("allocated memory (wanted: 5 ×)", "allocated", "MiB", 2**-20),
        ("allocated at the peak", "peak_allocated", "MiB", 2**-20),
    ):
        left, right = theirs[key] * scale, ours[key] * scale
        digits = 3 if unit == "s" else 1
        columns = f"{left:>8.{digits}f} {unit:<3}{right:>8.{digits}f} {unit:<3}"
        print(f"{label:<34}{columns}{left / right:>7.1f} ×")
    reads = measure_reads(path, members)
    print(f"\n{'a random read, warm':<34}{'zipfile':>12}{'Archive':>12}{'ratio':>9}")
    for label, kind in (("by name (wanted: 5 ×)", "name"), ("by index (wanted: 5 ×)", "index")):
        columns = f"{reads['zipfile']:>9.2f} µs{reads[kind]:>9.2f} µs"
        print(f"{label:<34}{columns}{reads[kind + '_ratio']:>7.1f} ×")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=400_000)
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", choices=("archive", "zipfile"), help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(open_once(options.open, options.archive, options.traced)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fg_bg.zip"
        write_archive(path, options.members)
        report(path, options.members)


if __name__ == "__main__":
    main()
