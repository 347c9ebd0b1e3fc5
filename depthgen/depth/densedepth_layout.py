"""Which DenseDepth a weights file holds: the network's shape, and its arrays by one set of names.

The names are those of the PyTorch conversions (`encoder.original_model.features.conv0.weight`).
The one rule: a file whose network differs from DenseDepth in one layer, setting or shape is refused
by the name of that layer or array; nothing is guessed where the file itself says it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from depthgen.depth.keras_graph import read_graph
from depthgen.depth.weights import WeightsError, by_kind, is_hdf5, read_keras, read_torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Layers = Mapping[str, Mapping[str, NDArray[np.float32]]]

STEM = 64
GROWTH = 32
BOTTLENECK = 4 * GROWTH
KERAS_EPSILON = 1.001e-5
TORCH_EPSILON = 1e-5
ENCODER = "encoder.original_model.features."
DECODER = "decoder."
_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layout:
    """What differs from one DenseDepth to another.

    blocks: dense layers in each of the four blocks; (6, 12, 32, 32) is DenseNet-169. width:
    channels of conv2; the four up blocks have a half, a quarter, … of it. leaky_twice: a LeakyReLU
    after both convolutions of an up block, or after the second alone. align_corners: how ×2 is
    interpolated. epsilon: of batch normalisation.
    """

    blocks: tuple[int, ...]
    width: int
    leaky_twice: bool
    align_corners: bool
    epsilon: float

    def channels(self) -> list[int]:
        """Of the stem, then of what leaves each block: after its transition, or the last norm."""
        found = [STEM]
        for number, layers in enumerate(self.blocks, 1):
            grown = found[-1] + GROWTH * layers
            found.append(grown // 2 if number < len(self.blocks) else grown)
        return found

    def up_channels(self) -> list[tuple[int, int]]:
        """(channels in, channels out) of the first convolution of each up block."""
        stem, first, second = self.channels()[:3]
        return [
            (self.width // 2**number + skip, self.width // 2 ** (number + 1))
            for number, skip in enumerate((second, first, stem, stem))
        ]


class Part(NamedTuple):
    """A layer with arrays: its two names, and the shape of its kernel (O, I, k, k) or norm (C,)."""

    name: str
    keras: str
    shape: tuple[int, ...]
    bias: bool = False


def parts(layout: Layout) -> Iterator[Part]:
    """Every layer of a DenseDepth that has arrays, from the input to the output."""
    channels = STEM
    yield Part(f"{ENCODER}conv0", "conv1/conv", (STEM, 3, 7, 7))
    yield Part(f"{ENCODER}norm0", "conv1/bn", (STEM,))
    for block, layers in enumerate(layout.blocks, 1):
        for layer in range(1, layers + 1):
            ours = f"{ENCODER}denseblock{block}.denselayer{layer}"
            theirs = f"conv{block + 1}_block{layer}"
            yield Part(f"{ours}.norm1", f"{theirs}_0_bn", (channels,))
            yield Part(f"{ours}.conv1", f"{theirs}_1_conv", (BOTTLENECK, channels, 1, 1))
            yield Part(f"{ours}.norm2", f"{theirs}_1_bn", (BOTTLENECK,))
            yield Part(f"{ours}.conv2", f"{theirs}_2_conv", (GROWTH, BOTTLENECK, 3, 3))
            channels += GROWTH
        if block == len(layout.blocks):
            break
        ours, theirs = f"{ENCODER}transition{block}", f"pool{block + 1}"
        yield Part(f"{ours}.norm", f"{theirs}_bn", (channels,))
        yield Part(f"{ours}.conv", f"{theirs}_conv", (channels // 2, channels, 1, 1))
        channels //= 2
    yield Part(f"{ENCODER}norm5", "bn", (channels,))
    yield Part(f"{DECODER}conv2", "conv2", (layout.width, channels, 1, 1), bias=True)
    for number, (before, after) in enumerate(layout.up_channels(), 1):
        name = f"up{number}"
        yield Part(f"{DECODER}{name}.convA", f"{name}_convA", (after, before, 3, 3), bias=True)
        yield Part(f"{DECODER}{name}.convB", f"{name}_convB", (after, after, 3, 3), bias=True)
    yield Part(f"{DECODER}conv3", "conv3", (1, layout.width // 16, 3, 3), bias=True)


@dataclass(frozen=True)
class Trained:
    """A network as a file holds it. arrays: float32, kernels (O, I, k, k), all of `parts`.

    assumed: what the file does not say, in words; empty where it says all.
    """

    layout: Layout
    arrays: Mapping[str, Tensor]
    assumed: str


def read_densedepth(path: Path) -> Trained:
    """The DenseDepth in a Keras HDF5 file or a PyTorch checkpoint, told apart by their content.

    Raises `WeightsError` where the file cannot be read or holds another network.
    """
    if not is_hdf5(path):
        return _from_torch(path, read_torch(path))
    weights = read_keras(path)
    every = {name: by_kind(path, name, arrays) for name, arrays in weights.layers.items()}
    layers = {name: arrays for name, arrays in every.items() if arrays}
    if weights.config is None:
        layout, assumed = _infer(path, every)
        names = {name.replace("/", "_"): name for name in layers}
    else:
        graph = read_graph(path, weights.config)
        # The code with one LeakyReLU is the one that ran on TensorFlow 1 with aligned corners.
        layout = Layout(
            graph.blocks, graph.width, graph.leaky_twice, not graph.leaky_twice, graph.epsilon
        )
        names = {part.replace("/", "_"): name for part, name in graph.names.items()}
        assumed = ""
    return Trained(layout, _keras_arrays(path, layout, layers, names), assumed)


def _infer(path: Path, layers: Layers) -> tuple[Layout, str]:
    """The layout of a file of weights alone, from its names and widths, and what it leaves open."""
    names = [name.replace("/", "_") for name in layers]
    blocks = _count_blocks(path, names, r"conv(\d)_block\d+_0_bn", first=2)
    if "conv2" not in layers or "kernel" not in layers["conv2"]:
        raise WeightsError(f"{path} has no array conv2/kernel; it is no DenseDepth")
    before, width = layers["conv2"]["kernel"].shape[-2:]
    # Even a file of weights alone lists the layers that have none.
    leaky = sum(name.startswith("leaky_re_lu") for name in names)
    twice = leaky == 8 if leaky else width < before
    told = "" if leaky else f"{'two LeakyReLUs' if twice else 'one LeakyReLU'} an up block, "
    corners = "half-pixel centres" if twice else "aligned corners"
    assumed = f"{told}{corners} and a BatchNorm epsilon of {KERAS_EPSILON:g}"
    return Layout(blocks, int(width), twice, not twice, KERAS_EPSILON), assumed


def _count_blocks(path: Path, names: Iterable[str], pattern: str, first: int) -> tuple[int, ...]:
    """Dense layers in each of the four blocks: how many names match, by the pattern's number."""
    found = Counter(
        int(match[1]) - first for match in map(re.compile(pattern).fullmatch, names) if match
    )
    if sorted(found) != [0, 1, 2, 3]:
        raise WeightsError(f"{path} has no DenseNet encoder of four blocks; it is no DenseDepth")
    return tuple(found[block] for block in range(4))


