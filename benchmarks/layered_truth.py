"""How right a layered label is: against a render with the object really in the room.

    python -m benchmarks.layered_truth [--rooms 40] [--keep DIR]

A piece of furniture, a person and an animal are put, one at a time, on the free floor of rendered
rooms, where nothing hides them. The room without the body gives the background's depth, the room
with it the truth; the mask is where the two depths differ. `depthmap --model layered` labels these,
and `depth-agreement` compares its labels with the truth (16 bits). `--keep` keeps the archives.

A body is seen by the same ray caster as the room; limbs are rods with round ends, not melted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import machine
from depthgen import images
from depthgen.archive import Archive, ArchiveWriter
from depthgen.depth import DepthmapOptions
from depthgen.depth import run as depthmap
from depthgen.depth.agreement import AgreementOptions
from depthgen.depth.agreement import run as agree
from depthgen.depth.layered import plane_depth
from depthgen.depth.quantity import FAR_M, Quantity, quantise
from depthgen.sources.beasts import BEASTS
from depthgen.sources.creatures import animal
from depthgen.sources.furniture import BUILDERS, Random, make_kit
from depthgen.sources.people import person
from depthgen.sources.raycast import ELLIPSOID, FRUSTUM, Scene, Solid, placed
from depthgen.sources.render import depth_map, generator
from depthgen.sources.rooms import Room, extent, plan_room
from depthgen.workspace import DEPTH_INFO_MEMBER, Member, Workspace, sample_member

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthgen.sources.bodies import Limb
    from depthgen.sources.materials import Material

    Floats = NDArray[np.float64]

_SIDE = 192
_TRIES = 60
_LEAST_PX = 300
_KINDS = ("furniture", "person", "animal")


def rod(limb: Limb, material: Material) -> list[Solid]:
    """A limb as two balls and a cone between them, so that the ray caster knows it."""
    ends = sorted(((limb.r0, limb.start), (limb.r1, limb.end)), reverse=True)
    (wide, low), (narrow, high) = ((r, np.array(p, np.float64)) for r, p in ends)
    solids = [Solid(ELLIPSOID, place, (r, r, r), material) for r, place in ends]
    long = float(np.linalg.norm(high - low))
    if long > 1e-4:
        up = (high - low) / long
        side = np.cross(up, np.eye(3)[np.abs(up).argmin()])
        side /= np.linalg.norm(side)
        axes, half = np.stack([side, np.cross(up, side), up]), (wide, wide, long / 2)
        x, y, z = ((low + high) / 2).tolist()
        solids.append(Solid(FRUSTUM, (x, y, z), half, material, narrow / wide, axes))
    return solids


def draw_body(rng: Random, kind: str) -> list[Solid]:
    """A thing that stands on z = 0 about the origin."""
    kit = make_kit(rng)
    if kind == "furniture":
        return BUILDERS[str(rng.choice(list(BUILDERS)))](rng, kit)
    body = person(rng) if kind == "person" else animal(rng, str(rng.choice(list(BEASTS))))
    solids = [part for limb in body.limbs for part in rod(limb, kit.white)]
    low, _ = extent(solids)
    return placed(solids, 0.0, (0.0, 0.0, -float(low[2])))


def is_free(room: Room, thing: list[Solid]) -> bool:
    """Whether a thing stands inside the room, off the camera and off whatever stands there."""
    low, high = extent(thing)
    # What is lower than a hand's breadth, a rug or a skirting board, is in nobody's way.
    boxes = [box for box in (extent([each]) for each in room.solids) if box[1][2] > 0.08]
    eye = room.camera.place[:2]
    nearest = np.clip(eye, low[:2], high[:2]) - eye
    inside = (low[:2] >= 0.05).all() and (high <= room.size - 0.05).all()
    clash = any((low < top).all() and (bottom < high).all() for bottom, top in boxes)
    return bool(inside and not clash and np.linalg.norm(nearest) > 1.2)


def stand(rng: Random, room: Room, empty: Floats, thing: list[Solid]) -> Floats | None:
    """The room's depth (m) with the thing somewhere in full view, or None if it fits nowhere."""
    for _ in range(_TRIES):
        x, y = (rng.uniform(0.3, 0.7) * room.size[0], rng.uniform(0.2, 0.9) * room.size[1])
        there = placed(thing, float(rng.uniform(0, 2 * np.pi)), (float(x), float(y), 0.0))
        if not is_free(room, there):
            continue
        both = depth_map(room, Scene([*room.solids, *there]), _SIDE)
        outline = depth_map(room, Scene(there), _SIDE) < depth_map(room, Scene([]), _SIDE)
        seen = both < empty
        rim = outline[[0, -1]].any() or outline[:, [0, -1]].any()
        if not rim and seen.sum() >= _LEAST_PX and (seen == outline).all():
            return both
    return None


