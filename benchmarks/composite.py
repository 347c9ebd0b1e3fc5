"""Compositing, against the original's loop and against nothing but encoding.

    python -m benchmarks.composite [--workspace DIR]

Without a workspace that has bg.zip and fg.zip it renders its own pictures. Measured:

- end to end: `composite` with two workers, against the original's loop in one process as its
  documentation describes it: reopen three files, mirror, paste twice, save two files with
  `optimize`, add both to a ZIP. Both sides at the same size and quality 90; its masks are JPEG of
  quality 30.
- on one core: the samples of `composite` against encoding the same pictures and masks only, with
  the fastest encoders at hand.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import machine
from depthgen import composite, images
from depthgen.archive import Archive
from depthgen.composite.compositor import Compositor, Unit
from depthgen.composite.run import _compositor
from depthgen.prepare import crop, mask
from depthgen.sources import studio
from depthgen.workspace import Workspace

ROUNDS = 5
LOOP_SAMPLES = 4000  # one background's
QUALITY, MASK_QUALITY = 90, 30


def make_workspace(root: Path) -> Workspace:
    workspace = Workspace(root)
    studio.run(workspace, studio.RenderOptions())
    mask.run(workspace, mask.MaskOptions())
    crop.run(workspace, crop.CropOptions())
    return workspace


def linked(workspace: Workspace, root: Path) -> Workspace:
    """A workspace with copies of the prepared pictures: nothing of the user's is touched."""
    for name in ("bg", "fg"):
        shutil.copy(workspace.archive(name), root / f"{name}.zip")
    return Workspace(root)


@dataclass(frozen=True)
class LoopFiles:
    """The files that the original's loop reopens for every sample."""

    backgrounds: list[Path]
    cutouts: list[Path]
    masks: list[Path]


def extract_for_loop(workspace: Workspace, folder: Path, side: int) -> LoopFiles:
    """Backgrounds as they are, cut-outs at their mean size, 0.4 of the side, and their masks."""
    files = LoopFiles([], [], [])
    for kind, paths in (("bg", files.backgrounds), ("fg", files.cutouts)):
        with Archive(workspace.archive(kind)) as archive:
            archive.extract(folder)
            paths += [folder / name for name in archive.names]
    for path in files.cutouts:
        with Image.open(path) as opened:
            cutout = opened.convert("RGBA")
        cutout.thumbnail((round(0.4 * side), round(0.4 * side)), Image.Resampling.BICUBIC)
        cutout.save(path)
        masked = path.with_name(f"mask_{path.name}")
        cutout.getchannel("A").point(lambda value: 255 if value else 0).save(masked)
        files.masks.append(masked)
    return files


def original_loop(files: LoopFiles, folder: Path, samples: int) -> float:
    """Seconds a sample of the original's loop: files are saved first, then added to a ZIP."""
    draw = random.Random(0)
    folder.mkdir(exist_ok=True)
    started = time.perf_counter()
    with zipfile.ZipFile(folder / "loop.zip", "w", zipfile.ZIP_STORED) as archive:
        for index in range(samples):
            pair = index // 40
            chosen = pair % len(files.cutouts)
            background: Image.Image = Image.open(
                files.backgrounds[pair // len(files.cutouts) % len(files.backgrounds)]
            )
            foreground: Image.Image = Image.open(files.cutouts[chosen])
            shape: Image.Image = Image.open(files.masks[chosen])
            if index % 2 == 0:
                foreground = foreground.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                shape = shape.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            x = draw.randrange(background.width - foreground.width)
            y = draw.randrange(background.height - foreground.height)
            background.paste(foreground, (x, y), foreground)
            canvas = Image.new("L", background.size)
            shape = shape.convert("L")
            canvas.paste(shape, (x, y), shape)
            for picture, quality, name in (
                (background, QUALITY, f"fg_bg_{index:06d}.jpg"),
                (canvas, MASK_QUALITY, f"fg_bg_mask_{index:06d}.jpg"),
            ):
                picture.save(folder / name, optimize=True, quality=quality)
                archive.write(folder / name, name)
    return (time.perf_counter() - started) / samples


def end_to_end(workspace: Workspace, workers: int) -> tuple[float, int]:
    """(seconds a sample of the whole stage, samples)."""
    options = composite.CompositeOptions(workers=workers, overwrite=True)
    started = time.perf_counter()
    summary = composite.run(workspace, options)
    samples = summary.counts["samples"]
    return (time.perf_counter() - started) / samples, samples


def encoders() -> dict[str, object]:
    """The encoders at hand for a picture; the fastest on this machine is the yardstick."""
    return {
        "simplejpeg": lambda rgb, bgr: images.encode_jpeg(rgb, QUALITY),
        "OpenCV": lambda rgb, bgr: images.encode_jpeg_cells(bgr, QUALITY, blocks=12),
    }


def on_one_core(work: Compositor) -> list[tuple[float, float, float, str]]:
    """Rounds of (seconds of a unit, of encoding its pictures and masks whole, samples, encoder)."""
    unit = Unit(0, 0, min(10, work.layout.n_fg))
    entries = work(unit)
    pictures = [data for name, data, _ in entries[0] if name.endswith(".jpg")]
    rgb = [images.decode(data, "RGB") for data in pictures]
    bgr = [np.ascontiguousarray(picture[:, :, ::-1]) for picture in rgb]
    shapes = [images.decode(data, "L") > 0 for _, data, _ in entries[1]]
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work(unit)
        ours = time.perf_counter() - started
        times = {}
        for name, encode in encoders().items():
            started = time.perf_counter()
            for pair in zip(rgb, bgr, strict=True):
                encode(*pair)  # type: ignore[operator]
            times[name] = time.perf_counter() - started
        started = time.perf_counter()
        for shape in shapes:
            images.encode_mask(shape)
        masks = time.perf_counter() - started
        fastest = min(times, key=lambda name: times[name])
        rounds.append((ours, times[fastest] + masks, float(len(rgb)), fastest))
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workspace", type=Path, help="one that has bg.zip and fg.zip")
    given = parser.parse_args().workspace
    print(machine("numpy", "pillow", "opencv-python-headless", "simplejpeg"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        workspace = linked(Workspace(given), root) if given else make_workspace(root)
        work = _compositor(workspace, composite.CompositeOptions())
        layout = work.layout
        print(f"{layout.n_bg} backgrounds, {layout.n_fg} cut-outs, {work.side} px\n")
        images.use_one_thread()
        for ours, theirs, samples, name in (rounds := on_one_core(work)):
            print(
                f"one core: composite {ours / samples * 1e6:6.1f} µs a sample, encoding only "
                f"{theirs / samples * 1e6:6.1f} µs ({name}): {theirs / ours:.0%} of its rate"
            )
        middle = statistics.median(theirs / ours for ours, theirs, _, _ in rounds)
        print(f"one core, median: {middle:.0%} of the rate of only encoding (at least 85 %)\n")
        files = extract_for_loop(workspace, root / "loop", work.side)
        before = original_loop(files, root / "saved", LOOP_SAMPLES)
        seconds, samples = end_to_end(workspace, workers=2)
        after = original_loop(files, root / "saved", LOOP_SAMPLES)
        loop = min(before, after)
        print(f"the original's loop, one process: {loop * 1e6:7.0f} µs a sample")
        print(f"composite, two workers:           {seconds * 1e6:7.1f} µs ({samples:,} samples)")
        print(f"end to end: {loop / seconds:.1f} × (at least 20 ×)")


if __name__ == "__main__":
    main()
