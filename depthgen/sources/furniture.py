"""Furniture built of solids, for rooms and for cut-outs alike.

The one rule: a thing stands on z = 0 at its own origin, its front towards -y, in metres, and draws
every choice from the generator that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from depthgen.sources.materials import (
    BOOKS,
    CHECKS,
    FABRIC,
    LEAF,
    STRIPES,
    WOOD,
    Colour,
    Material,
    srgb,
)
from depthgen.sources.raycast import BOX, ELLIPSOID, FRUSTUM, ROUNDED, Solid, turn

Random = np.random.Generator
Vector = tuple[float, float, float]

WOODS = (
    (0.78, 0.60, 0.40),
    (0.62, 0.42, 0.26),
    (0.45, 0.29, 0.19),
    (0.88, 0.76, 0.58),
    (0.93, 0.92, 0.90),
    (0.30, 0.22, 0.18),
)
FABRICS = (
    (0.70, 0.68, 0.64),
    (0.45, 0.52, 0.58),
    (0.30, 0.40, 0.55),
    (0.62, 0.30, 0.24),
    (0.36, 0.45, 0.33),
    (0.80, 0.74, 0.62),
    (0.85, 0.62, 0.30),
    (0.52, 0.34, 0.24),
    (0.40, 0.40, 0.43),
    (0.72, 0.50, 0.50),
    (0.25, 0.45, 0.46),
)


@dataclass(frozen=True)
class Kit:
    """The materials that the things of one room share."""

    wood: Material
    cloth: Material
    accent: Material
    metal: Material
    white: Material


def varied(rng: Random, colour: Vector, amount: float = 0.06) -> Colour:
    """A display colour near the given one, as linear light."""
    r, g, b = np.clip(
        np.asarray(colour) + rng.uniform(-amount, amount) + rng.uniform(-amount, amount, 3) * 0.4,
        0.03,
        0.97,
    )
    return srgb(r, g, b)


def darker(colour: Colour, share: float) -> Colour:
    return colour[0] * share, colour[1] * share, colour[2] * share


def make_kit(rng: Random) -> Kit:
    """A colour scheme: one wood, one upholstery, one accent, one metal."""
    wood = varied(rng, WOODS[rng.integers(len(WOODS))])
    cloth = varied(rng, FABRICS[rng.integers(len(FABRICS))])
    accent = varied(rng, FABRICS[rng.integers(len(FABRICS))], 0.12)
    pattern = [FABRIC, FABRIC, STRIPES, CHECKS][rng.integers(4)]
    grey = float(rng.uniform(0.04, 0.4))
    return Kit(
        wood=Material(wood, darker(wood, 0.6), WOOD, 0.12, 0.04, shift=float(rng.uniform(0, 40))),
        cloth=Material(cloth, darker(cloth, 0.72), FABRIC, 0.03),
        accent=Material(accent, darker(cloth, 1.2), pattern, 0.09),
        metal=Material((grey, grey, grey * 1.03), gloss=0.2),
        white=Material(srgb(0.93, 0.92, 0.89), gloss=0.03),
    )


def box(x: float, y: float, z: float, w: float, d: float, h: float, m: Material) -> Solid:
    """A block of full size w x d x h with its underside's centre at (x, y, z)."""
    return Solid(BOX, (x, y, z + h / 2), (w / 2, d / 2, h / 2), m)


def soft(x: float, y: float, z: float, w: float, d: float, h: float, m: Material) -> Solid:
    """As `box`, upholstered."""
    return Solid(ROUNDED, (x, y, z + h / 2), (w / 2, d / 2, h / 2), m, 8.0)


def post(x: float, y: float, z: float, r: float, h: float, m: Material, top: float = 1.0) -> Solid:
    """An upright cylinder or cone of radius r and height h standing at (x, y, z)."""
    if top > 1.0:
        upside = turn(pitch=np.pi)
        return Solid(FRUSTUM, (x, y, z + h / 2), (r * top, r * top, h / 2), m, 1 / top, upside)
    return Solid(FRUSTUM, (x, y, z + h / 2), (r, r, h / 2), m, top)


def ball(x: float, y: float, z: float, rx: float, ry: float, rz: float, m: Material) -> Solid:
    """An ellipsoid around (x, y, z)."""
    return Solid(ELLIPSOID, (x, y, z), (rx, ry, rz), m)


def legs(w: float, d: float, h: float, r: float, m: Material, round_: bool) -> list[Solid]:
    """Four legs under a w x d top."""
    corners = [(sx * (w / 2 - r), sy * (d / 2 - r)) for sx in (-1, 1) for sy in (-1, 1)]
    if round_:
        return [post(x, y, 0, r * 0.6, h, m, 1.5) for x, y in corners]
    return [box(x, y, 0, 1.6 * r, 1.6 * r, h, m) for x, y in corners]


