"""Things without a background: furniture, people and animals with antialiased alpha.

The one rule: colour is averaged over the samples that hit the thing and over nothing else, so an
edge keeps the thing's colour and only its alpha tells how much of the pixel is covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthgen.sources import lighting
from depthgen.sources.beasts import BEASTS
from depthgen.sources.creatures import animal
from depthgen.sources.furniture import BUILDERS, Random, make_kit
from depthgen.sources.materials import Material
from depthgen.sources.openings import Panel
from depthgen.sources.people import person
from depthgen.sources.raycast import TILE, Floats, Scene, placed
from depthgen.sources.rooms import Camera, Room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthgen.sources.bodies import Body

EDGE_SAMPLES, SOLID_SAMPLES = 4, 3
_MARGIN_PX = 1.5
_COARSE = 8
_REGION = 64


@dataclass(frozen=True)
class View:
    """A camera looking at a thing through a window of `height` x `width` pixels.

    All of the thing lies between `near` and `far` metres from `place`. `left` and `top` are the
    window's corner and `pitch` a pixel's side, all three at distance one.
    """

    place: Floats
    axes: Floats
    left: float
    top: float
    pitch: float
    height: int
    width: int
    near: float
    far: float

    def rays(self, column: Floats, row: Floats) -> Floats:
        """Unit directions (3, ...) through places in pixels from the window's corner."""
        right, up, forward = self.axes.reshape(3, 3, *([1] * column.ndim))
        across, down = self.left + column * self.pitch, self.top - row * self.pitch
        way = right * across + up * down + forward
        return np.asarray(way / np.sqrt((way * way).sum(axis=0)), dtype=np.float32)


def draw_cutout(rng: Random, size: int) -> NDArray[np.uint8]:
    """RGBA (h, w, 4), the longer side `size`: half creatures, the rest furniture."""
    if rng.random() < 0.62:
        name = str(rng.choice([*BEASTS, "person", "person", "person"]))
        body = person(rng) if name == "person" else animal(rng, name)
        view = look_at(
            rng,
            np.concatenate([body.start, body.end]).T,
            np.concatenate([body.r0, body.r1]),
            size,
            float(rng.uniform(-1.1, 1.1))
            + (np.pi if rng.random() < 0.5 and name != "person" else 0.0),
        )
        return _portrait(rng, body, view)
    kit = make_kit(rng)
    solids = BUILDERS[str(rng.choice(list(BUILDERS)))](rng, kit)
    scene = Scene(placed(solids, 0.0, (4.5, 4.5, 0.0)))
    corners, radii = _corners(scene)
    view = look_at(rng, corners, radii, size, float(rng.uniform(-0.75, 0.75)))
    return _product_shot(rng, scene, view)


def look_at(rng: Random, points: Floats, radii: Floats, size: int, yaw: float) -> View:
    """A view from the front, turned by `yaw`, that just holds balls of `radii` at `points`."""
    low, high = (points - radii).min(axis=1), (points + radii).max(axis=1)
    middle = (low + high) / 2
    reach = float(np.linalg.norm(high - low)) / 2
    rise = float(rng.uniform(0.02, 0.34))
    forward = np.array([np.sin(yaw) * np.cos(rise), np.cos(yaw) * np.cos(rise), -np.sin(rise)])
    away = reach * float(rng.uniform(3.2, 5.5))
    place = middle - forward * away
    right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
    axes = np.stack([right, np.cross(right, forward), forward])
    across, up, depth = axes @ (points - place[:, None])
    # A ball's outline in perspective is a little wider than radius over distance.
    wide = radii / np.sqrt(np.maximum(depth * depth - radii * radii, 1e-6))
    x0, x1 = (across / depth - wide).min(), (across / depth + wide).max()
    y0, y1 = (up / depth - wide).min(), (up / depth + wide).max()
    pitch = float(max(x1 - x0, y1 - y0)) / (size - 2 * _MARGIN_PX)
    width = min(size, int(np.ceil((x1 - x0) / pitch + 2 * _MARGIN_PX)))
    height = min(size, int(np.ceil((y1 - y0) / pitch + 2 * _MARGIN_PX)))
    left, top = (x0 + x1 - width * pitch) / 2, (y0 + y1 + height * pitch) / 2
    near, far = away - 1.1 * reach, away + 1.1 * reach
    return View(place, axes, float(left), float(top), pitch, height, width, near, far)


def _corners(scene: Scene) -> tuple[Floats, Floats]:
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    local = signs[None] * scene.half[:, None]
    world = np.einsum("pki,pij->pkj", local, scene.rotation) + scene.centre[:, None]
    return world.reshape(-1, 3).T, np.zeros(world.shape[0] * 8)


