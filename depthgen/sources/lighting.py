"""Light in a room: windows, sun, lamps and what comes back from the walls.

The one rule: every light is sampled in the same four-by-four pattern over neighbouring samples and
averaged over exactly one period of it, so soft shadows need one ray a light and carry no noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthgen.sources import materials
from depthgen.sources.materials import Material, noise
from depthgen.sources.openings import CEILING, FLOOR, NORTH, Panel
from depthgen.sources.raycast import BOX, TILE, Floats, Ints, Scene, dot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthgen.sources.rooms import Lamp, Room

PERIOD = 4
_AO_REACH_M = 0.55


@dataclass
class Surface:
    """What the samples see; vectors are (3, n) float32, in tile order.

    `key` tells surfaces apart: averaging never crosses from one to another.
    """

    point: Floats
    normal: Floats
    albedo: Floats
    gloss: Floats
    glow: Floats
    key: Ints


def shell(size: Floats, origin: Floats, direction: Floats) -> tuple[Floats, Ints]:
    """Where rays from within leave the room: distance along the ray and face (two an axis)."""
    d = np.where(np.abs(direction) < 1e-9, 1e-9, direction).astype(direction.dtype)
    room = size.astype(origin.dtype).reshape(3, *([1] * (origin.ndim - 1)))
    t = (np.where(d > 0, room, 0) - origin) / d
    axis = t.argmin(axis=0)
    leaving = np.take_along_axis(d, axis[None], 0)[0] > 0
    return t.min(axis=0), 2 * axis + leaving


def surface(
    room: Room, scene: Scene, solid: Ints, face: Ints, point: Floats, direction: Floats
) -> Surface:
    """Normals and materials at `point` (3, n), where `solid` is the index or -1 for the shell."""
    count = point.shape[1]
    normal = np.zeros((3, count), dtype=np.float32)
    albedo, glow = np.zeros_like(normal), np.zeros_like(normal)
    gloss = np.zeros(count, dtype=np.float32)
    sign = np.where(face % 2 == 0, 1, -1)
    normal[face // 2, np.arange(count)] = sign
    for number, material in enumerate(room.surfaces):
        at = np.flatnonzero((solid < 0) & (face == number))
        x, y, z = point[:, at]
        u, v = (y, x) if number in (FLOOR, CEILING) else ((x, z) if number >= 2 else (y, z))
        albedo[:, at] = materials.albedo(material, u, v)
        gloss[at] = material.gloss
    own = np.flatnonzero(solid >= 0)
    unit = scene.local(solid[own], point[:, own])
    normal[:, own] = scene.normals(solid[own], unit)
    albedo[:, own], gloss[own], glow[:, own] = paint(scene, solid[own], unit)
    for panel in room.panels:
        if panel.visible:
            pane = np.flatnonzero((solid < 0) & _within(panel, point))
            albedo[:, pane] = 0.0
            glow[:, pane] = _outside(room, panel, direction[:, pane])
    side = np.abs(normal).argmax(axis=0)
    return Surface(
        point, normal, albedo, gloss, glow, np.where(solid < 0, -1 - face, solid * 3 + side)
    )


def paint(scene: Scene, solid: Ints, unit: Floats) -> tuple[Floats, Floats, Floats]:
    """Albedo (3, n), gloss (n,) and glow (3, n) of the solids at points in their unit frames."""
    albedo, glow = np.zeros_like(unit, dtype=np.float32), np.zeros_like(unit, dtype=np.float32)
    gloss = np.zeros(unit.shape[1], dtype=np.float32)
    order = np.argsort(solid, kind="stable")
    starts = np.flatnonzero(np.diff(solid[order], prepend=-1))
    for at in np.split(order, starts[1:]):
        if at.size == 0:
            continue
        number = int(solid[at[0]])
        material = scene.solids[number].material
        u, v = _coordinates(material, int(scene.shape[number]), scene.half[number], unit[:, at])
        albedo[:, at] = materials.albedo(material, u, v)
        gloss[at] = material.gloss
        glow[:, at] = np.array([[1.0], [0.86], [0.66]]) * material.glow
    return albedo, gloss, glow


def _coordinates(
    material: Material, shape: int, half: Floats, unit: Floats
) -> tuple[Floats, Floats]:
    """Metres along the surface; wood runs along the longer side."""
    x, y, z = unit * half[:, None].astype(unit.dtype)
    if shape != BOX:
        u, v = x + 0.6 * y, z + 0.35 * y
        return (v, u) if material.pattern == materials.WOOD and half[2] > half[0] else (u, v)
    face = np.abs(unit).argmax(axis=0)
    u, v = np.where(face == 0, y, x), np.where(face == 2, y, z)
    if material.pattern != materials.WOOD:
        return u, v
    upright = np.where(face == 0, half[1], half[0]) < np.where(face == 2, half[1], half[2])
    return np.where(upright, v, u), np.where(upright, u, v)


def _within(panel: Panel, point: Floats) -> NDArray[np.bool_]:
    away = point - panel.centre[:, None].astype(point.dtype)
    u = (panel.edge_u / (panel.edge_u @ panel.edge_u)).astype(point.dtype) @ away
    v = (panel.edge_v / (panel.edge_v @ panel.edge_v)).astype(point.dtype) @ away
    inside: NDArray[np.bool_] = (
        (np.abs(u) <= 1)
        & (np.abs(v) <= 1)
        & (np.abs(panel.normal.astype(point.dtype) @ away) < 5e-3)
    )
    return inside


def _outside(room: Room, panel: Panel, direction: Floats) -> Floats:
    """The garden and the sky behind a pane, seen along `direction`."""
    x, y, z = direction
    across = x if abs(panel.normal[1]) > 0.5 else y
    flat = np.sqrt(x * x + y * y) + 1e-6
    # Every room has its own garden.
    rise, bearing = z / flat, across / flat + np.float32(room.size[1] * 9)
    crown = 0.16 * noise(bearing * 5 + 9, 0 * bearing) + 0.12 * noise(bearing * 14, 0 * bearing + 2)
    leaves = 0.5 + 0.9 * noise(bearing * 40, rise * 40)
    green = np.array([[0.42], [0.55], [0.30]]) * leaves
    lawn = np.array([[0.55], [0.62], [0.40]]) * (0.9 + 0.2 * noise(bearing * 20, rise * 60))
    fade = np.clip(rise, 0, 1)
    sky = room.outside[:, None] * (1.9 - 0.5 * fade)
    clouds = np.clip((noise(bearing * 4 + 3, rise * 9) - 0.5) * 3, 0, 1)
    sky = sky + clouds * (2.1 - sky) * 0.7
    seen = np.where(rise > crown - 0.06, sky, np.where(rise > -0.10, green, lawn))
    return (seen * 0.33 * panel.radiance.mean()).astype(np.float32)


def pattern(height: int, width: int, turn: int) -> tuple[Floats, Floats]:
    """Stratified places in [0, 1)² for an image of samples, one of sixteen cells each.

    `turn` shuffles which sample takes which cell, so that two lights don't share their pattern.
    """
    order = np.random.Generator(np.random.Philox(key=[99, turn])).permutation(PERIOD**2)
    cells = order.reshape(PERIOD, PERIOD)
    repeat = (-(-height // PERIOD), -(-width // PERIOD))
    grid = np.tile(cells, repeat)[:height, :width]
    u, v = (grid % PERIOD + 0.5) / PERIOD, (grid // PERIOD + 0.5) / PERIOD
    return u.astype(np.float32), v.astype(np.float32)


def tiled(image: Floats) -> Floats:
    """(h, w) in image order as (tiles, TILE * TILE)."""
    h, w = image.shape
    blocks = image.reshape(h // TILE, TILE, w // TILE, TILE).swapaxes(1, 2)
    return blocks.reshape(-1, TILE * TILE)


def untiled(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The inverse of `tiled`, with any leading axes: (..., tiles * TILE²) as (..., h, w)."""
    lead = values.shape[:-1]
    blocks = values.reshape(*lead, height // TILE, width // TILE, TILE, TILE).swapaxes(-3, -2)
    return blocks.reshape(*lead, height, width)


def smooth(values: Floats, key: Ints) -> Floats:
    """Mean of `values` (k, h, w) over one period each way, among samples of one `key` (h, w)."""
    for axis in (-1, -2):
        total, weight = np.zeros_like(values), np.zeros(key.shape, dtype=np.float32)
        for step in range(-PERIOD // 2, PERIOD // 2):
            same = (np.roll(key, step, axis) == key).astype(np.float32)
            total += np.roll(values, step, axis) * same
            weight += same
        values = total / np.maximum(weight, 1)
    return values


def visibility(
    room: Room, scene: Scene, seen: Surface, height: int, width: int, tiles: Ints
) -> Floats:
    """Unblocked share (lights, n) for each panel, each lamp, the sun, and last the surroundings.

    `seen` holds the tiles with the numbers `tiles` of an image of height x width samples.
    """
    start = (seen.point + seen.normal * 2e-3).reshape(3, -1, TILE * TILE)

    def cells(number: int) -> tuple[Floats, Floats]:
        u, v = pattern(height, width, number)
        return tiled(u)[tiles], tiled(v)[tiles]

    rays = [_to_panel(p, start, cells(k)) for k, p in enumerate(room.panels)]
    rays += [_to_lamp(p, start, cells(7 + k)) for k, p in enumerate(room.lamps)]
    if room.sun is not None:
        sun = room.sun[:, None, None].astype(np.float32)
        reach, _ = shell(room.size, start, np.broadcast_to(sun, start.shape))
        rays.append(sun * reach)
    facing = seen.normal.reshape(start.shape)
    useful = [dot(ray, facing) > 0 for ray in rays]
    if room.sun is not None:
        useful[-1] = _from_sun(room, seen).reshape(start.shape[1:]) > 0
    rays.append(_around(seen.normal, start, cells(5)))
    useful.append(seen.glow.reshape(start.shape).sum(axis=0) == 0)
    free = [_unblocked(scene, start, ray, need) for ray, need in zip(rays, useful, strict=True)]
    blocks = height * width // TILE**2
    shares = np.zeros((len(rays), blocks, TILE**2), dtype=np.float32)
    shares[:, tiles] = np.stack(free)
    key = np.full((blocks, TILE**2), -9)
    key[tiles] = seen.key.reshape(-1, TILE**2)
    soft = smooth(
        untiled(shares.reshape(len(rays), -1), height, width),
        untiled(key.reshape(-1), height, width),
    )
    return np.stack([tiled(image)[tiles].reshape(-1) for image in soft])


def _unblocked(scene: Scene, start: Floats, ray: Floats, need: NDArray[np.bool_]) -> Floats:
    """Whether each ray is free; tiles in which no ray is needed are not asked about."""
    free = np.ones(need.shape, dtype=np.float32)
    asked = np.flatnonzero(need.any(axis=1))
    if asked.size:
        free[asked] = ~scene.occluded(start[:, asked], ray[:, asked])
    return free


def _to_panel(panel: Panel, start: Floats, place: tuple[Floats, Floats]) -> Floats:
    u, v = (p * 1.9 - 0.95 for p in place)
    middle, a, b = (
        e[:, None, None].astype(np.float32)
        for e in (panel.centre + panel.normal * 0.2, panel.edge_u, panel.edge_v)
    )
    return middle + a * u + b * v - start


def _to_lamp(lamp: Lamp, start: Floats, place: tuple[Floats, Floats]) -> Floats:
    u, v = place
    angle, radius = 2 * np.pi * u, lamp.radius * np.sqrt(v)
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * u])
    return disc + lamp.centre[:, None, None].astype(np.float32) - start


