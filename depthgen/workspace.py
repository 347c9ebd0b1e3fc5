"""Where everything lies: every path and every member name of a workspace, in one place.

The one rule: no other module builds a path or a member name, or takes one apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["bg", "fg"]

_MEMBER = re.compile(r"(?:^|[/_])fg_([0-9]+)_bg_([0-9]+)_(?:[a-z]+_)?([0-9]+)\.(?:jpe?g|png|npy)\Z")
_PICTURE = re.compile(r"(?:^|/)(bg|fg)_([0-9]+)\.[a-z]+\Z")


@dataclass(frozen=True)
class SampleId:
    """What a sample is made of; `flip` is 1 where the cut-out is mirrored."""

    bg: int
    fg: int
    placement: int
    flip: int


@dataclass(frozen=True)
class Layout:
    """How many of each there are, and so which index a sample has.

    The order is bg, fg, placement, flip:
    `((bg · n_fg + fg) · placements + placement) · flips + flip`.
    """

    n_bg: int
    n_fg: int
    placements: int
    flips: int = 2

    @property
    def per_pair(self) -> int:
        """Samples of one background with one cut-out."""
        return self.placements * self.flips

    @property
    def per_background(self) -> int:
        return self.n_fg * self.per_pair

    @property
    def samples(self) -> int:
        return self.n_bg * self.per_background

    def index(self, sample: SampleId) -> int:
        pair = sample.bg * self.n_fg + sample.fg
        return (pair * self.placements + sample.placement) * self.flips + sample.flip

    def sample(self, index: int) -> SampleId:
        rest, flip = divmod(index, self.flips)
        rest, placement = divmod(rest, self.placements)
        bg, fg = divmod(rest, self.n_fg)
        return SampleId(bg, fg, placement, flip)


@dataclass(frozen=True)
class Member:
    """What a sample member's name says, whichever archive it is in."""

    fg: int
    bg: int
    index: int


def parse_member(name: str) -> Member | None:
    """Read a sample member's name, ours or the original's; None for labels and all else."""
    match = _MEMBER.search(name)
    return Member(int(match[1]), int(match[2]), int(match[3])) if match else None


def parse_picture(name: str) -> tuple[str, int] | None:
    """("bg", 7) from `bg/bg_007.jpg` and the like; None for any other name."""
    match = _PICTURE.search(name)
    return (match[1], int(match[2])) if match else None


def picture_stem(kind: Kind, number: int) -> str:
    """`bg_007`."""
    return f"{kind}_{number:03d}"


def picture_member(archive: str, kind: Kind, number: int, suffix: str) -> str:
    """The member of a picture: `fg_mask/fg_012.png` for ("fg_mask", "fg", 12, ".png")."""
    return f"{archive}/{picture_stem(kind, number)}{suffix}"


_SAMPLE_WORDS = {"fg_bg": "", "fg_bg_mask": "mask_", "depth_fg_bg": "depth_"}


def sample_member(archive: str, member: Member, suffix: str) -> str:
    """A sample's member in `fg_bg`, `fg_bg_mask` or `depth_fg_bg`; the suffix has its dot."""
    # Spelt out, for this runs twice for each of a million samples.
    bg, word = f"bg_{member.bg:03d}", _SAMPLE_WORDS[archive]
    return f"{archive}/{bg}/fg_{member.fg:03d}_{bg}_{word}{member.index:06d}{suffix}"


def labels_member(bg: int) -> str:
    """The table of one background's samples, a member of `fg_bg.zip`."""
    return f"labels/{picture_stem('bg', bg)}_label_info.txt"


# What a depth map comes in.
DEPTH_SUFFIXES = (".png", ".npy")
DEPTH_INFO_MEMBER = "labels/depth_fg_bg_info.json"


class Workspace:
    """The paths below one folder. Making one touches nothing."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def archive(self, name: str) -> Path:
        """`fg_bg` → `W/fg_bg.zip`."""
        return self.root / f"{name}.zip"

    def sources(self, kind: Kind | Literal["bg_depth"]) -> Path:
        """The folder of the original pictures of a kind."""
        return self.root / "sources" / kind

    @property
    def provenance(self) -> Path:
        """One line of JSON a picture or URL."""
        return self.root / "sources" / "sources.jsonl"

    def manifest(self, stage: str) -> Path:
        return self.root / "manifests" / f"{stage}.json"

    @property
    def stats(self) -> Path:
        return self.root / "stats.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def weights(self) -> Path:
        return self.root / "weights"

    @property
    def cache(self) -> Path:
        """Decoded samples; may be deleted at any time."""
        return self.root / "cache"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run_folder(self, name: str) -> Path:
        return self.runs / name
