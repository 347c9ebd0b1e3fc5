"""Solids and the vectorised ray caster that sees them.

A solid is a convex unit shape in its own frame (centre, rotation, half extents). Rays come in tiles
of neighbours, so that a solid is tested only against the tiles that can meet it. The one rule: the
distance is the first crossing of the exact surface, in the precision of the rays that were given.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depthgen.sources.materials import Material

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

BOX, ELLIPSOID, FRUSTUM, ROUNDED = range(4)
TILE = 8
_NEWTON_STEPS = 10


@dataclass(frozen=True)
class Solid:
    """A unit shape, scaled by `half` (metres), turned by `rotation` and moved to `centre`.

    `rotation` holds the solid's axes as rows in world coordinates. `param` is the radius of the
    top of a FRUSTUM as a share of its base (0 a cone, 1 a cylinder, at most 1), or the exponent of
    a ROUNDED block (4 a cushion, 8 an upholstered box). A solid with
    `casts=False` is seen but throws no shadow (lamp shades, panes).
    """

    shape: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    material: Material
    param: float = 1.0
    rotation: Floats = field(default_factory=lambda: np.eye(3))
    casts: bool = True


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Floats:
    """The local axes, as rows, after roll about y, pitch about x, then yaw about z (radians)."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    world_from_local: Floats = about_z @ about_x @ about_y
    return world_from_local.T


def placed(solids: Sequence[Solid], yaw: float, at: tuple[float, float, float]) -> list[Solid]:
    """The solids of one thing, turned about its origin by `yaw` radians and moved to `at` (m)."""
    axes = turn(yaw)
    moved = []
    for solid in solids:
        x, y, z = (np.asarray(solid.centre) @ axes + np.asarray(at)).tolist()
        moved.append(replace(solid, centre=(x, y, z), rotation=solid.rotation @ axes))
    return moved


@dataclass(frozen=True)
class Hits:
    """First crossings: `t` (tiles, rays) in lengths of the direction, inf where there is none.

    `solid` (tiles, rays) is the index of what was met, or -1.
    """

    t: Floats
    solid: Ints


