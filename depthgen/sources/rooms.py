"""The plan of a furnished room: shell, openings, furniture, lights and a camera.

The one rule: a plan is drawn from the generator alone, before any pixel exists, and keeps the
camera's surroundings free, so that the same room can be rendered at every size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from depthgen.sources.furniture import (
    BUILDERS,
    Kit,
    Random,
    box,
    chair,
    darker,
    make_kit,
    post,
    varied,
)
from depthgen.sources.materials import (
    CHECKS,
    FABRIC,
    MARBLE,
    PAPER,
    PLANKS,
    RUG,
    STRIPES,
    TILES,
    Material,
    srgb,
)
from depthgen.sources.openings import (
    EAST,
    NORTH,
    WEST,
    Panel,
    openings,
    pictures,
    trim,
    wall_frame,
)
from depthgen.sources.raycast import BOX, Floats, Solid, placed

FAR_M, NEAR_M = 10.0, 0.5
_WALLS = (
    (0.94, 0.92, 0.87),
    (0.90, 0.86, 0.78),
    (0.80, 0.84, 0.86),
    (0.82, 0.86, 0.78),
    (0.93, 0.84, 0.76),
    (0.86, 0.86, 0.86),
    (0.72, 0.78, 0.80),
    (0.90, 0.88, 0.72),
    (0.62, 0.68, 0.66),
    (0.85, 0.72, 0.66),
    (0.45, 0.55, 0.62),
)

_PIECES = (
    "sofa",
    "shelf",
    "cabinet",
    "bed",
    "armchair",
    "plant",
    "lamp",
    "cabinet",
    "shelf",
    "plant",
    "chair",
)


@dataclass(frozen=True)
class Lamp:
    """A ball of light: place and radius in metres, intensity per colour."""

    centre: Floats
    radius: float
    intensity: Floats


@dataclass(frozen=True)
class Camera:
    """A pinhole: place (m), axes as rows (right, up, forward), half the field's tangent."""

    place: Floats
    axes: Floats
    tangent: float


@dataclass(frozen=True)
class Room:
    """All that a picture needs. `size` is width (x), length (y), height (z) in metres."""

    size: Floats
    surfaces: tuple[Material, ...]
    solids: list[Solid]
    panels: list[Panel]
    lamps: list[Lamp]
    sun: Floats | None
    outside: Floats
    camera: Camera
    mood: Floats


def plan_room(rng: Random) -> Room:
    """A room, drawn from `rng`: everything stands, hangs and shines somewhere sensible."""
    width, height = float(rng.uniform(3.2, 6.2)), float(rng.uniform(2.4, 3.1))
    size = np.array([width, float(rng.uniform(3.8, 9.3)), height])
    kit = make_kit(rng)
    camera = _camera(rng, size)
    solids: list[Solid] = []
    surfaces = _surfaces(rng)
    panels, taken = openings(rng, size, kit, solids)
    trim(rng, size, surfaces, solids)
    _furnish(rng, size, kit, camera, taken, solids)
    lamps = _lamps(rng, size, kit, solids)
    if len(panels) < 2:
        panels.append(_behind(size, rng))
    sun = None
    if panels[0].visible and rng.random() < 0.5:
        inward = panels[0].normal + np.array([0, -0.5, 0])
        sun = -inward + np.array([*rng.uniform(-0.5, 0.5, 2), rng.uniform(0.5, 1.1)])
        sun /= np.linalg.norm(sun)
    sky = np.array([0.75, 0.9, 1.15]) * rng.uniform(0.8, 1.1)
    mood = np.array([rng.uniform(0.96, 1.12), 1.0, rng.uniform(0.84, 1.02), rng.uniform(0.47, 0.6)])
    return Room(size, surfaces, solids, panels, lamps, sun, sky, camera, mood)


def _camera(rng: Random, size: Floats) -> Camera:
    """Near the south wall, looking across the room; no corner is farther than the label's range."""
    while True:
        place = np.array(
            [rng.uniform(0.7, size[0] - 0.7), rng.uniform(0.35, 0.8), rng.uniform(1.0, 1.8)]
        )
        target = np.array([rng.uniform(0.25, 0.75) * size[0], size[1] * rng.uniform(0.6, 1.0), 0])
        yaw = np.arctan2(target[0] - place[0], target[1] - place[1])
        pitch = rng.uniform(-0.22, 0.02) - 0.12 * (place[2] - 1.2)
        forward = np.array(
            [np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)]
        )
        right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
        axes = np.stack([right, np.cross(right, forward), forward])
        corners = np.array(
            [[x, y, z] for x in (0, size[0]) for y in (0, size[1]) for z in (0, size[2])]
        )
        if ((corners - place) @ forward).max() < FAR_M - 0.05:
            return Camera(place, axes, float(np.tan(rng.uniform(0.48, 0.60))))


