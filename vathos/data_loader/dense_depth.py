"""DenseDepth: quadruples of background, composite, mask and depth, read straight from the archives.

Nothing is unpacked: a sample is four members, decoded when asked for, except the few hundred
backgrounds, which are decoded once and kept. The one rule: members are paired by the sample index
in their names, never by position, and a missing or doubled one is an error that names it.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from depthgen.archive import Archive
from depthgen.images import decode
from depthgen.workspace import DEPTH_INFO_MEMBER, Member, Workspace, parse_member, sample_member
from vathos.data_loader import figures
from vathos.data_loader.batch_memory import BatchMemory
from vathos.data_loader.groups import byte_equal, linked, picture_positions
from vathos.data_loader.members import MASK_THRESHOLD, Members
from vathos.errors import DataError
from vathos.utils.config import archive_suffix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["DenseDepth", "normalise"]

SAMPLE_ARCHIVES = ("fg_bg", "fg_bg_mask", "depth_fg_bg")
ARCHIVES = ("bg", *SAMPLE_ARCHIVES)
SUFFIXES = ("", "_small")
FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}

Batch = dict[str, "Tensor"]


def normalise(batch: Mapping[str, Tensor]) -> Batch:
    """Stored numbers to float32 in [0, 1], on the device where they are.

    uint8 and uint16 are divided by their full scale, float32 is a label already; `fg_bg_mask`
    becomes exactly 0 or 1, white from 128 (a JPEG mask is not quite black and white).
    """
    out = {}
    for key, value in batch.items():
        if key == "fg_bg_mask":
            out[key] = (value >= MASK_THRESHOLD).to(torch.float32)
        elif value.dtype in FULL_SCALE:
            out[key] = value.to(torch.float32) / FULL_SCALE[value.dtype]
        else:
            out[key] = value.to(torch.float32)
    return out


class DenseDepth(Dataset[Batch]):
    """The data set of four archives `bg`, `fg_bg`, `fg_bg_mask`, `depth_fg_bg` (.zip, or shards).

    root: the folder that `extractall` unpacks into; nothing else uses it.
    source_zipfolder: the folder of the archives.
    train: accepted for the original's sake; which samples train is decided by the split.
    transform, target_transform: called with float tensors (N, C, H, W) in [0, 1]: the first with
    `bg` and with `fg_bg`, the second with `fg_bg_mask` and with `depth_fg_bg`.
    suffix: "" or "_small" (also "small") picks that variant of the archives; None takes the plain
    ones if there.
    size: the side in pixels to bring the pictures to, no larger than they are; None leaves them.

    An item is a dict of float32 tensors in [0, 1]: `bg` (3, H, W), `fg_bg` (3, H, W), `fg_bg_mask`
    (1, H, W) of exactly 0 and 1, and `depth_fg_bg` (1, H, W), the label as its archive defines it.
    Items are in the order of their sample index. Raises `DataError` where the archives do not fit
    together, and `ArchiveError` or `ImageError` where one is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        source_zipfolder: str | Path,
        train: bool = True,
        transform: Callable[[Tensor], Tensor] | None = None,
        target_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        suffix: str | None = None,
        size: int | None = None,
    ) -> None:
        self.root = Path(root)
        self.transform = transform
        self.target_transform = target_transform
        self._workspace = Workspace(source_zipfolder)
        self.paths = _find_archives(self._workspace.root, suffix)
        self.archives = {stem: Archive.open(path).at_random() for stem, path in self.paths.items()}
        tables = {stem: self._table(stem) for stem in SAMPLE_ARCHIVES}
        self._check_pairs(tables)
        first = tables["fg_bg"]
        self.sample_indices = first["index"]
        self.backgrounds = first["bg"]
        self.foregrounds = first["fg"]
        self._positions = {stem: table["position"] for stem, table in tables.items()}
        self._bg_positions = self._background_positions()
        self._bg_pictures: dict[int, NDArray[np.uint8]] = {}
        self._memory = BatchMemory()
        stored = self._stored_size(size)
        self._members = {
            stem: Members(archive, self.paths[stem], stem, stored, size)
            for stem, archive in self.archives.items()
        }
        self.height, self.width = self._members["bg"].shape

    def __len__(self) -> int:
        return len(self.sample_indices)

    def __getitem__(self, row: int) -> Batch:
        if not -len(self) <= row < len(self):
            raise IndexError(f"the data set has {len(self)} samples, no sample {row}")
        return {key: value[0] for key, value in self.prepare(self.load_batch([row])).items()}

    def load_batch(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
        """Samples as they are stored, for normalising on the device.

        `bg` and `fg_bg` uint8 (N, 3, H, W) in channels-last order, `fg_bg_mask` uint8 (N, 1, H, W),
        `depth_fg_bg` (N, 1, H, W) uint8, uint16 or float32. `prepare` makes floats of them.
        """
        rows = np.asarray(indices, dtype=np.int64)
        bg = self._memory.empty((len(rows), self.height, self.width, 3), np.dtype(np.uint8))
        for number, background in enumerate(self.backgrounds[rows].tolist()):
            bg[number] = self._background(background)
        fg_bg, mask, depth = (self._read(stem, rows) for stem in SAMPLE_ARCHIVES)
        return {
            "bg": torch.from_numpy(bg).permute(0, 3, 1, 2),
            "fg_bg": torch.from_numpy(fg_bg).permute(0, 3, 1, 2),
            "fg_bg_mask": torch.from_numpy(mask)[:, None],
            "depth_fg_bg": torch.from_numpy(depth)[:, None],
        }

    @property
    def common(self) -> dict[str, NDArray[np.int64]]:
        """What many samples have in common: rows of one number have the same `bg`."""
        return {"bg": self.backgrounds}

    def prepare(self, batch: Mapping[str, Tensor]) -> Batch:
        """`normalise`, then the transforms, on whichever device the batch is."""
        out = normalise(batch)
        for keys, transform in (
            (("bg", "fg_bg"), self.transform),
            (("fg_bg_mask", "depth_fg_bg"), self.target_transform),
        ):
            if transform is not None:
                out.update({key: transform(out[key]) for key in keys})
        return out

    def background_groups(self) -> list[list[int]]:
        """Numbers of backgrounds that must split together; groups may overlap.

        They are the same byte for byte, or linked as copies in `sources/sources.jsonl` beside the
        archives.
        """
        return [
            *byte_equal(self.archives["bg"], self._bg_positions),
            *linked(self._workspace.provenance, "bg"),
        ]

    def cutout_groups(self) -> list[list[int]]:
        """The same of cut-outs, which are compared where `fg.zip` lies beside the archives."""
        groups = linked(self._workspace.provenance, "fg")
        path = self._workspace.archive("fg")
        if not _exists(path):
            return groups
        with Archive.open(path) as cutouts:
            return [*byte_equal(cutouts, picture_positions(cutouts, "fg")), *groups]

    @cached_property
    def quantity(self) -> dict[str, Any] | None:
        """What the depth label means: the archive's own record of it, None if it has none.

        The archives of the original have none. Raises `DataError` for a record that is damaged.
        """
        archive = self.archives["depth_fg_bg"]
        if DEPTH_INFO_MEMBER not in archive:
            return None
        try:
            quantity = json.loads(bytes(archive[DEPTH_INFO_MEMBER]))
        except ValueError:
            quantity = None
        if not isinstance(quantity, dict):
            raise DataError(
                f"{self.paths['depth_fg_bg']}: {DEPTH_INFO_MEMBER} is damaged; make the labels "
                "again, or take that member out"
            )
        return quantity

    def digests(self) -> dict[str, str]:
        """SHA-256 of each archive's central directory, by the archive's name."""
        return {stem: archive.digest() for stem, archive in self.archives.items()}

    def sample_name(self, row: int) -> str:
        """The composite's member name, which names the sample."""
        return self.archives["fg_bg"].names[int(self._positions["fg_bg"][row])]

    def extractall(self) -> None:
        """Unpack the four archives below `root`. Training does not need it."""
        for archive in self.archives.values():
            archive.extract(self.root)

    @staticmethod
    def apply_on_batch(
        batch: Mapping[str, Any], apply_func: Callable[[Any], Any]
    ) -> dict[str, Any]:
        """A new batch with `apply_func` called on each value of `batch`."""
        return {key: apply_func(value) for key, value in batch.items()}

    @staticmethod
    def plot_sample(sample: Mapping[str, Tensor]) -> Figure:
        """One item's four pictures in a row."""
        return figures.plot_sample(sample)

    @staticmethod
    def plot4_batch(batch: Mapping[str, Tensor]) -> Figure:
        """The first four samples of a batch, a row each."""
        return figures.plot4_batch(batch)

    @staticmethod
    def plot_results(batch: Mapping[str, Tensor]) -> Figure:
        """The first eight samples of a batch with `pred_mask` and `pred_depth`, a row each."""
        return figures.plot_results(batch)

    def _table(self, stem: str) -> dict[str, NDArray[np.int64]]:
        """Columns index, bg, fg and position in the archive, in the order of the index."""
        members = (
            (member.index, member.bg, member.fg, position)
            for position, name in enumerate(self.archives[stem].names)
            if (member := parse_member(name))
        )
        # Straight into numbers: a list of a million tuples would take 200 MB.
        columns = np.fromiter(members, np.dtype((np.int64, 4))).T
        if not columns.size:
            raise DataError(f"{self.paths[stem]} has no member whose name is that of a sample")
        columns = columns[:, np.argsort(columns[0], kind="stable")]
        doubled = np.flatnonzero(columns[0, 1:] == columns[0, :-1])
        if doubled.size:
            at = columns[3, doubled[0] : doubled[0] + 2]
            first, second = (self.archives[stem].names[int(position)] for position in at)
            raise DataError(
                f"{self.paths[stem]} has two members for one sample, {first} and {second}; "
                f"make the archive again"
            )
        return dict(zip(("index", "bg", "fg", "position"), columns, strict=True))

    def _check_pairs(self, tables: Mapping[str, Mapping[str, NDArray[np.int64]]]) -> None:
        """Every sample of one archive is in the others, with the same background and cut-out."""
        for stem in SAMPLE_ARCHIVES[1:]:
            for here, there in ((stem, "fg_bg"), ("fg_bg", stem)):
                table = tables[there]
                missing = np.flatnonzero(~np.isin(table["index"], tables[here]["index"]))
                if missing.size:
                    at = int(missing[0])
                    raise DataError(self._missing(here, there, table, at, missing.size))
            for column in ("bg", "fg"):
                differ = np.flatnonzero(tables[stem][column] != tables["fg_bg"][column])
                if differ.size:
                    position = int(tables[stem]["position"][differ[0]])
                    raise DataError(
                        f"{self.paths[stem]}: {self.archives[stem].names[position]} has the sample "
                        f"index of another {column} in fg_bg; the two archives are not of one set"
                    )

    def _missing(
        self, here: str, there: str, table: Mapping[str, NDArray[np.int64]], at: int, count: int
    ) -> str:
        member = Member(int(table["fg"][at]), int(table["bg"][at]), int(table["index"][at]))
        ending = ".jpg" if here == "fg_bg" else ".png"
        more = f" (and {count - 1} more)" if count > 1 else ""
        partner = self.archives[there].names[int(table["position"][at])]
        return (
            f"{self.paths[here]} has no member {sample_member(here, member, ending)}{more} to go "
            f"with {partner} of {self.paths[there].name}; run the stage that writes it again"
        )

    def _background_positions(self) -> dict[int, int]:
        positions = picture_positions(self.archives["bg"], "bg")
        for number in np.unique(self.backgrounds):
            if int(number) not in positions:
                raise DataError(
                    f"{self.paths['bg']} has no member bg/bg_{number:03d}.jpg, which "
                    f"{self.paths['fg_bg'].name} was made with"
                )
        return positions

    def _stored_size(self, size: int | None) -> tuple[int, int]:
        """(height, width) of the first background, which must not be smaller than `size`."""
        position = self._bg_positions[int(self.backgrounds[0])]
        name = f"{self.paths['bg']}: {self.archives['bg'].names[position]}"
        height, width = decode(self.archives["bg"][position], "RGB", name=name).shape[:2]
        if size is not None and (height != width or height < size):
            raise DataError(
                f"{name} is {height} x {width}, and dataset.size {size} makes squares smaller; "
                "lower it, or leave it out"
            )
        return height, width

    def _background(self, number: int) -> NDArray[np.uint8]:
        picture = self._bg_pictures.get(number)
        if picture is None:
            picture = self._members["bg"].read(self._bg_positions[number])
            self._bg_pictures[number] = picture
        return picture

    def _read(self, stem: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        members = self._members[stem]
        batch: NDArray[Any] | None = None
        for number, position in enumerate(self._positions[stem][rows].tolist()):
            picture = members.read(position)
            if batch is None:
                batch = self._memory.empty((len(rows), *picture.shape), picture.dtype)
            if picture.dtype != batch.dtype:
                raise DataError(f"{self.paths[stem]} mixes depth maps of different types")
            batch[number] = picture  # while it is in the processor's cache, unlike np.stack
        assert batch is not None, "a batch has a sample"
        return batch


def _find_archives(folder: Path, suffix: str | None) -> dict[str, Path]:
    """Paths of the four archives of the first variant that is there."""
    for variant in SUFFIXES if suffix is None else (archive_suffix(suffix),):
        paths = {stem: folder / f"{stem}{variant}.zip" for stem in ARCHIVES}
        missing = [path for path in paths.values() if not _exists(path)]
        if not missing:
            return paths
        if suffix is not None or len(missing) < len(paths):
            names = ", ".join(path.name for path in missing)
            raise DataError(f"{folder} has no {names}; run the stages that write them first")
    raise DataError(
        f"{folder} has neither fg_bg.zip nor fg_bg_small.zip; name the folder of the archives in "
        f"dataset.zip_dir, or make them first"
    )


def _exists(path: Path) -> bool:
    return path.exists() or any(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))
