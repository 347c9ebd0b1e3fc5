"""Small composites with known pixels, and a network of one formula, for the tests of labelling."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from depthgen import images
from depthgen.archive import Archive, ArchiveWriter, shard_path
from depthgen.depth.densedepth_layout import parts
from depthgen.workspace import Member, Workspace, labels_member, parse_member, sample_member

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from depthgen.depth.densedepth_layout import Layout
    from depthgen.depth.estimator import PrecisionName, QuantityName

SIDE = 16
WEIGHTS = np.array([0.5, 0.25, 0.125], np.float32)
BIAS = 0.03


def make_composites(root: Path, samples: int = 23, shards: int = 1) -> Workspace:
    """fg_bg.zip with a label table after every five samples, fg_bg_mask.zip, and bg.zip.

    A sample's first pixel is its index, so that a network can tell it from others.
    """
    workspace = Workspace(root)
    random = np.random.default_rng(0)
    per_shard = -(-samples // shards)
    for shard in range(shards):
        paths = [workspace.archive(name) for name in ("fg_bg", "fg_bg_mask")]
        if shards > 1:
            paths = [shard_path(path, shard, shards) for path in paths]
        with ArchiveWriter(paths[0]) as pictures, ArchiveWriter(paths[1]) as masks:
            for index in range(shard * per_shard, min(samples, (shard + 1) * per_shard)):
                picture = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                picture[0, 0] = index >> 8, index & 255, 7
                mask = random.random((SIDE, SIDE)) < 0.3
                member = Member(fg=index % 5, bg=index // 5, index=index)
                pictures.add(sample_member("fg_bg", member, ".png"), images.encode_png(picture))
                masks.add(sample_member("fg_bg_mask", member, ".png"), images.encode_mask(mask))
                if index % 5 == 4:
                    pictures.add(labels_member(index // 5), b"a table")
    with ArchiveWriter(workspace.archive("bg")) as writer:
        for bg in range(-(-samples // 5)):
            picture = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            writer.add(f"bg/bg_{bg:03d}.png", images.encode_png(picture))
    return workspace


def pictures_of(workspace: Workspace) -> dict[str, NDArray[np.uint8]]:
    """The composites, by the name that their label is to have but for its ending."""
    with Archive.open(workspace.archive("fg_bg")) as archive:
        found = {}
        for name, data in zip(archive.names, archive, strict=True):
            member = parse_member(name)
            if member is not None:
                picture = images.decode(data, "RGB", name=name)
                found[sample_member("depth_fg_bg", member, "")] = picture
    return found


def flip_a_bit(path: Path, index: int) -> tuple[str, bytes]:
    """Damage a member so that it still decodes; returns its name, and the archive undamaged.

    It becomes a JPEG first, if it is a picture: a PNG has sums of its own.
    """
    with Archive(path) as archive:
        members = [(name, bytes(data)) for name, data in zip(archive.names, archive, strict=True)]
    name, data = members[index]
    if name.endswith(".png"):
        picture = images.decode(data, "RGB", name=name)
        name, data = name.replace(".png", ".jpg"), images.encode_jpeg(picture, 90)
        members[index] = name, data
    path.unlink()
    with ArchiveWriter(path) as writer:
        for member in members:
            writer.add(*member)
    whole = path.read_bytes()
    begin = whole.index(name.encode()) + len(name)  # the data comes after the name
    for at in range(begin + len(data) - 3, begin, -1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with Archive(path) as archive:
            assert not archive.crc_is_right(index)
            if name.endswith(".npy"):
                return name, whole
            with suppress(images.ImageError):
                images.decode(archive[index], "RGB", name=name)
                return name, whole
    raise AssertionError(f"no bit of {name} can be flipped unseen")


def formula(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W, 3) → the network's value for each pixel."""
    value: NDArray[np.float64] = (
        picture.astype(np.float64) / 255 @ WEIGHTS.astype(np.float64) + BIAS
    )
    return value


@dataclass
class Formula:
    """An `Estimator`: a weighted sum of a pixel's channels, with faults on demand.

    off: is added to a value. room: pictures that fit into memory at once. poisoned: samples whose
    depth is no number, by index. a_call_s, a_picture_s: how long it takes. seen: the sizes of the
    batches it was called with.
    """

    precision: PrecisionName = "float32"
    quantity: QuantityName = "depth_m"
    full_scale: float | None = 1.0
    model: str = "formula"
    digest: str = "d" * 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    off: float = 0.0
    room: int = 1000
    poisoned: tuple[int, ...] = ()
    poison: float = float("nan")
    a_call_s: float = 0.0
    a_picture_s: float = 0.0
    seen: list[int] = field(default_factory=list)

    def __call__(self, pictures: Tensor) -> Tensor:
        self.seen.append(len(pictures))
        time.sleep(self.a_call_s + self.a_picture_s * len(pictures))
        if len(pictures) > self.room:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        weights = torch.from_numpy(WEIGHTS).double()
        values = (pictures.double() / 255 @ weights + BIAS + self.off).float()
        index = pictures[:, 0, 0, 0].int() * 256 + pictures[:, 0, 0, 1]
        for sample in self.poisoned:
            values[index == sample, -1, -1] = self.poison
        return values


@dataclass(frozen=True)
class FormulaNetwork:
    """Stands for a `Network`: gives the estimators that it is made with."""

    by_precision: Mapping[str, Formula]
    has_precisions: bool = True
    model: str = "formula"
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        return self.model

    def announce(self) -> list[str]:
        return []

    def load(self, device: torch.device, precision: PrecisionName) -> Formula:
        return self.by_precision[precision]


def write_densedepth(path: Path, layout: Layout, seed: int = 0) -> Path:
    """A PyTorch conversion of DenseDepth with random weights, its output about 3.6."""
    random = torch.Generator().manual_seed(seed)
    arrays: dict[str, Tensor] = {}
    for part in parts(layout):
        if len(part.shape) == 1:
            for kind, value in (("weight", 0.3), ("bias", 0.1), ("running_mean", 0.0)):
                arrays[f"{part.name}.{kind}"] = torch.full(part.shape, value)
            arrays[f"{part.name}.running_var"] = torch.ones(part.shape)
            continue
        fan_in = part.shape[1] * part.shape[2] * part.shape[3]
        kernel = torch.randn(part.shape, generator=random) * (2 / fan_in) ** 0.5
        arrays[f"{part.name}.weight"] = kernel
        if part.bias:
            arrays[f"{part.name}.bias"] = torch.zeros(part.shape[0])
    arrays["decoder.conv3.weight"] *= 8  # noise has hardly any depth
    arrays["decoder.conv3.bias"] += 3.6
    torch.save(arrays, path)
    return path


def write_onnx(path: Path, seed: int = 0) -> Path:
    """A network of two 3 × 3 convolutions that gives metres and says so, for pictures of SIDE."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    constants = {
        "w1": random.normal(0, 0.3, (8, 3, 3, 3)),
        "w2": random.normal(0, 0.3, (1, 8, 3, 3)),
        "b2": np.array([4.0]),
    }
    shape: list[Any] = ["n", 3, SIDE, SIDE]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "w1"], ["inner"], pads=[1] * 4),
            helper.make_node("Relu", ["inner"], ["positive"]),
            helper.make_node("Conv", ["positive", "w2", "b2"], ["depth"], pads=[1] * 4),
        ],
        "net",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path
