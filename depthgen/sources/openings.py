"""What belongs to a room's walls: windows, doors, boards, pictures.

The one rule: a thing is built with its back at y = 0 and its front towards -y, and only then
moved to its wall.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from depthgen.sources.furniture import Kit, Random, Vector, box, darker, post, varied
from depthgen.sources.materials import FABRIC, PICTURE, PLAIN, STRIPES, Material, srgb
from depthgen.sources.raycast import FRUSTUM, Floats, Solid, placed, turn

WEST, EAST, SOUTH, NORTH, FLOOR, CEILING = range(6)


@dataclass(frozen=True)
class Panel:
    """A window or lit rectangle: its middle, two half edges and the direction that it faces (m)."""

    centre: Floats
    edge_u: Floats
    edge_v: Floats
    normal: Floats
    radiance: Floats
    visible: bool = True


def wall_frame(size: Floats, wall: int, along: float) -> tuple[float, Vector]:
    """Yaw and floor point of a thing whose back stands against `wall`, `along` metres along it."""
    if wall == NORTH:
        return 0.0, (along, float(size[1]), 0.0)
    if wall == WEST:
        return np.pi / 2, (0.0, along, 0.0)
    return -np.pi / 2, (float(size[0]), along, 0.0)


def openings(
    rng: Random, size: Floats, kit: Kit, solids: list[Solid]
) -> tuple[list[Panel], list[tuple[int, float, float]]]:
    """Windows and perhaps a door; the stretches of wall that they take as (wall, from, to)."""
    panels: list[Panel] = []
    taken: list[tuple[int, float, float]] = []
    wall = int(rng.choice([WEST, EAST, NORTH, NORTH]))
    length = float(size[0] if wall == NORTH else size[1])
    wide = float(rng.uniform(0.9, 1.7))
    count = min(2, int(rng.integers(1, 3)), int(length / (wide + 0.7)))
    sill = float(rng.choice([0.12, 0.75, 0.9]))
    tall = float(size[2]) - float(rng.uniform(0.3, 0.45)) - sill
    for k in range(count):
        along = length * (k + 1) / (count + 1) + float(rng.uniform(-0.15, 0.15))
        if wall != NORTH:
            along = 1.2 + (length - 1.2) * (k + 0.6) / (count + 0.2)
        panels.append(_window(rng, size, kit, (wall, along, wide, sill, tall), solids))
        taken.append((wall, along - wide / 2 - 0.3, along + wide / 2 + 0.3))
    if rng.random() < 0.5:
        other = int(rng.choice([w for w in (WEST, EAST, NORTH) if w != wall]))
        length = float(size[0] if other == NORTH else size[1])
        along = float(rng.uniform(0.4, 0.85)) * length
        along = min(along, length - 0.6)
        _door(rng, size, other, along, kit, solids)
        taken.append((other, along - 0.65, along + 0.65))
    return panels, taken


def _window(
    rng: Random,
    size: Floats,
    kit: Kit,
    where: tuple[int, float, float, float, float],
    solids: list[Solid],
) -> Panel:
    wall, along, wide, sill, tall = where
    yaw, at = wall_frame(size, wall, along)
    frame = kit.white if rng.random() < 0.7 else kit.wood
    bar, thick = 0.05, 0.06
    parts = [
        box(0, -thick / 2, sill + tall - bar, wide + bar, thick, bar, frame),
        box(0, -thick / 2, sill, wide + bar, thick, bar, frame),
        box(0, -0.09, sill - 0.04, wide + 0.2, 0.18, 0.035, frame),
    ]
    parts += [box(s * wide / 2, -thick / 2, sill, bar, thick, tall, frame) for s in (-1, 1)]
    panes = int(rng.integers(1, 4))
    parts += [
        box((k / panes - 0.5) * wide, -0.02, sill, 0.04, 0.04, tall, frame) for k in range(1, panes)
    ]
    if rng.random() < 0.4:
        parts.append(box(0, -0.02, sill + tall * 0.62, wide, 0.04, 0.04, frame))
    if rng.random() < 0.6:
        parts += _curtains(rng, kit, wide, sill, min(sill + tall + 0.12, float(size[2]) - 0.03))
    solids += placed(parts, yaw, at)
    axes = turn(yaw)
    centre = np.asarray(at) + np.array([0, 0, sill + tall / 2])
    return Panel(
        centre,
        axes[0] * wide / 2,
        np.array([0, 0, tall / 2]),
        -axes[1],
        np.array([0.95, 1.0, 1.08]) * rng.uniform(2.2, 4.0),
    )


def _curtains(rng: Random, kit: Kit, wide: float, sill: float, top: float) -> list[Solid]:
    """Two curtains of five folds each on a rod at height `top`."""
    colour = varied(rng, (0.85, 0.82, 0.76), 0.12)
    cloth = Material(colour, darker(colour, 0.85), FABRIC, 0.05)
    low = 0.02 if rng.random() < 0.7 else sill - 0.15
    parts = []
    for side in (-1, 1):
        for k in range(5):
            x, y = side * (wide / 2 + 0.02 + 0.075 * k), -0.13 - 0.02 * (k % 2)
            parts.append(post(x, y, low, 0.05, top - low, cloth))
    half, lying = (0.013, 0.013, wide / 2 + 0.5), turn(roll=np.pi / 2)
    return [*parts, Solid(FRUSTUM, (0, -0.14, top), half, kit.metal, 1.0, lying)]


def _door(
    rng: Random, size: Floats, wall: int, along: float, kit: Kit, solids: list[Solid]
) -> None:
    yaw, at = wall_frame(size, wall, along)
    m = kit.white if rng.random() < 0.6 else kit.wood
    inset = replace(m, colour=darker(m.colour, 0.92), second=darker(m.second, 0.92))
    parts = [box(0, -0.02, 0, 0.86, 0.04, 2.03, m), box(0, -0.03, 2.03, 1.04, 0.06, 0.09, m)]
    parts += [box(s * 0.475, -0.03, 0, 0.09, 0.06, 2.03, m) for s in (-1, 1)]
    for z, h in ((0.18, 0.62), (0.98, 0.86)):
        parts += [box(s * 0.2, -0.043, z, 0.28, 0.012, h, inset) for s in (-1, 1)]
    parts.append(box(0.35, -0.075, 1.0, 0.12, 0.02, 0.02, kit.metal))
    solids += placed(parts, yaw, at)


def trim(rng: Random, size: Floats, surfaces: tuple[Material, ...], solids: list[Solid]) -> None:
    """Skirting boards, perhaps a cornice, perhaps a wainscot."""
    w, d, h = (float(v) for v in size)
    white = Material(srgb(0.93, 0.92, 0.9))
    strips = [(0.0, 0.09, 0.016, white)]
    if rng.random() < 0.4:
        strips.append((h - 0.09, 0.09, 0.05, white))
    if rng.random() < 0.18:
        panel = darker(surfaces[0].colour, 0.75)
        strips.append((0.09, 0.8, 0.012, Material(panel, darker(panel, 0.9), STRIPES, 0.12)))
        strips.append((0.89, 0.05, 0.022, white))
    for z, tall, thick, m in strips:
        solids += [
            box(w / 2, d - thick / 2, z, w, thick, tall, m),
            replace(box(thick / 2, d / 2, z, thick, d, tall, m)),
            replace(box(w - thick / 2, d / 2, z, thick, d, tall, m)),
        ]


def pictures(
    rng: Random,
    size: Floats,
    kit: Kit,
    openings: list[tuple[int, float, float]],
    solids: list[Solid],
) -> None:
    """Framed pictures wherever a wall is free at eye height."""
    for _ in range(int(rng.integers(1, 6))):
        wall = int(rng.choice([NORTH, NORTH, WEST, EAST]))
        length = float(size[0] if wall == NORTH else size[1])
        along = float(rng.uniform(0.12, 0.88)) * length
        w, h = float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.3, 0.7))
        z = float(rng.uniform(1.5, 1.65)) - h / 2
        if any(k == wall and a < along + w / 2 and along - w / 2 < b for k, a, b in openings):
            continue
        openings.append((wall, along - w / 2 - 0.1, along + w / 2 + 0.1))
        art = Material(
            varied(rng, (0.5, 0.5, 0.5), 0.35),
            varied(rng, (0.6, 0.6, 0.5), 0.3),
            PICTURE,
            w / 2,
            shift=float(rng.uniform(0, 9)),
        )
        frame = [kit.wood, kit.metal, kit.white][rng.integers(3)]
        mount = Material(srgb(0.95, 0.94, 0.9), pattern=PLAIN)
        parts = [
            box(0, -0.015, z - 0.035, w + 0.07, 0.03, h + 0.07, frame),
            box(0, -0.017, z, w, 0.03, h, mount),
            box(0, -0.019, z + 0.06, w - 0.12, 0.03, h - 0.12, art),
        ]
        yaw, at = wall_frame(size, wall, along)
        solids += placed(parts, yaw, at)
