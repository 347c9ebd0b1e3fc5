"""Labelling with a network, against its bare forward pass and against Keras with TensorFlow.

    python -m benchmarks.depthmap [--device cuda] [--quick]

Composites are soft patches of 640 × 480 pixels, weights are random. Measured:

- share: samples a second of the whole stage, JPEG read, label PNG written and synced, against
  the network alone on a batch that lies on the device, prepared; same batch and precision. For
  DenseDepth and for Depth Anything V2 Small's architecture (the latter needs `transformers`).
- keras: the labels of DenseDepth, full and half width, in float32 and bf16, against `predict` of
  the same network with the same weights under Keras and TensorFlow; each by its fastest round at
  the better of two batch sizes. Only on a CPU, and where TensorFlow is installed.
- memory: the highest memory of a process that labels, with --batch 50 and with --batch 1000.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import machine
from depthgen import images
from depthgen.archive import Archive, ArchiveWriter
from depthgen.depth.densedepth import INPUT_SIZE, load_densedepth
from depthgen.depth.densedepth_layout import TORCH_EPSILON, Layout
from depthgen.depth.network_plan import device_of
from depthgen.depth.pipeline import Labelling, read_pictures, samples_of
from depthgen.depth.quantity import Quantity
from depthgen.depth.side_by_side import side_by_side
from depthgen.depth.tune import choose_batch, measure_full_scale
from depthgen.workers import default_workers
from depthgen.workspace import Member, sample_member
from tests.depthgen.depth.composites import Formula, write_densedepth
from tests.depthgen.depth.small_networks import SETTINGS, write_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from depthgen.depth.estimator import Estimator, PrecisionName

ROUNDS = 3
PICTURES = 16  # that differ; an archive repeats them
FULL = Layout((6, 12, 32, 32), 1664, False, True, TORCH_EPSILON)


def make_composites(path: Path, count: int, size: tuple[int, int]) -> Path:
    """An archive of `count` JPEGs of (height, width)."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(PICTURES):
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8))
        soft = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)).astype(float)
        noisy = np.clip(soft + random.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
        encoded.append(images.encode_jpeg(noisy, 90))
    with ArchiveWriter(path) as writer:
        for index in range(count):
            member = Member(fg=0, bg=index // 1000, index=index)
            writer.add(sample_member("fg_bg", member, ".jpg"), encoded[index % PICTURES])
    return path


def some(path: Path, count: int) -> NDArray[np.uint8]:
    with Archive(path) as archive:
        return read_pictures(archive, samples_of(archive)[:count])


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long it takes, the device's part included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def share(
    title: str,
    estimator: Estimator,
    prepared: Callable[[Any], Any],
    network: Callable[[Any], Any],
    path: Path,
    batch: int,
) -> None:
    """Print the stage's rate as a share of the network's on what `prepared` gives."""
    device = estimator.device
    scale = measure_full_scale(estimator, some(path, 4))
    batch = batch or choose_batch(estimator, scale, some(path, PICTURES))[0]
    quantity = Quantity(estimator.quantity, None, 8, estimator.model, 640, scale)
    pictures = torch.from_numpy(some(path, batch)).to(device)
    with Archive(path) as archive:
        count = len(archive)
    passes = max(1, count // batch)

    def bare() -> None:
        for _ in range(passes):
            side_by_side(network, inputs)

    def whole() -> None:
        output = path.with_name("depth_fg_bg.zip")
        labelling = Labelling(estimator, quantity, batch, 1000, default_workers())
        labelling.write([path], [output], lambda done, total: None)
        output.unlink()

    rounds = []
    with torch.inference_mode():
        inputs = prepared(pictures)
        bare()
        for _ in range(ROUNDS):
            # The network before and after, for a machine's speed drifts.
            before, ours, after = (seconds(work, device) for work in (bare, whole, bare))
            alone = (before + after) / 2 / (passes * batch)
            rounds.append((count / ours, 1 / alone))
    for ours, alone in rounds:
        print(
            f"{title}, {estimator.precision}, {batch} at a time: {ours:8.2f} samples/s, network "
            f"alone {alone:8.2f}: {ours / alone:.1%}"
        )
    middle = statistics.median(ours / alone for ours, alone in rounds)
    print(f"{title}: median {middle:.1%} of the bare forward pass (at least 95 %)\n", flush=True)


def share_of_densedepth(path: Path, weights: Path, given: argparse.Namespace) -> None:
    device = device_of(given.device)
    precision: PrecisionName = "float32" if given.float32 else "bf16"
    estimator = load_densedepth(weights, device, precision)
    prepared = estimator._filters_for(*INPUT_SIZE)[0]
    network = estimator.network
    share("DenseDepth 640 × 480", estimator, prepared, network, path, given.forward_batch)


def share_of_depth_anything(path: Path, root: Path, given: argparse.Namespace) -> None:
    if find_spec("transformers") is None:
        print("Depth Anything V2 Small: not measured, transformers is not installed\n")
        return
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    from transformers.utils import logging

    from depthgen.depth.transformers_model import load_transformers

    stages: dict[str, Any] = {"out_indices": [3, 6, 9, 12], "reshape_hidden_states": False}
    backbone = Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, **stages
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_hidden_size=32,
    )
    torch.manual_seed(0)
    network = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        # So that its last ReLU lets some through.
        network.get_parameter("head.conv3.bias").add_(1.0)
    folder = root / "depth_anything"
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    write_settings(folder, SETTINGS["depth_anything"])
    precision: PrecisionName = "float32" if given.float32 else "bf16"
    estimator = load_transformers(
        "depth-anything-v2-small", device_of(given.device), precision, folder=folder
    )
    dtype = next(estimator.network.parameters()).dtype

    def prepared(pictures: torch.Tensor) -> torch.Tensor:
        inputs = estimator.processor.prepare(pictures)
        return inputs.to(dtype, memory_format=torch.channels_last)

    def bare(inputs: torch.Tensor) -> torch.Tensor:
        depth: torch.Tensor = estimator.network(pixel_values=inputs).predicted_depth
        return depth

    share("Depth Anything V2 Small", estimator, prepared, bare, path, given.forward_batch)


def against_keras(path: Path, root: Path, rounds: int) -> None:
    if find_spec("tf_keras") is None:
        print("Keras: not measured, tf-keras and TensorFlow are not installed\n")
        return
    from tests.depthgen.depth import keras_oracle
    from tests.depthgen.depth.keras_oracle import DENSENET_169, Variant

    pictures = some(path, 4)
    floats = pictures.astype(np.float32) / 255
    on_device = torch.from_numpy(pictures)
    variants = {
        "full width": (Variant(DENSENET_169), 2),
        "half width": (Variant(DENSENET_169, half=True, original=False), 3),
    }
    for title, (variant, wanted) in variants.items():
        model = keras_oracle.build(variant)
        file = keras_oracle.save(model, root / "keras.h5")
        ours: dict[str, Estimator] = {
            "float32": load_densedepth(file),
            "bf16": load_densedepth(file, precision="bf16"),
        }
        times: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for size in (1, 4):
                began = time.perf_counter()
                model.predict(floats, batch_size=size, verbose=0)
                times.setdefault(f"Keras, batch {size}", []).append(time.perf_counter() - began)
            for name, estimator in ours.items():
                for size in (1, 2):
                    began = time.perf_counter()
                    for part in on_device.split(size):
                        estimator(part)
                    took = time.perf_counter() - began
                    times.setdefault(f"{name}, batch {size}", []).append(took)
            if number == 0:  # the first calls compile and choose kernels
                times.clear()
        # The fastest round: TensorFlow's threads now and then share a core for a whole one.
        best = {name: min(each) / len(pictures) for name, each in times.items()}
        keras = min(value for name, value in best.items() if name.startswith("Keras"))
        for name, value in best.items():
            print(f"DenseDepth, {title}, {name:17} {value:6.3f} s a picture")
        for name in ours:
            fastest = min(best[f"{name}, batch {size}"] for size in (1, 2))
            goal = f" (at least {wanted} × where the CPU has bf16)" if name == "bf16" else ""
            print(f"DenseDepth, {title}, {name}: {keras / fastest:.2f} × Keras{goal}")
        print(flush=True)


def label_with_a_formula(path: Path, batch: int) -> None:
    """What the subprocess of `memory` does: label, and print the highest memory in MB."""
    quantity = Quantity("depth_m", 10.0, 8, "formula", 192)
    labelling = Labelling(Formula(), quantity, 16, batch, default_workers())
    output = path.with_name(f"labels_{batch}.zip")
    labelling.write([path], [output], lambda done, total: None)
    output.unlink()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(root: Path, count: int) -> None:
    """Print the highest memory with a small and with a large commit unit."""
    path = make_composites(root / "small.zip", count, (192, 192))
    peaks = {}
    for batch in (50, 1000):
        command = [sys.executable, "-m", "benchmarks.depthmap"]
        command += ["--peak", str(path), "--batch", str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[batch] = float(done.stdout)
        print(f"--batch {batch:4}: {peaks[batch]:7.1f} MB at most, {count:,} samples of 192 px")
    ratio = peaks[1000] / peaks[50]
    print(f"memory: {ratio:.3f} × as much with --batch 1000 (at most 1.1)\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="auto", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="fewer samples: does it run at all?")
    parser.add_argument("--float32", action="store_true", help="the share in float32, not bf16")
    parser.add_argument("--forward-batch", type=int, default=0, help="of the share; 0: the fastest")
    parser.add_argument("--count", type=int, default=0, help="samples of the share")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1000, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        label_with_a_formula(given.peak, given.batch)
        return
    device = device_of(given.device)
    print(machine("torch", "numpy", "pillow"))
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    print(flush=True)
    if given.quick:
        given.forward_batch = given.forward_batch or 2
    count = given.count or (4 if given.quick else 4096 if device.type == "cuda" else 32)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        path = make_composites(root / "fg_bg.zip", count, INPUT_SIZE)
        memory(root, 300 if given.quick else 3000)
        share_of_densedepth(path, write_densedepth(root / "nyu.pt", FULL), given)
        share_of_depth_anything(path, root, given)
        if device.type == "cpu":
            against_keras(path, root, 1 if given.quick else 6)


if __name__ == "__main__":
    main()