def render_all(rooms: int) -> tuple[list[Floats], list[tuple[int, str, Floats]]]:
    """Empty rooms' depth, and (room, kind, depth with a body) for every body that fits."""
    empties: list[Floats] = []
    pairs = []
    for index in range(rooms):
        room = plan_room(generator(1, 1, index))
        empties.append(depth_map(room, Scene(room.solids), _SIDE))
        for number, kind in enumerate(_KINDS):
            rng = generator(1, 8 + number, index)
            full = stand(rng, room, empties[-1], draw_body(rng, kind))
            if full is not None:
                pairs.append((index, kind, full))
    return empties, pairs


def write(folder: Path, empties: list[Floats], pairs: list[tuple[int, str, Floats]]) -> Path:
    """A workspace with masks and backgrounds' depth, and the truth as an archive of labels."""
    workspace, truth = Workspace(folder), folder / "truth.zip"
    quantity = Quantity("depth_m", FAR_M, 16, "render", _SIDE)
    with ArchiveWriter(workspace.archive("bg_depth")) as depths:
        for bg, empty in enumerate(empties):
            millimetres = np.rint(empty * 1000).astype(np.uint16)
            depths.add(f"bg_depth/bg_{bg:03d}.png", images.encode_png(millimetres))
    with ArchiveWriter(workspace.archive("fg_bg_mask")) as masks, ArchiveWriter(truth) as labels:
        labels.add(DEPTH_INFO_MEMBER, json.dumps(asdict(quantity)).encode())
        for index, (bg, _, full) in enumerate(pairs):
            member = Member(index, bg, index)
            mask, label = images.encode_mask(full < empties[bg]), quantise(full, 16)
            masks.add(sample_member("fg_bg_mask", member, ".png"), mask)
            labels.add(sample_member("depth_fg_bg", member, ".png"), images.encode_png(label))
    return truth


def score(empty: Floats, full: Floats, label: Floats) -> dict[str, float]:
    """AbsRel inside the mask of the label (m) and of planes that stand elsewhere.

    cover: 1 where z_cover is nearer than z_contact, and so decides. off: where the plane stands
    against the body's mean depth, signed, as a share of it. deep: from the body's nearest to its
    farthest seen point, likewise.
    """
    mask = full < empty
    truth, under = full[mask], empty[mask]
    lowest = np.flatnonzero(mask.any(axis=1))[-1]
    plane, contact = plane_depth(mask, empty), float(np.median(empty[lowest][mask[lowest]]))

    def absrel(z: Floats | float) -> float:
        return float(np.mean(np.abs(np.minimum(z, under) - truth) / truth))

    return {
        "label": absrel(label[mask]),
        "plane": absrel(plane),
        "best": min(map(absrel, np.linspace(truth.min(), truth.max(), 200).tolist())),
        "cover": float(plane < contact),
        "off": plane / float(truth.mean()) - 1,
        "deep": float(np.ptp(truth) / truth.mean()),
    }


def print_scores(scores: list[tuple[str, dict[str, float]]]) -> None:
    """A row a kind, and what the error is made of."""
    print("AbsRel inside the object, body by body; the label's, and that of other planes:")
    print(
        "bodies    |   n | median | mean   | 90 %   | unrounded | best plane | z_cover decides "
        "| plane off | body's depth"
    )
    mean: dict[str, float] = {}
    for kind in (*_KINDS, "all"):
        rows = [each for name, each in scores if kind in (name, "all")]
        mean = {key: float(np.mean([each[key] for each in rows])) for key in rows[0]}
        low, high = np.percentile([each["label"] for each in rows], (50, 90))
        print(
            f"{kind:9} | {len(rows):3} | {low:.4f} | {mean['label']:.4f} | {high:.4f} "
            f"| {mean['plane']:9.4f} | {mean['best']:10.4f} | {mean['cover']:15.0%} "
            f"| {mean['off']:+9.1%} | {mean['deep']:.1%}"
        )
    print(
        f"of {mean['label']:.4f}: {mean['best']:.4f} because a body is no plane, "
        f"{mean['plane'] - mean['best']:.4f} because z_contact is not the best plane, "
        f"{mean['label'] - mean['plane']:.4f} from 8 bits"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rooms", type=int, default=40)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    print(machine("numpy"))
    empties, pairs = render_all(options.rooms)
    print(f"{len(pairs)} bodies in {len(empties)} rooms of {_SIDE} px")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        truth = write(folder, empties, pairs)
        workspace = Workspace(folder)
        depthmap(workspace, DepthmapOptions(model="layered", workers=1))
        labels, masks = workspace.archive("depth_fg_bg"), workspace.archive("fg_bg_mask")
        picture = folder / "agreement.png" if options.keep else None
        print(agree(labels, truth, masks, AgreementOptions(picture, workers=1)).table())
        scores = []
        with Archive(labels) as archive:
            for index, (bg, kind, full) in enumerate(pairs):
                name = sample_member("depth_fg_bg", Member(index, bg, index), ".png")
                label = images.decode_depth(archive[name]) / 255 * FAR_M
                scores.append((kind, score(empties[bg], full, label)))
    print_scores(scores)


if __name__ == "__main__":
    main()