def encode(colour: Floats, alpha: Floats) -> NDArray[np.uint8]:
    """Linear straight colour (3, h, w) and coverage (h, w) as RGBA bytes."""
    display = lighting.film(colour)
    rgba = np.concatenate([display, alpha[None]])
    return np.rint(np.clip(rgba, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def _portrait(rng: Random, body: Body, view: View) -> NDArray[np.uint8]:
    """One sample a pixel inside, sixteen wherever an outline passes."""
    near, start = _approach(body, view)
    regions = _regions(body, view)
    pixel = np.flatnonzero(near)
    row, column = pixel // view.width + 0.5, pixel % view.width + 0.5
    t, met = _march(regions, view, row, column, start.ravel()[pixel])
    depth = np.full(near.size, 1e3, dtype=np.float32)
    depth[pixel] = np.where(met, t, 1e3)
    edge = _edges(depth.reshape(near.shape), view.pitch) & near
    inside = met & ~edge.ravel()[pixel]
    border = np.flatnonzero(edge)
    grid = (np.arange(EDGE_SAMPLES) + 0.5) / EDGE_SAMPLES
    fine = np.repeat(border, EDGE_SAMPLES**2)
    row_e = (fine // view.width).astype(np.float64) + np.tile(
        np.repeat(grid, EDGE_SAMPLES), border.size
    )
    column_e = (fine % view.width).astype(np.float64) + np.tile(grid, EDGE_SAMPLES * border.size)
    t_e, met_e = _march(regions, view, row_e, column_e, start.ravel()[fine])
    places = (
        np.concatenate([row[inside], row_e[met_e]]),
        np.concatenate([column[inside], column_e[met_e]]),
    )
    colour = _shade(rng, body, regions, view, places, np.concatenate([t[inside], t_e[met_e]]))
    owner = np.concatenate([pixel[inside], fine[met_e]])
    weight = np.bincount(owner, minlength=near.size)
    total = np.stack([np.bincount(owner, part, near.size) for part in colour])
    share = np.where(edge.ravel(), weight / EDGE_SAMPLES**2, weight)
    image = (total / np.maximum(weight, 1)).reshape(3, *near.shape)
    return encode(image, share.reshape(near.shape))


@dataclass(frozen=True)
class _Region:
    """A square of the picture, and the body as it matters there."""

    top: int
    left: int
    body: Body

    def holds(self, row: Floats, column: Floats) -> NDArray[np.intp]:
        inside = (row >= self.top) & (row < self.top + _REGION)
        inside &= (column >= self.left) & (column < self.left + _REGION)
        return np.flatnonzero(inside)


def _regions(body: Body, view: View) -> list[_Region]:
    """The picture in squares: a ray can only meet limbs whose outline crosses its square."""
    reach = np.array([max(k.r0, k.r1) + k.blend for k in body.limbs]) * 1.1 + 0.01
    bounds = []
    for ends in (body.start, body.end):
        across, up, depth = view.axes @ (ends.T - view.place[:, None])
        wide = reach / np.sqrt(np.maximum(depth * depth - reach * reach, 1e-6))
        column, row = (across / depth - view.left), (view.top - up / depth)
        bounds.append(np.stack([row - wide, column - wide, -row - wide, -column - wide]))
    top, left, bottom, right = np.minimum(*bounds) / view.pitch
    regions = []
    for y in range(0, view.height, _REGION):
        for x in range(0, view.width, _REGION):
            which = (top < y + _REGION) & (-bottom > y) & (left < x + _REGION) & (-right > x)
            if which.any():
                regions.append(_Region(y, x, body.seen_in(which)))
    return regions


def _march(
    regions: list[_Region], view: View, row: Floats, column: Floats, start: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Distance along the ray through each place (n,), in pixels, and whether it meets the body."""
    place = view.place.astype(np.float32)
    t, met = start.copy(), np.zeros(start.shape, dtype=np.bool_)
    for region in regions:
        at = region.holds(row, column)
        way = view.rays(column[at], row[at])
        t[at], met[at] = region.body.march(place, way, start[at], view.far, view.pitch * 0.25)
    return t, met


def _approach(body: Body, view: View) -> tuple[NDArray[np.bool_], Floats]:
    """Pixels that may see the body, and how far their rays may safely start, by coarse cones."""
    rows, columns = -(-view.height // _COARSE), -(-view.width // _COARSE)
    down, across = np.mgrid[:rows, :columns].reshape(2, -1)
    way = view.rays((across + 0.5) * _COARSE, (down + 0.5) * _COARSE)
    cone = view.pitch * _COARSE * 0.75
    t, met = body.march(
        view.place.astype(np.float32),
        way,
        np.full(way.shape[1], view.near, np.float32),
        view.far,
        cone,
    )
    shape = (slice(view.height), slice(view.width))
    block = np.ones((_COARSE, _COARSE), dtype=np.float32)
    near = np.kron(met.reshape(rows, columns), block)[shape] > 0
    return near, np.kron(t.reshape(rows, columns), block)[shape].astype(np.float32)


def _edges(depth: Floats, pitch: float) -> NDArray[np.bool_]:
    """Pixels within one of a jump in depth: the outline and the inner contours."""
    wide = np.pad(depth, 1, mode="edge")
    h, w = depth.shape
    views = [wide[i : i + h, j : j + w] for i in range(3) for j in range(3)]
    span = np.max(views, axis=0) - np.min(views, axis=0)
    jump: NDArray[np.bool_] = span > 12 * pitch * np.minimum(depth, 50)
    grown = np.pad(jump, 1)
    return np.any([grown[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


def _shade(
    rng: Random,
    body: Body,
    regions: list[_Region],
    view: View,
    places: tuple[Floats, Floats],
    t: Floats,
) -> Floats:
    """A broad key light from the viewer's side, the sky, and light back from the ground."""
    row, column = places
    way = view.rays(column, row)
    point = view.place[:, None].astype(np.float32) + way * t
    normal, albedo = np.empty_like(point), np.empty_like(point)
    for region in regions:
        at = region.holds(row, column)
        normal[:, at] = region.body.normals(point[:, at])
        albedo[:, at] = region.body.colours(point[:, at], normal[:, at])
    side = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.4, 1.1))
    key = view.axes[0] * side - view.axes[2] * 0.75 + np.array([0, 0, float(rng.uniform(0.7, 1.3))])
    key = (key / np.linalg.norm(key)).astype(np.float32)
    warm = np.array([[1.12], [1.0], [0.86]]) * float(rng.uniform(1.1, 1.8))
    facing = np.clip((key @ normal + 0.12) / 1.12, 0, 1)
    shine = body.openness(point, normal)
    up = 0.5 + 0.5 * normal[2]
    sky = np.array([[0.62], [0.68], [0.76]]) * up + np.array([[0.40], [0.35], [0.29]]) * (1 - up)
    light = warm * facing * body.lit(point, normal, key) + sky * shine
    half = key[:, None] - way
    half /= np.sqrt((half * half).sum(axis=0))
    gleam = 0.05 * np.clip((half * normal).sum(axis=0), 0, 1) ** 24 * facing
    return np.asarray((albedo * light + gleam) * np.float32(rng.uniform(1.0, 1.35)), np.float32)


def _product_shot(rng: Random, scene: Scene, view: View) -> NDArray[np.uint8]:
    """Furniture in a studio of soft boxes; only tiles that see it are lit."""
    n = SOLID_SAMPLES
    high, wide = (-(-side * n // TILE) * TILE for side in (view.height, view.width))
    row, column = np.mgrid[:high, :wide].astype(np.float64)
    way = view.rays(lighting.tiled((column + 0.5) / n), lighting.tiled((row + 0.5) / n))
    origin = np.ascontiguousarray(
        np.broadcast_to(view.place.astype(np.float32)[:, None, None], way.shape)
    )
    hits = scene.trace(origin, way, 40.0)
    tiles = np.flatnonzero((hits.solid >= 0).any(axis=1))
    studio = _studio(rng, scene, view)
    solid, flat = hits.solid[tiles].reshape(-1), way[:, tiles].reshape(3, -1)
    reach = np.where(solid >= 0, hits.t[tiles].reshape(-1), 1.0)
    point = origin[:, :1, 0] + flat * reach
    face = np.full(solid.shape, 4)
    seen = lighting.surface(studio, scene, solid, face, point, flat)
    free = lighting.visibility(studio, scene, seen, high, wide, tiles)
    linear = lighting.radiance(studio, seen, free, flat) * (solid >= 0)
    weight = seen.albedo.mean() / max(float(linear.mean()), 1e-6)
    gain = float(np.clip(weight * (solid >= 0).mean(), 0.1, 10.0)) * float(rng.uniform(0.9, 1.25))
    full = np.zeros((4, high * wide // TILE**2, TILE**2), dtype=np.float32)
    full[:3, tiles] = (linear * gain).reshape(3, -1, TILE**2)
    full[3, tiles] = (solid >= 0).reshape(-1, TILE**2)
    image = lighting.untiled(full.reshape(4, -1), high, wide)
    image = image[:, : view.height * n, : view.width * n]
    total = image.reshape(4, view.height, n, view.width, n).sum(axis=(2, 4))
    return encode(total[:3] / np.maximum(total[3], 1), total[3] / n**2)


def _studio(rng: Random, scene: Scene, view: View) -> Room:
    grey = Material((0.5, 0.5, 0.5))
    side = float(rng.choice([-1.0, 1.0]))
    boxes = []
    for share, power, rise in ((side, float(rng.uniform(7.0, 11.0)), 2.6), (-side, 3.0, 1.8)):
        away = view.axes[0] * share * 0.9 - view.axes[2] * np.array([1, 1, 0])
        centre = np.array([4.5, 4.5, rise]) + away / np.linalg.norm(away) * 2.6
        normal = np.array([4.5, 4.5, 0.5]) - centre
        normal /= np.linalg.norm(normal)
        u = np.cross(normal, [0, 0, 1.0])
        u /= np.linalg.norm(u)
        boxes.append(
            Panel(
                centre,
                u * 0.8,
                np.cross(u, normal) * 0.8,
                normal,
                np.array([1.05, 1.0, 0.93]) * power,
                False,
            )
        )
    camera = Camera(view.place, view.axes, 1.0)
    return Room(
        np.array([9.0, 9.0, 5.0]),
        (grey,) * 6,
        scene.solids,
        boxes,
        [],
        None,
        np.ones(3),
        camera,
        np.ones(4),
    )
