"""Training from the archives, against the step alone and against the original's loop.

    python -m benchmarks.train [--device cuda] [--workspace DIR] [--only PART] [--quick]

Pictures are rendered rooms with rendered things in them, made first unless a workspace is named.
The network is ResUNet, trained by the trainer as it is configured by default. Parts:

- share: samples a second of the trainer's step on batches from the archives, without a cache and
  with 0, 1 and 2 loading processes, and from a filled cache, against the same step on one batch
  that is held; and for which part of its time the step waited for its batch.
- loader: processor time of loading batches on one core, against only decoding the same members.
- original: the trainer against the 2020 system's loop, written anew from its description: extracted
  files, Pillow, a DataLoader, float32 in torch's own memory order, plain AdamW, and the losses and
  metrics read back at each step.
- memory: the highest memory of a process that trains, by batch size up to the largest that fits,
  beside that loop's.
- models: samples a second of both networks at 96 and 192 px by batch size; only on a GPU.
"""

from __future__ import annotations

import argparse
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks.machine import machine
from depthgen import composite, depth
from depthgen.prepare import crop, mask
from depthgen.sources import studio
from depthgen.workspace import Workspace
from vathos.data_loader import DenseDepth
from vathos.model import ResUNet
from vathos.model.loss import BCEDiceLoss, RMSELoss, iou, rmse
from vathos.runner import Runner
from vathos.trainer.keeping import keep
from vathos.trainer.loaders import make_batches
from vathos.utils.allocator import give_back, keep_freed
from vathos.utils.config import parse_config
from vathos.utils.device import choose_device, synchronise
from vathos.utils.memory import available_memory, peak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from vathos.data_loader.batches import Batches
    from vathos.trainer import BaseTrainer

FILLED = 0.9  # of the memory that is free, by the largest batch on a CPU
KEYS = ("bg", "fg_bg", "fg_bg_mask", "depth_fg_bg")
PEAK_STEPS = 4  # what is kept grows until the third


def make(root: Path, side: int, pictures: int) -> None:
    """A workspace of `pictures` x `pictures` x 4 samples of `side` pixels."""
    workspace = Workspace(root)
    studio.run(workspace, studio.RenderOptions(bg=pictures, fg=pictures, size=2 * side))
    mask.run(workspace, mask.MaskOptions())
    crop.run(workspace, crop.CropOptions(size=side))
    composite.run(workspace, composite.CompositeOptions(placements=2))
    depth.run(workspace, depth.DepthmapOptions(model="layered"))


def settings(given: argparse.Namespace, batch: int, **dataset: Any) -> dict[str, Any]:
    """A configuration of defaults; keywords are keys of its section `dataset`."""
    loading = {"batch_size": batch, "num_workers": dataset.pop("workers", 0)}
    loading["pin_memory"] = given.device == "cuda"
    section = {"root": str(given.workspace), "loader_args": loading, "cache": "none", **dataset}
    return {
        "name": f"run{time.monotonic_ns()}",
        "chkpt_dir": str(given.scratch),
        "device": "GPU" if given.device == "cuda" else "CPU",
        "dataset": section,
        "optimizer": {"type": "AdamW", "args": {"lr": 0.001}},
        "training": {"steps": 1000},  # too short for it to measure how to compute them
    }


def trainer_for(config: dict[str, Any]) -> BaseTrainer:
    runner = Runner(config)
    runner.setup_train()
    assert runner.trainer is not None
    runner.trainer.model.train()
    return runner.trainer


def endless(batches: Batches) -> Iterator[dict[str, Tensor]]:
    for epoch in count():
        yield from batches.epoch(epoch)