def sofa(rng: Random, kit: Kit) -> list[Solid]:
    seats = int(rng.integers(1, 4))
    arm, depth = float(rng.uniform(0.14, 0.24)), float(rng.uniform(0.82, 0.98))
    seat, tall = float(rng.uniform(0.40, 0.46)), float(rng.uniform(0.74, 0.92))
    inner = seats * float(rng.uniform(0.6, 0.72))
    width = inner + 2 * arm
    m = kit.cloth
    solids = legs(width - 0.1, depth - 0.1, 0.1, 0.03, kit.wood, False)
    solids.append(soft(0, 0, 0.08, width, depth, seat - 0.2, m))
    solids.append(soft(0, depth / 2 - 0.11, 0.1, width, 0.24, tall - 0.1, m))
    for side in (-1, 1):
        solids.append(soft(side * (width - arm) / 2, 0, 0.1, arm, depth, seat + 0.08, m))
    for k in range(seats):
        x = (k - (seats - 1) / 2) * inner / seats
        solids.append(soft(x, -0.08, seat - 0.16, inner / seats - 0.01, depth - 0.22, 0.18, m))
        back = soft(x, depth / 2 - 0.28, seat, inner / seats - 0.02, 0.2, tall - seat + 0.02, m)
        solids.append(replace(back, rotation=turn(pitch=-0.12), param=4.0))
    for side in (-1, 1):
        if rng.random() < 0.6:
            pillow = soft(side * (inner / 2 - 0.2), 0.02, seat + 0.03, 0.42, 0.17, 0.4, kit.accent)
            solids.append(replace(pillow, rotation=turn(side * -0.3, -0.35), param=4.0))
    return solids


def chair(rng: Random, kit: Kit) -> list[Solid]:
    w, d, seat = (float(rng.uniform(*r)) for r in ((0.42, 0.5), (0.42, 0.5), (0.44, 0.48)))
    top = seat + float(rng.uniform(0.38, 0.55))
    frame = kit.wood if rng.random() < 0.7 else kit.metal
    solids = legs(w, d, seat - 0.04, 0.024, frame, bool(rng.random() < 0.5))
    solids.append(box(0, 0, seat - 0.045, w, d, 0.035, frame))
    if rng.random() < 0.5:
        solids.append(soft(0, 0, seat - 0.015, w * 0.96, d * 0.96, 0.055, kit.accent))
    for side in (-1, 1):
        solids.append(
            box(side * (w / 2 - 0.02), d / 2 - 0.02, seat, 0.036, 0.03, top - seat, frame)
        )
    style = int(rng.integers(3))
    if style == 0:
        solids.append(soft(0, d / 2 - 0.02, seat + 0.14, w, 0.05, top - seat - 0.12, kit.accent))
    elif style == 1:
        for z in np.linspace(seat + 0.12, top - 0.08, 4).tolist():
            solids.append(box(0, d / 2 - 0.02, z, w - 0.04, 0.018, 0.05, frame))
    else:
        solids.append(box(0, d / 2 - 0.02, top - 0.07, w, 0.024, 0.07, frame))
        for x in np.linspace(-w / 2 + 0.09, w / 2 - 0.09, 4).tolist():
            solids.append(post(x, d / 2 - 0.02, seat, 0.009, top - seat - 0.05, frame))
    return solids


def table(rng: Random, kit: Kit) -> list[Solid]:
    low = bool(rng.random() < 0.5)
    w, d = float(rng.uniform(0.8, 1.3)), float(rng.uniform(0.5, 0.8))
    h = float(rng.uniform(0.36, 0.48)) if low else float(rng.uniform(0.70, 0.78))
    if rng.random() < 0.35:
        r = d * 0.62
        solids = [
            post(0, 0, 0, r * 0.5, 0.03, kit.metal),
            post(0, 0, 0, 0.04, h, kit.metal),
            post(0, 0, h - 0.035, r, 0.035, kit.wood),
        ]
    else:
        solids = legs(w - 0.06, d - 0.06, h - 0.03, 0.03, kit.wood, bool(rng.random() < 0.4))
        solids.append(box(0, 0, h - 0.04, w, d, 0.04, kit.wood))
        solids.append(box(0, 0, h - 0.1, w - 0.12, d - 0.12, 0.06, kit.wood))
    solids += [
        replace(s, centre=(s.centre[0] + 0.2 * w, s.centre[1], s.centre[2] + h))
        for s in ornament(rng, kit)
    ]
    return solids