class Scene:
    """Solids as arrays, ready to be asked what a ray meets."""

    def __init__(self, solids: Sequence[Solid]) -> None:
        self.solids = list(solids)
        self.shape = np.array([s.shape for s in solids], dtype=np.int64)
        self.param = np.array([s.param for s in solids], dtype=np.float64)
        self.centre = np.array([s.centre for s in solids], dtype=np.float64).reshape(-1, 3)
        self.half = np.array([s.half for s in solids], dtype=np.float64).reshape(-1, 3)
        self.rotation = np.array([s.rotation for s in solids], dtype=np.float64).reshape(-1, 3, 3)

    def trace(self, origin: Floats, direction: Floats, t_max: float) -> Hits:
        """The nearest solid along each ray; `origin` and `direction` are (3, tiles, rays)."""
        t = np.full(origin.shape[1:], np.inf, dtype=origin.dtype)
        index = np.full(origin.shape[1:], -1, dtype=np.int64)
        beams = _beams(origin, direction, t_max)
        for number in range(len(self.solids)):
            tiles = self._near(number, beams)
            if tiles.size == 0:
                continue
            found = self._meet(number, origin[:, tiles], direction[:, tiles])
            best = t[tiles]
            closer = found < best
            t[tiles] = np.where(closer, found, best)
            index[tiles] = np.where(closer, number, index[tiles])
        return Hits(t, index)

    def occluded(self, origin: Floats, direction: Floats) -> NDArray[np.bool_]:
        """Whether anything that casts stands between `origin` and `origin + direction`."""
        dark = np.zeros(origin.shape[1:], dtype=np.bool_)
        beams = _beams(origin, direction, 1.0)
        for number, solid in enumerate(self.solids):
            tiles = self._near(number, beams) if solid.casts else np.empty(0, np.int64)
            if tiles.size:
                dark[tiles] |= self._meet(number, origin[:, tiles], direction[:, tiles]) < 1.0
        return dark

    def _near(self, number: int, beam: _Beams) -> NDArray[np.intp]:
        """The tiles that can meet a solid: their beams cross its box."""
        axes = self.rotation[number].astype(beam.start.dtype)
        centre = self.centre[number].astype(beam.start.dtype)
        o, d = _apply(axes, beam.start - centre[:, None]), _apply(axes, beam.span)
        room = self.half[number].astype(o.dtype)[:, None] + beam.radius
        # At t the beam is radius + t * growth wide: six conditions rate * t <= bound.
        rate = _nonzero(np.concatenate([d - beam.growth, -d - beam.growth]))
        limit = np.concatenate([room - o, room + o]) / rate
        enter = np.where(rate < 0, limit, -np.inf).max(axis=0)
        leave = np.where(rate > 0, limit, np.inf).min(axis=0)
        return np.flatnonzero((enter <= leave) & (leave >= 0) & (enter <= 1))

    def _meet(self, number: int, origin: Floats, direction: Floats) -> Floats:
        to_unit = (self.rotation[number] / self.half[number][:, None]).astype(origin.dtype)
        centre = self.centre[number].astype(origin.dtype)
        o = _apply(to_unit, origin - centre[:, None, None])
        d = _apply(to_unit, direction)
        return meet(int(self.shape[number]), float(self.param[number]), o, d)

    def local(self, number: Ints, points: Floats) -> Floats:
        """World `points` (3, n) in the unit frames of the solids `number` (n,)."""
        turned = self.rotation[number].astype(points.dtype)
        moved = points.T - self.centre[number].astype(points.dtype)
        unit = np.einsum("nij,nj->in", turned, moved) / self.half[number].T.astype(points.dtype)
        return np.asarray(unit, dtype=points.dtype)

    def normals(self, number: Ints, unit: Floats) -> Floats:
        """Outward unit normals (3, n) in the world at `unit` points on the solids `number`."""
        local = np.empty_like(unit)
        shapes = self.shape[number]
        for shape in np.unique(shapes):
            chosen = np.flatnonzero(shapes == shape)
            local[:, chosen] = unit_normal(int(shape), self.param[number[chosen]], unit[:, chosen])
        local /= self.half[number].T.astype(unit.dtype)
        world = np.einsum("nij,in->jn", self.rotation[number].astype(unit.dtype), local)
        return np.asarray(world / np.sqrt(dot(world, world) + 1e-20), dtype=unit.dtype)


def dot(a: Floats, b: Floats) -> Floats:
    """Products of vectors (3, ...); three adds are far faster than a reduction over three."""
    product: Floats = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


def meet(shape: int, param: float, origin: Floats, direction: Floats) -> Floats:
    """First crossing of a unit shape from outside; (3, ...) in the unit frame, inf for a miss."""
    if shape == BOX:
        enter, leave = _slabs(origin, direction)
        return np.where((enter <= leave) & (enter > 0), enter, np.inf).astype(origin.dtype)
    if shape == ELLIPSOID:
        return _meet_sphere(origin, direction)
    if shape == FRUSTUM:
        return _meet_frustum(param, origin, direction)
    return _meet_rounded(int(param), origin, direction)


@dataclass(frozen=True)
class _Beams:
    """Cones around the rays of each tile, from `start` over `span` (3, tiles), in metres.

    `radius` (tiles,) is the width at the start, `growth` what it gains on the way.
    """

    start: Floats
    span: Floats
    radius: Floats
    growth: Floats


def _beams(origin: Floats, direction: Floats, t_max: float) -> _Beams:
    ends = origin + direction * origin.dtype.type(t_max)
    start, end = origin.mean(axis=2), ends.mean(axis=2)
    # A little more than needed: rounding must not lose a solid that a beam just touches.
    radius, last = _spread(origin, start) + 1e-4, _spread(ends, end) + 1e-4
    return _Beams(start, end - start, radius, last - radius)


def _spread(points: Floats, middle: Floats) -> Floats:
    away = points - middle[:, :, None]
    widest: Floats = np.sqrt(dot(away, away).max(axis=1))
    return widest


def _apply(matrix: Floats, vectors: Floats) -> Floats:
    x, y, z = vectors
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])


def _nonzero(values: Floats) -> Floats:
    return np.where(np.abs(values) < 1e-9, values.dtype.type(1e-9), values)