def _around(normal: Floats, start: Floats, place: tuple[Floats, Floats]) -> Floats:
    """Cosine-weighted: a point on a ball that touches the surface."""
    u, v = place
    angle, z = 2 * np.pi * u, 1 - 2 * v
    flat = np.sqrt(np.maximum(1 - z * z, 0))
    ball = np.stack([flat * np.cos(angle), flat * np.sin(angle), z]).astype(np.float32)
    upward = normal.reshape(start.shape) * 1.001 + ball
    return upward / np.sqrt(dot(upward, upward) + 1e-9) * _AO_REACH_M


def radiance(room: Room, seen: Surface, free: Floats, direction: Floats) -> Floats:
    """Linear colour (3, n) that leaves the surfaces towards the camera."""
    n_panels, n_lamps = len(room.panels), len(room.lamps)
    light = np.zeros_like(seen.point)
    veil = np.zeros_like(seen.point)
    for panel, share in zip(room.panels, free, strict=False):
        direct, spread = _from_panel(panel, seen)
        colour = panel.radiance[:, None].astype(np.float32)
        light += colour * direct * share
        veil += colour * spread
    for lamp, share in zip(room.lamps, free[n_panels:], strict=False):
        direct, spread = _from_lamp(lamp, seen)
        colour = lamp.intensity[:, None].astype(np.float32)
        light += colour * direct * share
        veil += 0.25 * colour * spread
    if room.sun is not None:
        strength = _from_sun(room, seen) * free[n_panels + n_lamps]
        light += np.array([[7.0], [6.2], [5.0]], dtype=np.float32) * strength
    light += (
        (veil + 0.25 * veil.mean())
        * _bounce(room, seen)
        * _corners(room, seen)
        * (0.25 + 0.75 * free[-1])
    )
    return light * seen.albedo + seen.glow + _mirror(room, seen, direction)