def ornament(rng: Random, kit: Kit) -> list[Solid]:
    """Something small for a table top: a vase, a bowl with fruit, books, a mug."""
    kind = int(rng.integers(4))
    m = replace(kit.accent, pattern=0, gloss=0.05)
    if kind == 0:
        r = float(rng.uniform(0.05, 0.08))
        vase = [
            ball(0, 0, r * 1.2, r, r, r * 1.25, m),
            post(0, 0, r * 1.8, r * 0.45, r * 1.4, m, 1.3),
        ]
        return vase + foliage(rng, r * 3, 0.16, 7)
    if kind == 1:
        fruit = Material(
            srgb(*[(0.85, 0.3, 0.15), (0.95, 0.75, 0.2), (0.6, 0.75, 0.2)][rng.integers(3)])
        )
        bowl = [post(0, 0, 0, 0.07, 0.07, kit.white, 1.9)]
        return bowl + [
            ball(0.06 * np.cos(a), 0.06 * np.sin(a), 0.08, 0.045, 0.045, 0.043, fruit)
            for a in (0.3, 2.4, 4.4)
        ]
    if kind == 2:
        colours = [
            Material(varied(rng, FABRICS[rng.integers(len(FABRICS))], 0.15)) for _ in range(3)
        ]
        stack = [box(0, 0, 0.035 * k, 0.2, 0.27, 0.033, c) for k, c in enumerate(colours)]
        return [replace(s, rotation=turn(float(rng.uniform(-0.4, 0.4)))) for s in stack]
    return [post(0, 0, 0, 0.042, 0.1, kit.white), post(0.16, 0.05, 0, 0.03, 0.13, m, 0.8)]


def foliage(rng: Random, z: float, reach: float, count: int) -> list[Solid]:
    """Long leaves that spread from (0, 0, z)."""
    green = varied(rng, (0.30, 0.48, 0.22), 0.08)
    m = Material(green, darker(green, 0.5), LEAF, 0.05, 0.02)
    solids = []
    for k in range(count):
        yaw = 2.4 * k + float(rng.uniform(-0.4, 0.4))
        rise = float(rng.uniform(0.25, 1.35))
        long = reach * float(rng.uniform(0.7, 1.2))
        across, up = float(np.cos(rise)) * long, float(np.sin(rise)) * long
        centre = (
            -float(np.sin(yaw)) * across * 0.9,
            float(np.cos(yaw)) * across * 0.9,
            z + up * 0.9,
        )
        solids.append(
            Solid(ELLIPSOID, centre, (long * 0.22, long, long * 0.05), m, 1.0, turn(yaw, rise))
        )
    return solids


def plant(rng: Random, kit: Kit) -> list[Solid]:
    r, h = float(rng.uniform(0.12, 0.2)), float(rng.uniform(0.22, 0.4))
    pot = kit.white if rng.random() < 0.5 else replace(kit.accent, pattern=0)
    soil = Material(srgb(0.25, 0.18, 0.13))
    solids = [post(0, 0, 0, r * 0.75, h, pot, 1.33), post(0, 0, h, r * 0.9, 0.005, soil)]
    tall = float(rng.uniform(0.15, 0.7))
    trunk = Material(srgb(0.42, 0.32, 0.22), srgb(0.3, 0.22, 0.15), WOOD, 0.03)
    solids.append(post(0, 0, h, 0.022, tall, trunk, 0.7))
    solids += foliage(rng, h + tall * 0.55, float(rng.uniform(0.16, 0.24)), 6)
    return solids + foliage(rng, h + tall * 0.95, float(rng.uniform(0.2, 0.32)), 9)


def shelf(rng: Random, kit: Kit) -> list[Solid]:
    w, d, h = (float(rng.uniform(*r)) for r in ((0.7, 1.3), (0.28, 0.36), (1.2, 2.1)))
    rows = max(3, round(h / 0.36))
    m = kit.wood
    solids = [box(s * (w / 2 - 0.012), 0, 0, 0.024, d, h, m) for s in (-1, 1)]
    solids.append(box(0, d / 2 - 0.01, 0, w, 0.015, h, replace(m, colour=darker(m.colour, 0.8))))
    step = (h - 0.06) / rows
    solids += [
        box(0, 0, 0.04 + k * step - (k > 0) * 0.024, w, d, 0.024, m) for k in range(rows + 1)
    ]
    for k in range(rows):
        z, share = 0.064 + k * step, float(rng.uniform(0.35, 0.95))
        if rng.random() < 0.2:
            solids += [
                replace(s, centre=(s.centre[0], s.centre[1], s.centre[2] + z))
                for s in ornament(rng, kit)[:4]
                if s.centre[2] < step - 0.12
            ]
            continue
        books = Material((0.3, 0.3, 0.3), pattern=BOOKS, scale=0.035, shift=float(rng.integers(60)))
        left = -w / 2 + 0.03 if rng.random() < 0.5 else w / 2 - 0.03 - share * (w - 0.06)
        tall = step * float(rng.uniform(0.6, 0.85))
        solids.append(
            box(left + share * (w - 0.06) / 2, 0.03, z, share * (w - 0.06), d * 0.7, tall, books)
        )
    return solids