def _surfaces(rng: Random) -> tuple[Material, ...]:
    """Materials of the six faces: walls, floor, ceiling."""
    colour = varied(rng, _WALLS[rng.integers(len(_WALLS))], 0.05)
    wall = Material(colour, darker(colour, 0.93), FABRIC, 0.15)
    if rng.random() < 0.25:
        pattern = PAPER if rng.random() < 0.5 else STRIPES
        wall = Material(
            colour,
            darker(colour, float(rng.uniform(0.72, 0.9))),
            pattern,
            float(rng.uniform(0.12, 0.3)),
        )
    feature = wall
    if rng.random() < 0.3:
        accent = varied(rng, _WALLS[rng.integers(len(_WALLS))], 0.05)
        accent = darker(accent, float(rng.uniform(0.4, 0.9)))
        feature = Material(accent, darker(accent, 0.9), FABRIC, 0.15)
    ceiling = Material(srgb(0.95, 0.95, 0.93))
    return wall, wall, wall, feature, _floor(rng), ceiling


def _floor(rng: Random) -> Material:
    kind, shift = int(rng.integers(10)), float(rng.integers(50))
    if kind < 5:
        tone = [
            (0.80, 0.62, 0.42),
            (0.66, 0.47, 0.31),
            (0.50, 0.34, 0.23),
            (0.85, 0.74, 0.58),
            (0.70, 0.64, 0.57),
        ][kind]
        colour = varied(rng, tone, 0.04)
        return Material(
            colour, darker(colour, 0.45), PLANKS, float(rng.uniform(0.09, 0.2)), 0.05, shift=shift
        )
    if kind < 8:
        colour = varied(rng, [(0.86, 0.83, 0.78), (0.62, 0.60, 0.57), (0.78, 0.58, 0.45)][kind - 5])
        return Material(
            colour, darker(colour, 0.62), TILES, float(rng.uniform(0.3, 0.6)), 0.06, shift=shift
        )
    if kind == 8:
        colour = varied(rng, (0.72, 0.66, 0.58), 0.12)
        return Material(colour, darker(colour, 0.72), FABRIC, 0.06)
    pattern = CHECKS if rng.random() < 0.5 else MARBLE
    return Material(srgb(0.9, 0.88, 0.84), srgb(0.33, 0.32, 0.32), pattern, 0.4, 0.07, shift=shift)


def _lamps(rng: Random, size: Floats, kit: Kit, solids: list[Solid]) -> list[Lamp]:
    """A ceiling light, warm, sometimes off; its body is seen but throws no shadow."""
    on = rng.random() < 0.6
    glow = Material(srgb(0.95, 0.93, 0.88), glow=2.0 if on else 0.15)
    x, y = float(size[0]) / 2, float(size[1]) * float(rng.uniform(0.45, 0.65))
    drop = float(rng.choice([0.05, 0.35, 0.6]))
    z = float(size[2]) - drop
    if drop < 0.1:
        body = [post(x, y, z - 0.02, 0.22, 0.07, glow)]
    else:
        shade = replace(glow, colour=kit.accent.colour, glow=0.4 if on else 0.0)
        body = [
            post(x, y, z, 0.008, drop, kit.metal),
            post(x, y, z - 0.1, 0.22, 0.16, shade, 0.4),
            Solid(BOX, (x, y, z - 0.1), (0.1, 0.1, 0.005), glow),
        ]
    solids += [replace(part, casts=False) for part in body]
    if not on:
        return []
    warm = np.array([1.0, 0.82, 0.6]) * float(rng.uniform(1.2, 2.6))
    return [Lamp(np.array([x, y, z - 0.14]), 0.16, warm)]


def _behind(size: Floats, rng: Random) -> Panel:
    """Daylight from a window behind the camera."""
    x = float(size[0]) * float(rng.uniform(0.2, 0.8))
    return Panel(
        np.array([x, 0.02, 1.5]),
        np.array([0.8, 0, 0]),
        np.array([0, 0, 0.7]),
        np.array([0.0, 1.0, 0.0]),
        np.array([1.0, 1.0, 1.02]) * rng.uniform(2.0, 4.0),
        False,
    )