def rate(
    step: Callable[[Any], Any], batches: Iterator[Any], steps: int, device: torch.device
) -> tuple[float, float]:
    """(samples a second, part of the time waited for batches) of `steps` steps."""
    for _ in range(4):  # what was decoded while another was measured
        next(batches)
    synchronise(device)
    began, waited, samples = time.perf_counter(), 0.0, 0
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch)
        samples += len(batch["bg"])
    synchronise(device)
    took = time.perf_counter() - began
    return samples / took, waited / took


def share(given: argparse.Namespace) -> None:
    trainer = trainer_for(settings(given, given.batch))
    variants: dict[str, dict[str, Any]] = {
        f"no cache, {n} processes": {"workers": n} for n in (0, 1, 2)
    }
    variants["cache: ram"] = {"cache": "ram"}
    if given.device == "cuda":
        variants["cache: device"] = {"cache": "device"}
    train, test = (
        Subset(each.dataset, each.order.rows.tolist())
        for each in (trainer.train_batches, trainer.test_batches)
    )
    sources = {}
    for name, dataset in variants.items():
        parsed = parse_config(settings(given, given.batch, **dataset))
        batches = make_batches(parsed, train, test)
        keep(parsed, batches, trainer.device, epochs=2, spare=trainer.spare)
        sources[name] = batches[0]
        if "cache" in dataset:
            deque(sources[name].epoch(0), 0)  # fills it
    streams = {name: endless(each) for name, each in sources.items()}
    held = trainer.place(next(streams["no cache, 0 processes"]))

    def step(batch: Any) -> None:
        trainer._train_step(0, (batch,))

    def alone() -> float:
        return rate(step, iter(lambda: held, None), given.steps, trainer.device)[0]

    alone()  # the first steps choose kernels
    for name, stream in streams.items():
        ratios, waits = [], []
        for _ in range(given.rounds):
            before = alone()
            ours, waited = rate(step, stream, given.steps, trainer.device)
            ratios.append(2 * ours / (before + alone()))
            waits.append(waited)
        print(
            f"{name}: {statistics.median(ratios):6.1%} of the step alone (at least 95 %), "
            f"{min(ratios):.1%} to {max(ratios):.1%}; waited {statistics.median(waits):.2%} of "
            f"the time; last {ours:.1f} samples/s",
            flush=True,
        )
    print()