def _from_panel(panel: Panel, seen: Surface) -> tuple[Floats, Floats]:
    """Form factor of a panel by four points, and its far softer share of the bounced light."""
    direct = np.zeros(seen.point.shape[1], dtype=np.float32)
    spread = np.zeros_like(direct)
    area = 4 * np.linalg.norm(np.cross(panel.edge_u, panel.edge_v))
    facing = panel.normal.astype(np.float32)
    for u, v in ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)):
        at = (panel.centre + u * panel.edge_u + v * panel.edge_v).astype(np.float32)
        away = at[:, None] - seen.point
        square = dot(away, away) + 0.04
        there = np.maximum(dot(away, seen.normal), 0)
        here = np.maximum(-(facing @ away), 0)
        direct += there * here / (square * square)
        spread += 1 / (5.0 + square)
    return direct * np.float32(area / 4 / np.pi), spread * np.float32(0.28 * area / 4)


def _from_lamp(lamp: Lamp, seen: Surface) -> tuple[Floats, Floats]:
    away = lamp.centre[:, None].astype(np.float32) - seen.point
    square = dot(away, away) + 0.05
    facing = np.maximum(dot(away, seen.normal), 0)
    return facing / (square * np.sqrt(square)), 1 / (3 + square)


def _from_sun(room: Room, seen: Surface) -> Floats:
    assert room.sun is not None
    lit = np.zeros(seen.point.shape[1], dtype=np.float32)
    for panel in room.panels:
        if panel.visible and -(room.sun @ panel.normal) > 0.05:
            normal, sun = panel.normal.astype(np.float32), room.sun.astype(np.float32)
            level = np.float32(panel.centre @ panel.normal)
            gap = (level - normal @ seen.point) / np.float32(sun @ normal)
            there = seen.point + sun[:, None] * gap
            lit[_within(panel, there)] = 1.0
    return lit * np.maximum(room.sun.astype(np.float32) @ seen.normal, 0)


