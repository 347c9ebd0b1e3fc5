"""How fast `stats` is: against only decoding, and against the original's loop.

    python -m benchmarks.stats [--pictures 1500]

Makes its own pictures in a temporary folder: composites, masks and depth at 192 px. All runs are in
this process on one core, each the best of three that take turns; the original's loop (a torch
DataLoader of batch size 1 over loose files) is also timed against `stats` on all cores, which is
what a user would run. Targets: at least 85 % of decoding, at least 10 × the loop.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.machine import machine
from depthgen import images
from depthgen.archive import Archive, ArchiveWriter
from depthgen.stats import Measure, StatsOptions, read_stats, run
from depthgen.workers import default_workers
from depthgen.workspace import Member, Workspace, sample_member

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

_SIDE = 192
_ROUNDS = 3
_REPEAT = 10
_NAMES = {"fg_bg": ".jpg", "fg_bg_mask": ".png", "depth_fg_bg": ".png"}


class LooseFiles(Dataset[Any]):
    """What the original measured: files in a folder, opened as RGB, made float tensors."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.rglob("*.*"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as picture:
            pixels = np.array(picture.convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255)


def seeds_loop(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and the mean of each picture's own deviation, as the original took them."""
    mean, std, count = torch.zeros(3).double(), torch.zeros(3).double(), 0
    for batch in DataLoader(LooseFiles(folder), batch_size=1):
        flat = batch.view(batch.size(0), batch.size(1), -1)
        mean += flat.mean(2).sum(0)
        std += flat.std(2).sum(0)
        count += batch.size(0)
    return (mean / count).numpy(), (std / count).numpy()


def smooth(generator: np.random.Generator, channels: int) -> NDArray[np.uint8]:
    """Something as hard to decode as a photograph of a room: blobs, edges, a little grain."""
    coarse = generator.integers(0, 256, (12, 12, channels), np.uint8)
    blobs = images.resize(coarse, _SIDE, _SIDE, "bicubic").astype(np.int16)
    grain = generator.normal(0, 6, blobs.shape)
    return np.clip(blobs + grain, 0, 255).astype(np.uint8)


def make(workspace: Workspace, count: int) -> None:
    """Three archives of `count` members, the same as loose files, and again ten times as large.

    A real set has 400,000 pictures; in the large one, starting workers and drawing weigh less.
    """
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    for name, suffix in _NAMES.items():
        with ArchiveWriter(workspace.archive(name)) as writer:
            for number in range(count):
                if name == "fg_bg":
                    data = images.encode_jpeg(smooth(generator, 3), 90)
                elif name == "fg_bg_mask":
                    cy, cx = generator.integers(40, 150, 2)
                    waves = 6 * np.sin(np.arctan2(y - cy, x - cx) * 7)
                    data = images.encode_mask(np.hypot(y - cy, x - cx) < 27 + waves)
                else:
                    coarse = generator.integers(30, 256, (6, 6), np.uint8)
                    data = images.encode_png(images.resize(coarse, _SIDE, _SIDE, "bicubic"))
                writer.add(sample_member(name, Member(0, 0, number), suffix), data)
        with (
            Archive(workspace.archive(name)) as archive,
            ArchiveWriter(_large(workspace).archive(name)) as large,
        ):
            archive.extract(workspace.root / "loose")
            for number in range(count * _REPEAT):
                member = sample_member(name, Member(0, 0, number), suffix)
                large.add(member, bytes(archive[number % count]))


def _large(workspace: Workspace) -> Workspace:
    return Workspace(workspace.root / "large")


def decode_only(archive: Archive, name: str) -> None:
    """Read and decode every member, as `stats` does, and no more."""
    for index in range(len(archive)):
        if name == "depth_fg_bg":
            images.decode_depth(archive[index])
        else:
            images.decode(archive[index], "RGB" if name == "fg_bg" else "L")


def measure(archive: Archive, name: str) -> None:
    """The work of `stats` on every member, without processes."""
    work = Measure({name: archive})
    for start in range(0, len(archive), 256):
        work((name, start, min(start + 256, len(archive))))


def best(*works: Callable[[], object]) -> list[float]:
    """The least seconds of each; they take turns, so that a busy neighbour hits them alike."""
    times = [float("inf")] * len(works)
    for _ in range(_ROUNDS):
        for number, work in enumerate(works):
            start = time.perf_counter()
            work()
            times[number] = min(times[number], time.perf_counter() - start)
    return times


def compare(workspace: Workspace, count: int) -> None:
    """Print a row an archive, and the sums."""
    print("archive      | decode µs | stats µs | of decoding | loop µs | × the loop, one core")
    sums = np.zeros(3)
    for name in _NAMES:
        archive = Archive.open(workspace.archive(name))
        loose = workspace.root / "loose" / name
        seconds = np.zeros(3)
        seconds[:] = best(
            lambda archive=archive, name=name: decode_only(archive, name),  # type: ignore[misc]
            lambda archive=archive, name=name: measure(archive, name),  # type: ignore[misc]
            lambda loose=loose: seeds_loop(loose),  # type: ignore[misc]
        )
        sums += seconds
        print_row(name, seconds / count * 1e6)
    print_row("all", sums / count / len(_NAMES) * 1e6)

    large = _large(workspace)

    def whole() -> None:
        large.stats.unlink(missing_ok=True)
        run(large, StatsOptions())

    (whole_s,) = best(whole)
    ours, loop = len(_NAMES) * count * _REPEAT / whole_s, len(_NAMES) * count / sums[2]
    print(f"`stats` as a user runs it, {default_workers()} workers, chart included: ", end="")
    print(f"{ours:.0f} pictures/s; the loop {loop:.0f}; ratio {ours / loop:.1f} ×")


def print_row(name: str, micros: NDArray[np.float64]) -> None:
    decode, ours, loop = micros
    print(f"{name:12} | {decode:9.1f} | {ours:8.1f} | {decode / ours:10.1%} ", end=" | ")
    print(f"{loop:7.1f} | {loop / ours:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=1500)
    count = parser.parse_args().pictures
    torch.set_num_threads(1)
    images.use_one_thread()
    print(machine("torch", "numpy", "opencv-python-headless", "pillow", "simplejpeg"))
    print(f"{count} pictures each of {_SIDE} px")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        make(workspace, count)
        compare(workspace, count)
        stats = read_stats(_large(workspace))
        for name in _NAMES:
            mean, std = seeds_loop(workspace.root / "loose" / name)
            off = np.abs(np.array([stats[name].mean, stats[name].std_of_images]) - [mean, std])
            assert off.max() < 1e-6, f"{name} differs from the original's loop by {off.max()}"


if __name__ == "__main__":
    main()