class _Floorplan:
    """The floor's free places: axis-aligned rectangles that are taken."""

    def __init__(self, size: Floats, camera: Camera) -> None:
        self.size = size
        self.taken: list[Floats] = []
        self.eye = camera.place[:2]
        self.forward = camera.axes[2, :2] / np.linalg.norm(camera.axes[2, :2])

    def add(self, solids: list[Solid], clearance: float) -> bool:
        low, high = extent(solids)
        rectangle = np.array([low[:2] - clearance, high[:2] + clearance])
        inside = (low[:2] >= -0.005).all() and (high[:2] <= self.size[:2] + 0.005).all()
        nearest = np.clip(self.eye, rectangle[0], rectangle[1]) - self.eye
        away = np.linalg.norm(nearest)
        crowded = away < (1.5 if high[2] < 1.2 else 1.9)
        clash = any((rectangle[0] < t[1]).all() and (t[0] < rectangle[1]).all() for t in self.taken)
        if not inside or crowded or clash:
            return False
        self.taken.append(rectangle)
        return True


def extent(solids: list[Solid]) -> tuple[Floats, Floats]:
    """The axis-aligned box around the solids: lowest and highest corner (m)."""
    centre = np.array([s.centre for s in solids])
    reach = np.array([np.abs(s.rotation).T @ np.asarray(s.half) for s in solids])
    return (centre - reach).min(axis=0), (centre + reach).max(axis=0)


def _furnish(
    rng: Random,
    size: Floats,
    kit: Kit,
    camera: Camera,
    taken: list[tuple[int, float, float]],
    solids: list[Solid],
) -> None:
    plan = _Floorplan(size, camera)
    first = [["sofa", "bed", "cabinet"][rng.integers(3)]]
    order = first + [str(n) for n in rng.permutation(_PIECES)]
    beds = 0
    for name in order[: int(rng.integers(6, 11))]:
        beds += name == "bed"
        if name == "bed" and beds > 1:
            continue
        for _ in range(12):
            thing = _against_a_wall(rng, size, BUILDERS[name](rng, kit), taken)
            if thing and plan.add(thing, 0.05):
                solids += thing
                break
    _centre_piece(rng, size, kit, plan, solids)
    pictures(rng, size, kit, taken, solids)


def _against_a_wall(
    rng: Random, size: Floats, thing: list[Solid], taken: list[tuple[int, float, float]]
) -> list[Solid]:
    """The thing moved to some wall, or nothing if it would hide a window or a door."""
    wall = int(rng.choice([NORTH, WEST, EAST]))
    length = float(size[0] if wall == NORTH else size[1])
    along = float(rng.uniform(0.05, 0.95)) * length
    yaw, at = wall_frame(size, wall, along)
    low, high = extent(thing)
    back = float(high[1]) + 0.03 + float(rng.uniform(0, 0.04))
    if high[2] > 0.85 and any(
        w == wall and a < along + high[0] and along + low[0] < b for w, a, b in taken
    ):
        return []
    return placed(placed(thing, 0.0, (0.0, -back, 0.0)), yaw, at)


def _centre_piece(
    rng: Random, size: Floats, kit: Kit, plan: _Floorplan, solids: list[Solid]
) -> None:
    """A rug, a table on it, chairs about the table."""
    middle = (
        float(size[0]) * float(rng.uniform(0.38, 0.62)),
        float(size[1]) * float(rng.uniform(0.5, 0.68)),
        0.0,
    )
    yaw = float(rng.choice([0.0, np.pi / 2])) + float(rng.normal(0, 0.04))
    if rng.random() < 0.65:
        w, d = float(rng.uniform(1.5, 2.4)), float(rng.uniform(1.1, 1.7))
        colour = darker(kit.accent.colour, 1.0)
        pattern = [RUG, FABRIC, STRIPES, RUG][rng.integers(4)]
        rug = Material(colour, varied(rng, (0.85, 0.8, 0.7)), pattern, 0.3, shift=rng.random())
        border = Material(darker(colour, 0.6), darker(colour, 0.5), FABRIC, 0.03)
        solids += placed(
            [box(0, 0, 0, w, d, 0.010, border), box(0, 0, 0, w - 0.16, d - 0.16, 0.012, rug)],
            yaw,
            middle,
        )
    if rng.random() < 0.25:
        return
    table = BUILDERS["table"](rng, kit)
    if not plan.add(placed(table, yaw, middle), 0.05):
        return
    solids += placed(table, yaw, middle)
    _, high = extent([s for s in table if s.centre[2] < 0.8])
    if high[2] < 0.6:
        return
    seed_state = int(rng.integers(2**62))
    for side in range(4):
        twin = chair(np.random.Generator(np.random.Philox(key=seed_state)), kit)
        reach = float(high[1] if side % 2 == 0 else high[0]) + float(rng.uniform(0.1, 0.3))
        seat = placed(twin, 0.0, (0.0, reach, 0.0))
        seat = placed(seat, side * np.pi / 2 + float(rng.normal(0, 0.15)), (0.0, 0.0, 0.0))
        seat = placed(seat, yaw, middle)
        if rng.random() < 0.85 and plan.add(seat, -0.25):
            solids += seat