def _bounce(room: Room, seen: Surface) -> Floats:
    """Colour of the light from the walls (and, on what faces down, from the floor)."""
    walls = np.asarray(room.surfaces[NORTH].colour) + np.asarray(room.surfaces[0].colour)
    tint = 0.55 + 0.45 * walls / max(walls.max(), 1e-3)
    ground = np.asarray(room.surfaces[FLOOR].colour)
    ground = 0.45 + 0.5 * ground / max(ground.max(), 1e-3)
    up = 0.5 + 0.5 * seen.normal[2]
    mixed = ground[:, None] * (1 - up) * 0.85 + tint[:, None] * up
    return mixed.astype(np.float32)


def _corners(room: Room, seen: Surface) -> Floats:
    """Walls shade each other where they meet."""
    open_ = np.ones(seen.point.shape[1], dtype=np.float32)
    for axis in range(3):
        across = 1 - np.abs(seen.normal[axis])
        for gap in (seen.point[axis], room.size[axis] - seen.point[axis]):
            open_ *= 1 - 0.4 * across * np.exp(-np.maximum(gap, 0) / 0.22)
    return open_


def _mirror(room: Room, seen: Surface, direction: Floats) -> Floats:
    """What shining surfaces reflect: the panes, and a dim room."""
    cosine = dot(direction, seen.normal)
    bent = direction - 2 * cosine * seen.normal
    share = seen.gloss + (0.6 * seen.gloss) * (1 - np.minimum(np.abs(cosine), 1)) ** 3 * 5
    shine = np.full_like(seen.point, 0.25) * share
    for panel in room.panels:
        rate = panel.normal.astype(np.float32) @ bent
        toward = np.where(rate < -1e-3, rate, -1e-3)
        gap = (
            panel.normal.astype(np.float32)
            @ (panel.centre[:, None].astype(np.float32) - seen.point)
            / toward
        )
        there = seen.point + bent * gap - panel.centre[:, None].astype(np.float32)
        edge = [
            np.abs((e / (e @ e)).astype(np.float32) @ there) for e in (panel.edge_u, panel.edge_v)
        ]
        hit = np.clip((1.08 - np.maximum(*edge)) * 6, 0, 1) * (rate < -1e-3)
        shine += panel.radiance[:, None].astype(np.float32) * (share * hit)
    return shine


def film(light: Floats) -> Floats:
    """Display values in [0, 1]: straight in the shadows, rolled off in the highlights."""
    squeezed = light * (1 + light / 6.0) / (1 + light)
    return np.asarray(np.clip(squeezed, 0, 1) ** np.float32(1 / 2.2))