def _slabs(origin: Floats, direction: Floats) -> tuple[Floats, Floats]:
    inverse = 1.0 / _nonzero(direction)
    middle, width = -origin * inverse, np.abs(inverse)
    return (middle - width).max(axis=0), (middle + width).min(axis=0)


def _centred(origin: Floats, direction: Floats) -> tuple[Floats, Floats]:
    """The ray's point nearest to the shape's centre: solving from there keeps float32 exact."""
    shift = -dot(origin, direction) / dot(direction, direction)
    return shift, origin + shift * direction


def _meet_sphere(origin: Floats, direction: Floats) -> Floats:
    shift, near = _centred(origin, direction)
    room = 1.0 - dot(near, near)
    t = shift - np.sqrt(np.maximum(room, 0) / dot(direction, direction))
    return np.where((room > 0) & (t > 0), t, np.inf).astype(origin.dtype)


def _meet_frustum(top: float, origin: Floats, direction: Floats) -> Floats:
    shift, near = _centred(origin, direction)
    (dx, dy, dz), (ox, oy, oz) = direction, near
    slope, middle = (top - 1.0) / 2.0, (top + 1.0) / 2.0
    a = _nonzero(dx * dx + dy * dy - slope * slope * dz * dz)
    b = ox * dx + oy * dy - slope * dz * (middle + slope * oz)
    c = ox * ox + oy * oy - (middle + slope * oz) ** 2
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    t = np.full(a.shape, np.inf, dtype=origin.dtype)
    for sign in (-1.0, 1.0):
        side = (-b + sign * root) / a
        good = (square >= 0) & (np.abs(oz + side * dz) <= 1) & (side + shift > 0)
        t = np.where(good & (side < t), side, t)
    flat = _nonzero(dz)
    for height, radius in ((-1.0, 1.0), (1.0, top)):
        cap = (height - oz) / flat
        x, y = ox + cap * dx, oy + cap * dy
        good = (x * x + y * y <= radius * radius) & (cap + shift > 0)
        t = np.where(good & (cap < t), cap, t)
    return (t + shift).astype(origin.dtype)


def _meet_rounded(power: int, origin: Floats, direction: Floats) -> Floats:
    """Newton from the box's face: |x|^p + |y|^p + |z|^p - 1 is convex along a ray."""
    enter, leave = _slabs(origin, direction)
    t = np.full(enter.shape, np.inf, dtype=origin.dtype)
    alive = np.nonzero((enter <= leave) & (enter > 0))
    o = np.stack([part[alive] for part in origin])
    d = np.stack([part[alive] for part in direction])
    far = leave[alive]
    at = enter[alive]
    value = at
    for _ in range(_NEWTON_STEPS):
        point = o + at * d
        square = point * point
        lower = square * point if power == 4 else square * square * square * point
        value = dot(lower, point) - 1.0
        rate = power * dot(lower, d)
        # Past the lowest point of a convex function there is no root: such a ray leaves the box.
        step = np.where(rate < 0, value / np.minimum(rate, -1e-6), -np.inf)
        at = np.minimum(at - step, far + 1.0)
    t[alive] = np.where((at <= far) & (np.abs(value) < 1e-2), at, np.inf)
    return t


def unit_normal(shape: int, param: Floats, unit: Floats) -> Floats:
    """Outward normals (not of unit length) in the unit frame at surface points `unit` (3, n)."""
    if shape == BOX:
        face = np.abs(unit).argmax(axis=0)
        return np.where(np.arange(3)[:, None] == face, np.sign(unit), 0).astype(unit.dtype)
    if shape == ELLIPSOID:
        return unit
    if shape == ROUNDED:
        return np.asarray(np.sign(unit) * np.abs(unit) ** (param - 1), dtype=unit.dtype)
    slope = (param - 1.0) / 2.0
    reach = np.sqrt(unit[0] ** 2 + unit[1] ** 2)
    side = np.stack([unit[0], unit[1], -slope * reach])
    cap = np.stack([0 * reach, 0 * reach, np.sign(unit[2])])
    on_cap = 1.0 - np.abs(unit[2]) < np.abs(reach - (param + 1) / 2 - slope * unit[2])
    return np.where(on_cap, cap, side).astype(unit.dtype)