def loader(given: argparse.Namespace) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset = DenseDepth(given.workspace, given.workspace)
    rows = np.random.default_rng(0).permutation(len(dataset))[: 64 if given.quick else 2048]
    members = {
        key: [bytes(dataset.archives[key][int(at)]) for at in dataset._positions[key][rows]]
        for key in KEYS[1:]
    }

    def only_decode(part: Any) -> None:
        for at in part:
            simplejpeg.decode_jpeg(members["fg_bg"][at], "RGB")
        for key, how in (("fg_bg_mask", cv2.IMREAD_GRAYSCALE), ("depth_fg_bg", -1)):
            for at in part:
                cv2.imdecode(np.frombuffer(members[key][at], np.uint8), how)

    times = np.zeros((given.rounds + 1, 2))
    for each in times:
        for part in np.array_split(np.arange(len(rows)), len(rows) // 32):
            # In turns so short that a neighbour on the machine disturbs both alike.
            began = time.process_time()
            dataset.load_batch(rows[part])
            between = time.process_time()
            only_decode(part)
            each += between - began, time.process_time() - between
    # The first round decodes the backgrounds.
    ours, decoding = np.median(times[1:], axis=0) / len(rows) * 1e6
    print(
        f"{dataset.height} px, one core: loading {ours:.1f} µs a sample, only decoding "
        f"{decoding:.1f} µs: {decoding / ours:.1%} of its rate (at least 80 %)\n",
        flush=True,
    )
    torch.set_num_threads(threads)


class LooseFiles(Dataset[Any]):
    """The original's data set: four files a sample, read by Pillow, as floats in [0, 1]."""

    def __init__(self, paths: list[dict[str, Path]]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = {}
        for key, path in self.paths[index].items():
            picture = Image.open(path).convert("RGB" if key in KEYS[:2] else "L")
            pixels = np.atleast_3d(np.asarray(picture, np.float32) / 255)
            sample[key] = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return sample


def extracted(given: argparse.Namespace) -> LooseFiles:
    """The samples of the workspace, unpacked."""
    dataset = DenseDepth(given.scratch / "files", given.workspace)
    if not dataset.root.exists():
        dataset.extractall()
    rooms, at = dataset.archives["bg"].names, dataset._bg_positions
    names = [
        {"bg": rooms[at[int(dataset.backgrounds[row])]]}
        | {key: dataset.archives[key].names[int(dataset._positions[key][row])] for key in KEYS[1:]}
        for row in range(len(dataset))
    ]
    return LooseFiles([{key: dataset.root / name for key, name in each.items()} for each in names])


def originals_step(device: torch.device) -> Callable[[dict[str, Tensor]], None]:
    model = ResUNet().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    seg_loss, depth_loss = BCEDiceLoss(), RMSELoss()

    def step(batch: dict[str, Tensor]) -> None:
        data = {key: value.to(device) for key, value in batch.items()}
        optimizer.zero_grad()
        depth_out, mask_out = model(torch.cat((data["bg"], data["fg_bg"]), dim=1))
        seg = seg_loss(mask_out, data["fg_bg_mask"])
        deep = depth_loss(depth_out, data["depth_fg_bg"])
        loss = seg + 2 * deep
        loss.backward()
        optimizer.step()
        figures = iou(mask_out, data["fg_bg_mask"]), rmse(depth_out, data["depth_fg_bg"])
        for value in (loss, seg, deep, *figures):
            value.item()

    return step


def original(given: argparse.Namespace) -> None:
    workers = 0 if given.quick else 2
    pin = given.device == "cuda"
    loading = DataLoader(
        extracted(given),
        given.batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=pin,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    theirs = (batch for _ in count() for batch in loading)
    trainer = trainer_for(settings(given, given.batch, workers=workers))
    ours, device = endless(trainer.train_batches), trainer.device
    step = originals_step(device)

    def new(batch: Any) -> None:
        trainer._train_step(0, (batch,))

    rounds = []
    for _ in range(given.rounds + 1):
        give_back()  # theirs has the system's memory, but for what fits where ours was
        old_rate = rate(step, theirs, given.steps, device)[0]
        keep_freed(device)
        rounds.append((rate(new, ours, given.steps, device)[0], old_rate))
    for fast, slow in rounds[1:]:
        print(
            f"trainer {fast:8.1f} samples/s, the original's loop {slow:8.1f}: {fast / slow:.2f} x"
        )
    middle = statistics.median(fast / slow for fast, slow in rounds[1:])
    print(f"median {middle:.2f} x the original's loop, batches of {given.batch}\n", flush=True)


def show_peak(given: argparse.Namespace) -> None:
    """What the subprocess of `memory` does: some steps, and print the highest memory in MB."""
    device = choose_device("GPU" if given.device == "cuda" else "CPU")
    dataset = DenseDepth(given.workspace, given.workspace)
    stored = dataset.load_batch(np.resize(np.arange(len(dataset)), given.batch))
    if given.peak == "original":
        step, batch = originals_step(device), dataset.prepare(stored)
        for _ in range(PEAK_STEPS):
            step({key: value.contiguous() for key, value in batch.items()})
    else:
        trainer = trainer_for(settings(given, 2))
        for _ in range(PEAK_STEPS):
            trainer._train_step(0, (stored,))
    found = peak(device)
    assert found is not None, "the command line allows devices whose peak can be read"
    print(found / 1e6)


def memory(given: argparse.Namespace) -> None:
    room = math.inf if given.device == "cuda" else FILLED * available_memory() / 1e6
    if room < math.inf:
        print(f"memory to fill: {room:.0f} MB")
    for kind in ("trainer", "original"):
        peaks: list[tuple[int, float]] = []
        batch = 2 if given.quick else 16
        while batch <= given.largest and (not peaks or batch > 1.05 * peaks[-1][0]):
            command = [sys.executable, "-m", "benchmarks.train", "--peak", kind]
            command += ["--batch", f"{batch}", "--workspace", f"{given.workspace}"]
            command += ["--device", given.device]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == -signal.SIGKILL or "out of memory" in done.stderr:
                print(f"{kind}, batch {batch:4}: does not fit")
                break
            if done.returncode:
                sys.exit(done.stderr)
            peaks.append((batch, float(done.stdout.split()[-1])))
            print(f"{kind}, batch {batch:4}: {peaks[-1][1]:8.0f} MB at most", flush=True)
            batch = next_batch(peaks, room)
    print()


def next_batch(peaks: list[tuple[int, float]], room: float) -> int:
    """Twice the last one, or what by the last two (batch, MB) just fits into `room` MB: a CPU that
    is asked for more does not refuse, it kills."""
    batch, peak = peaks[-1]
    if len(peaks) == 1 or room == math.inf:
        return 2 * batch
    smaller, less = peaks[-2]
    return min(2 * batch, batch + int((room - peak) * (batch - smaller) / (peak - less)))


def models(given: argparse.Namespace) -> None:
    stored = DenseDepth(given.workspace, given.workspace).height
    for model in ("ResUNet", "ResUNeXt"):
        for size in [each for each in (96, 192) if each <= stored] or [stored]:
            batch = 2 if given.quick else 32
            while batch <= given.largest:
                config = settings(given, 2, size=size) | {"model": model}
                try:
                    found = held_rate(trainer_for(config), batch, given.steps)
                except torch.OutOfMemoryError:
                    print(f"{model}, {size} px, batch {batch:4}: does not fit")
                    break
                print(f"{model}, {size} px, batch {batch:4}: {found:8.0f} samples/s", flush=True)
                batch *= 2
    print()


def held_rate(trainer: BaseTrainer, batch: int, steps: int) -> float:
    """Samples a second of the step on one batch that is held."""
    dataset = trainer.train_batches.dataset
    held = trainer.place(dataset.load_batch(np.resize(np.arange(len(dataset)), batch)))
    for _ in range(3):
        trainer._train_step(0, (held,))
    again = islice(iter(lambda: held, None), steps + 4)
    return rate(lambda each: trainer._train_step(0, (each,)), again, steps, trainer.device)[0]


PARTS = {each.__name__: each for each in (share, loader, original, memory, models)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workspace", type=Path, help="archives that there are, not made anew")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="few and small: does it run at all?")
    parser.add_argument("--batch", type=int, default=0, help="of share and original")
    parser.add_argument("--steps", type=int, default=0, help="in a round")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--largest", type=int, default=0, help="batch of memory and models")
    parser.add_argument("--peak", choices=("trainer", "original"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    cuda = given.device == "cuda"
    given.batch = given.batch or (2 if given.quick else 256 if cuda else 8)
    given.steps = given.steps or (1 if given.quick else 50 if cuda else 5)
    given.rounds = given.rounds or (1 if given.quick else 5)
    given.largest = given.largest or (4 if given.quick else 4096)
    with tempfile.TemporaryDirectory() as scratch:
        given.scratch = Path(scratch)
        if given.peak:
            show_peak(given)
            return
        print(machine("torch", "numpy", "pillow"))
        if cuda:
            print(torch.cuda.get_device_name())
        print(flush=True)
        if given.workspace is None:
            given.workspace = given.scratch / "data"
            side = 32 if given.quick else 192 if cuda else 96
            make(given.workspace, side, 3 if given.quick else 16)
        for name, part in PARTS.items():
            if name in given.only if given.only else cuda or part is not models:
                part(given)


if __name__ == "__main__":
    main()
