"""Small archives for the tests of training: made by the ground floor, read by `vathos`."""

from __future__ import annotations

import io
import json
import multiprocessing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from depthgen.archive import ArchiveWriter
from depthgen.images import encode_jpeg, encode_mask, encode_png
from depthgen.workspace import DEPTH_INFO_MEMBER

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerContext

    from numpy.typing import NDArray

    from vathos.trainer import GPUTrainer


@dataclass
class TinySet:
    """A set of 2 x n_bg x n_fg samples: bright squares on smooth backgrounds, nearer than these."""

    folder: Path
    n_bg: int = 4
    n_fg: int = 2
    size: int = 16
    depth_bits: int = 8
    suffix: str = ""
    original: bool = False
    twins: bool = False  # the last background equals the first
    quantity: dict[str, Any] | None = None  # what the depth archive says of itself
    spoil: dict[int, float] = field(default_factory=dict)  # a label's first value, by sample
    bg: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    fg_bg: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    mask: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    depth: dict[int, NDArray[Any]] = field(default_factory=dict)

    def write(self, leave_out: tuple[str, ...] = (), double: str = "") -> TinySet:
        """Write the four archives; members whose name contains a text of `leave_out` are not."""
        members: dict[str, list[tuple[str, bytes]]] = {"bg": []}
        generator = np.random.default_rng(self.n_bg)
        for bg in range(self.n_bg):
            picture = generator.integers(40, 120, 3) * np.ones((self.size, self.size, 1))
            ramp = np.linspace(0, 60, self.size)[:, None, None]
            self.bg[bg] = (picture + ramp).astype(np.uint8)
            if self.twins and bg == self.n_bg - 1:
                self.bg[bg] = self.bg[0]
            name = f"bg/bg_{bg:03d}.jpg"
            members["bg"].append((self._prefixed(name), encode_jpeg(self.bg[bg], 95)))
            for fg in range(self.n_fg):
                for flip in range(2):
                    index = (bg * self.n_fg + fg) * 2 + flip
                    self._sample(members, bg, fg, index, generator)
            members["fg_bg"].append((f"labels/bg_{bg:03d}_label_info.txt", b"x\n"))
        if self.quantity is not None:
            info = json.dumps(self.quantity).encode()
            members["depth_fg_bg"].append((DEPTH_INFO_MEMBER, info))
        members["fg_bg_mask"].reverse()  # nothing may depend on the order
        for stem, pairs in members.items():
            path = self.folder / f"{stem}{self.suffix}.zip"
            path.unlink(missing_ok=True)
            with ArchiveWriter(path) as writer:
                for name, data in pairs:
                    if not any(text in name for text in leave_out):
                        writer.add(name, data)
                    if double and double in name:
                        writer.add(name.replace("fg_00", "fg_0000"), data)
        return self

    def _sample(
        self,
        members: dict[str, list[tuple[str, bytes]]],
        bg: int,
        fg: int,
        index: int,
        generator: np.random.Generator,
    ) -> None:
        side = self.size // 2
        top, left = generator.integers(0, self.size - side, 2)
        mask = np.zeros((self.size, self.size), bool)
        mask[top : top + side, left : left + side] = True
        picture = self.bg[bg].copy()
        picture[mask] = 250 - 10 * fg
        full = 2**self.depth_bits - 1
        depth = np.where(mask, 0.2, 0.6)
        stored = depth.astype(np.float32) if self.depth_bits == 32 else (depth * full).round()
        if index in self.spoil:
            stored[0, 0] = self.spoil[index]
        self.fg_bg[index], self.mask[index] = picture, mask
        self.depth[index] = depth
        pair, place = f"fg_{fg:03d}_bg_{bg:03d}", f"bg_{bg:03d}"
        if self.original:
            depth_name = f"mask_fg_bg/{place}/mask_{pair}_{index:06d}.png"
            mask_name = f"fg_bg_mask/{place}/{pair}_mask_{index:06d}.jpg"
            mask_data = encode_jpeg((mask * 255).astype(np.uint8), 30)
        else:
            depth_name = f"depth_fg_bg/{place}/{pair}_depth_{index:06d}.png"
            mask_name = f"fg_bg_mask/{place}/{pair}_mask_{index:06d}.png"
            mask_data = encode_mask(mask)
        image_name = self._prefixed(f"fg_bg/{place}/{pair}_{index:06d}.jpg")
        for stem, name, data in (
            ("fg_bg", image_name, encode_jpeg(picture, 95)),
            ("fg_bg_mask", self._prefixed(mask_name), mask_data),
            ("depth_fg_bg", depth_name, self._encode_depth(stored)),
        ):
            members.setdefault(stem, []).append((name, data))

    def _prefixed(self, name: str) -> str:
        return f"depth_dataset_cleaned/{name}" if self.original else name

    def _encode_depth(self, stored: NDArray[Any]) -> bytes:
        if self.depth_bits == 32:
            buffer = io.BytesIO()
            np.save(buffer, stored.astype(np.float32))
            return buffer.getvalue()
        return encode_png(stored.astype(np.uint8 if self.depth_bits == 8 else np.uint16))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads that share so little wait for each other, and minutes where a core is taken."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _networks_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.vathos.trainings import name_networks

    name_networks(monkeypatch)


@pytest.fixture
def tiny_set(tmp_path: Path) -> Callable[..., TinySet]:
    """A maker of sets below the test's folder; keywords are the fields of `TinySet`."""

    def make(**fields: Any) -> TinySet:
        folder = tmp_path / "archives"
        folder.mkdir(exist_ok=True)
        return TinySet(folder, **fields)

    return make


@pytest.fixture
def make_trainer(tiny_set: Callable[..., TinySet], tmp_path: Path) -> Callable[..., GPUTrainer]:
    """A maker of trainers on a tiny set; keywords are those of `trainings.build_trainer`."""
    from tests.vathos.trainings import build_trainer
    from vathos.data_loader import DenseDepth

    made = tiny_set().write()
    return partial(build_trainer, tmp_path, DenseDepth(made.folder, made.folder))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> ForkServerContext:
    """A context of processes that find the tests and start at once.

    They are forked from one that has imported `trainings` and run nothing, so no thread has begun.
    """
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.syspath_prepend(root)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.vathos.trainings"])
    return context