def cabinet(rng: Random, kit: Kit) -> list[Solid]:
    w, d, h = (float(rng.uniform(*r)) for r in ((0.8, 1.6), (0.38, 0.5), (0.5, 1.05)))
    m = kit.wood if rng.random() < 0.65 else kit.white
    solids = [*legs(w, d, 0.12, 0.03, kit.wood, True), box(0, 0, 0.1, w, d, h - 0.1, m)]
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(1, 4))
    door = replace(m, shift=m.shift + 5)
    cw, ch = (w - 0.03) / columns, (h - 0.15) / rows
    for i in range(columns):
        for j in range(rows):
            x, z = (i - (columns - 1) / 2) * cw, 0.125 + j * ch
            solids.append(box(x, -d / 2 - 0.008, z, cw - 0.014, 0.018, ch - 0.014, door))
            solids.append(ball(x, -d / 2 - 0.028, z + ch * 0.5, 0.016, 0.016, 0.016, kit.metal))
    return solids + [
        replace(s, centre=(s.centre[0] - 0.2 * w, s.centre[1], s.centre[2] + h))
        for s in ornament(rng, kit)
    ]


def bed(rng: Random, kit: Kit) -> list[Solid]:
    w = float(rng.choice([1.0, 1.5, 1.7]))
    long, high = 2.05, float(rng.uniform(0.34, 0.46))
    solids = legs(w, long, 0.2, 0.04, kit.wood, False)
    solids.append(box(0, 0, 0.14, w + 0.06, long + 0.04, high - 0.24, kit.wood))
    head = kit.wood if rng.random() < 0.5 else kit.cloth
    solids.append(soft(0, long / 2 + 0.05, 0.1, w + 0.1, 0.1, high + 0.45, head))
    solids.append(soft(0, 0, high - 0.16, w, long, 0.26, kit.white))
    cover = kit.accent if rng.random() < 0.6 else kit.cloth
    solids.append(
        soft(0, -0.28, high - 0.2, w + 0.07, long - 0.62, 0.34, replace(cover, scale=0.2))
    )
    count = 1 if w < 1.2 else 2
    for k in range(count):
        x = (k - (count - 1) / 2) * w / count
        pillow = soft(x, long / 2 - 0.24, high + 0.06, 0.62, 0.42, 0.17, kit.white)
        solids.append(replace(pillow, param=4.0, rotation=turn(0, 0.25)))
    return solids


def lamp(rng: Random, kit: Kit) -> list[Solid]:
    h, r = float(rng.uniform(1.35, 1.7)), float(rng.uniform(0.15, 0.23))
    shade = Material(srgb(0.95, 0.9, 0.8), glow=float(rng.uniform(0.5, 0.9)))
    lit = replace(post(0, 0, h - 0.3, r, 0.3, shade, float(rng.uniform(0.55, 0.9))), casts=False)
    return [post(0, 0, 0, 0.15, 0.025, kit.metal), post(0, 0, 0, 0.012, h - 0.1, kit.metal), lit]


def stool(rng: Random, kit: Kit) -> list[Solid]:
    h, r = float(rng.uniform(0.42, 0.7)), float(rng.uniform(0.16, 0.2))
    top = [post(0, 0, h - 0.04, r, 0.04, kit.wood)]
    if rng.random() < 0.6:
        top.append(Solid(ROUNDED, (0, 0, h + 0.02), (r, r, 0.05), kit.accent, 4.0))
    return legs(r * 1.7, r * 1.7, h - 0.03, 0.028, kit.wood, True) + top


def armchair(rng: Random, kit: Kit) -> list[Solid]:
    m, d = kit.accent if rng.random() < 0.5 else kit.cloth, 0.78
    solids = legs(0.66, 0.66, 0.2, 0.03, kit.wood, True)
    solids += [soft(0, 0, 0.16, 0.74, d, 0.18, m), soft(0, -0.04, 0.3, 0.52, 0.6, 0.16, m)]
    back = soft(0, d / 2 - 0.1, 0.2, 0.72, 0.2, float(rng.uniform(0.6, 0.85)), m)
    solids.append(replace(back, rotation=turn(pitch=-0.18)))
    return solids + [soft(s * 0.33, -0.02, 0.2, 0.13, 0.7, 0.42, m) for s in (-1, 1)]


Builder = Callable[[Random, Kit], list[Solid]]
BUILDERS: dict[str, Builder] = {
    "sofa": sofa,
    "chair": chair,
    "table": table,
    "plant": plant,
    "shelf": shelf,
    "lamp": lamp,
    "cabinet": cabinet,
    "bed": bed,
    "stool": stool,
    "armchair": armchair,
}
