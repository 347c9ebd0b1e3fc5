"""What surfaces are made of: colours, and the patterns that a place on the surface selects.

The one rule: a pattern depends on the material and the place alone, never on the pixel, so that
the same thing looks the same from every side and at every size. Colours are linear light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Colour = tuple[float, float, float]

PLAIN, WOOD, PLANKS, TILES, FABRIC, STRIPES, CHECKS, PICTURE, BOOKS, RUG, PAPER, MARBLE, LEAF = (
    range(13)
)

_LATTICE = np.random.Generator(np.random.Philox(key=[20, 20])).random((64, 64), dtype=np.float32)


@dataclass(frozen=True)
class Material:
    """A surface: two colours (linear, 0-1), how they alternate, how much it shines or glows.

    `scale` is the size of the pattern in metres; `shift` makes two things of one kind differ.
    `gloss` is the mirror's share at normal incidence; `glow` is radiance added to the surface.
    """

    colour: Colour
    second: Colour = (0.5, 0.5, 0.5)
    pattern: int = PLAIN
    scale: float = 0.1
    gloss: float = 0.0
    glow: float = 0.0
    shift: float = 0.0


def srgb(red: float, green: float, blue: float) -> Colour:
    """Display values 0-1 as linear light."""
    r, g, b = (float(v) ** 2.2 for v in (red, green, blue))
    return r, g, b


def noise(u: Floats, v: Floats) -> Floats:
    """Smooth value noise in [0, 1] with features one unit wide, repeating after 64."""
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    i, j = iu.astype(np.int64) & 63, iv.astype(np.int64) & 63
    i1, j1 = (i + 1) & 63, (j + 1) & 63
    top = _LATTICE[i, j] * (1 - fv) + _LATTICE[i, j1] * fv
    low = _LATTICE[i1, j] * (1 - fv) + _LATTICE[i1, j1] * fv
    return np.asarray(top * (1 - fu) + low * fu)


def cell(u: Floats, v: Floats) -> Floats:
    """A random number in [0, 1) for each unit square."""
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    return _LATTICE[(i * 7 + j * 13) & 63, (j * 5 + i * 11) & 63]


def albedo(material: Material, u: Floats, v: Floats) -> Floats:
    """Reflectance (3, n) at surface coordinates `u`, `v` (n,) in metres."""
    first = np.asarray(material.colour, dtype=np.float32)[:, None]
    second = np.asarray(material.second, dtype=np.float32)[:, None]
    if material.pattern == PLAIN:
        return np.repeat(first, u.size, axis=1)
    if material.pattern in (PICTURE, BOOKS):
        return (_picture if material.pattern == PICTURE else _books)(material, u, v)
    weight = _WEIGHTS[material.pattern](
        u / material.scale, v / material.scale, material.shift
    ).astype(np.float32)
    return np.asarray(first + (second - first) * weight)


def _grain(u: Floats, v: Floats, shift: float) -> Floats:
    wave = noise(u * 0.5 + shift, v * 8 + shift) * 0.6 + noise(u * 2, v * 30 + shift) * 0.4
    return np.asarray(wave)


def _planks(u: Floats, v: Floats, shift: float) -> Floats:
    """Boards one unit wide and eight long, each of its own tone, with thin dark joints."""
    board = np.floor(v)
    along = u / 8 + cell(board * 0 + 3, board)
    tone = cell(np.floor(along) + shift, board) * 0.55 + _grain(u, v, shift) * 0.4
    joint = (np.abs(v - board - 0.5) > 0.475) | (np.abs(along % 1 - 0.5) > 0.495)
    return np.where(joint, 1.35, tone)


def _tiles(u: Floats, v: Floats, shift: float) -> Floats:
    joint = (np.abs(u % 1 - 0.5) > 0.48) | (np.abs(v % 1 - 0.5) > 0.48)
    tone = cell(u + shift, v) * 0.18 + noise(u * 4 + shift, v * 4) * 0.15
    return np.where(joint, 1.0, tone)


def _fabric(u: Floats, v: Floats, shift: float) -> Floats:
    return noise(u * 9 + shift, v * 9) * 0.6 + noise(u + shift, v + 7) * 0.4


def _stripes(u: Floats, v: Floats, shift: float) -> Floats:
    return np.asarray(np.clip((np.abs((u + shift) % 1 - 0.5) - 0.22) * 14, 0, 1))


def _checks(u: Floats, v: Floats, shift: float) -> Floats:
    return np.asarray((np.floor(u + shift) + np.floor(v)) % 2)


def _rug(u: Floats, v: Floats, shift: float) -> Floats:
    """A medallion of diamonds: `u`, `v` run from the middle of the rug."""
    ring = np.abs(u) + np.abs(v) + 0.15 * np.sin(u * 9) * np.sin(v * 9)
    pattern = np.where((ring * (2 + shift % 2)) % 1 > 0.6, 0.9, 0.1)
    return np.asarray(pattern + (noise(u * 40, v * 40) - 0.5) * 0.3)


def _paper(u: Floats, v: Floats, shift: float) -> Floats:
    """Wallpaper: a lattice of small soft blossoms."""
    row = np.floor(v)
    x, y = (u + 0.5 * (row % 2)) % 1 - 0.5, v - row - 0.5
    angle = np.arctan2(y, x)
    petal = np.sqrt(x * x + y * y) - 0.22 - 0.07 * np.cos(5 * angle + shift)
    return np.asarray(np.clip(0.5 - petal * 12, 0, 1) * 0.8)


def _marble(u: Floats, v: Floats, shift: float) -> Floats:
    """Polished slabs two units wide, with veins."""
    bend = noise(u * 1.3 + shift, v * 1.3) * 2 + noise(u * 4, v * 4 + shift) * 0.8
    vein = np.abs(np.sin((u + 0.6 * v) * 1.3 + bend * 2)) ** 14 * 0.22
    joint = (np.abs(u / 2 % 1 - 0.5) > 0.492) | (np.abs(v / 2 % 1 - 0.5) > 0.492)
    return np.where(joint, 0.5, vein + noise(u * 2, v * 2 + shift) * 0.1)


def _leaf(u: Floats, v: Floats, shift: float) -> Floats:
    return noise(u + shift, v + shift * 3)


_WEIGHTS = {
    WOOD: _grain,
    PLANKS: _planks,
    TILES: _tiles,
    FABRIC: _fabric,
    STRIPES: _stripes,
    CHECKS: _checks,
    RUG: _rug,
    PAPER: _paper,
    MARBLE: _marble,
    LEAF: _leaf,
}


def _books(material: Material, u: Floats, v: Floats) -> Floats:
    """A row of spines, each of its own colour, height and lean."""
    spine = np.floor(u / material.scale + 0.2 * cell(u / material.scale / 3, u * 0 + 1))
    a, b, c = (cell(spine + k + material.shift * 9, spine * 0 + k) for k in (1, 2, 3))
    colour = 0.04 + 0.5 * np.stack([a**1.5, (0.3 * a + 0.7 * b) ** 1.8, (0.5 * b + 0.5 * c) ** 2])
    band = (np.abs(v - 0.05 * c) < 0.012) & (a > 0.4)
    return np.where(band, 0.7, colour).astype(np.float32)


def _picture(material: Material, u: Floats, v: Floats) -> Floats:
    """A small painting: hills under a sky, or colour fields, chosen by `shift`."""
    first, second = (
        np.asarray(c, dtype=np.float32)[:, None] for c in (material.colour, material.second)
    )
    x, y = u / material.scale, v / material.scale
    s = material.shift
    if s % 1 < 0.5:
        ridge = noise(x * 2 + s * 10, x * 0 + s) * 0.8 - 0.45
        far = noise(x * 3 + s * 20, x * 0 + 3) * 0.7 - 0.1
        sky = 0.35 + 0.4 * np.clip(y + 0.6, 0, 1) * np.array([[0.7], [0.9], [1.1]])
        land = np.where(y < ridge, first * (0.5 + noise(x * 9, y * 9)), 0.5 * (first + second))
        return np.where(y < far, land, sky).astype(np.float32)
    weight = np.clip((noise(x * 1.6 + s * 10, y * 1.6) - 0.45) * 6, 0, 1)
    spot = np.hypot(x - 0.3 * np.sin(s * 40), y - 0.3 * np.cos(s * 40)) < 0.35
    field = first + (second - first) * weight
    return np.where(spot, second * 0.6 + 0.25 * first[::-1], field).astype(np.float32)