def _keras_arrays(
    path: Path, layout: Layout, layers: Layers, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The arrays of a Keras file under our names. names: its own layer for each `Part.keras`."""
    found = {}
    used = set()
    for part in parts(layout):
        layer = names.get(part.keras.replace("/", "_"), part.keras)
        used.add(layer)
        for kind, ours, shape in _keras_kinds(part):
            values = layers.get(layer, {}).get(kind)
            if values is None:
                raise WeightsError(f"{path} has no array {layer}/{kind}")
            if values.shape != shape:
                raise WeightsError(f"{path}: {layer}/{kind} is {values.shape}, not {shape}")
            order = (3, 2, 0, 1) if values.ndim == 4 else (0,)
            found[f"{part.name}.{ours}"] = torch.from_numpy(values.transpose(order).copy())
    for layer in layers:
        if layer not in used:
            raise WeightsError(f"{path} has a layer {layer}, which DenseDepth has not")
    return found


def _keras_kinds(part: Part) -> list[tuple[str, str, tuple[int, ...]]]:
    """(Keras's name, ours, shape in the file) of each array of a part."""
    if len(part.shape) == 1:
        kinds = ("gamma", "beta", "moving_mean", "moving_variance")
        return [(kind, ours, part.shape) for kind, ours in zip(kinds, _NORM, strict=True)]
    o, i, height, width = part.shape
    kernel = ("kernel", "weight", (height, width, i, o))
    return [kernel, ("bias", "bias", (o,))] if part.bias else [kernel]


def _from_torch(path: Path, tensors: Mapping[str, Tensor]) -> Trained:
    """The network of a PyTorch checkpoint; any prefix (`module.`) goes.

    Its code has one LeakyReLU an up block and aligned corners at every width, and BatchNorm's
    epsilon is PyTorch's: a checkpoint does not say so itself.
    """
    last = f"{DECODER}conv3.weight"
    prefix = next((name.removesuffix(last) for name in tensors if name.endswith(last)), None)
    if prefix is None:
        raise WeightsError(f"{path} has no array {last}; it is no DenseDepth")
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    pattern = re.escape(ENCODER) + r"denseblock(\d)\.denselayer\d+\.norm1\.weight"
    blocks = _count_blocks(path, named, pattern, first=1)
    conv2 = named.get(f"{DECODER}conv2.weight")
    if conv2 is None:
        raise WeightsError(f"{path} has no array {DECODER}conv2.weight")
    layout = Layout(blocks, len(conv2), False, True, TORCH_EPSILON)
    arrays = {}
    for part in parts(layout):
        kinds = _NORM if len(part.shape) == 1 else ("weight", "bias")[: 1 + part.bias]
        for kind in kinds:
            name = f"{part.name}.{kind}"
            if name not in named:
                raise WeightsError(f"{path} has no array {name}")
            tensor = named.pop(name)
            shape = part.shape if kind == "weight" else part.shape[:1]
            if tensor.shape != shape:
                raise WeightsError(f"{path}: {name} is {tuple(tensor.shape)}, not {shape}")
            arrays[name] = tensor
    for name in named:
        # torchvision's DenseNet carries a classifier that DenseDepth never runs.
        if ".classifier." not in name:
            raise WeightsError(f"{path} has an array {name}, which DenseDepth has not")
    assumed = "one LeakyReLU an up block, aligned corners and a BatchNorm epsilon of 1e-05"
    return Trained(layout, arrays, assumed)
