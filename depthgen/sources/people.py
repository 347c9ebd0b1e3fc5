"""Human figures: standing, walking, waving, sitting; dressed.

The one rule: a figure is posed by joints in metres for a body of 1.75 m and then scaled, so that
proportions hold for a child's height as for a man's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from depthgen.sources.bodies import Body, Coat, Limb
from depthgen.sources.creatures import EYE
from depthgen.sources.furniture import Random, darker, varied

if TYPE_CHECKING:
    from depthgen.sources.materials import Colour

Point = tuple[float, float, float]

_SKINS = (
    (0.94, 0.78, 0.67),
    (0.88, 0.68, 0.54),
    (0.76, 0.56, 0.42),
    (0.56, 0.38, 0.27),
    (0.40, 0.27, 0.20),
)
_HAIRS = (
    (0.13, 0.10, 0.09),
    (0.28, 0.19, 0.13),
    (0.45, 0.31, 0.19),
    (0.80, 0.66, 0.42),
    (0.62, 0.60, 0.58),
    (0.55, 0.26, 0.14),
)
_SHIRTS = (
    (0.90, 0.89, 0.87),
    (0.22, 0.32, 0.52),
    (0.70, 0.22, 0.20),
    (0.25, 0.42, 0.32),
    (0.86, 0.68, 0.28),
    (0.30, 0.30, 0.33),
    (0.60, 0.72, 0.82),
    (0.78, 0.50, 0.55),
)
_TROUSERS = (
    (0.20, 0.26, 0.38),
    (0.17, 0.17, 0.19),
    (0.62, 0.54, 0.42),
    (0.36, 0.36, 0.38),
    (0.32, 0.42, 0.55),
    (0.40, 0.30, 0.22),
)


@dataclass(frozen=True)
class Dress:
    """The colours of one figure, and what it wears."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    long_hair: bool
    sleeves: bool
    skirt: bool


def person(rng: Random) -> Body:
    """A figure of 1.15 to 1.9 m in one of the poses."""
    outfit = _dress(rng)
    broad = float(rng.uniform(0.85, 1.12))
    pose = str(rng.choice(["stand", "walk", "walk", "wave", "hips", "sit"]))
    drop = 0.45 if pose == "sit" else 0.0
    limbs = _torso(outfit, broad, drop) + _head(rng, outfit, drop)
    for side in (-1, 1):
        limbs += _leg(rng, outfit, pose, side) + _arm(rng, outfit, pose, side, broad, drop)
    if outfit.skirt and pose != "sit":
        limbs.append(Limb((0, 0, 1.0), (0, 0, 0.62), 0.135 * broad, 0.225, outfit.trousers, 0.03))
    scale = float(rng.choice([1.0, 1.0, 1.0, 0.72])) * float(rng.uniform(0.94, 1.08))
    low = min(min(k.start[2] - k.r0, k.end[2] - k.r1) for k in limbs)
    return Body([_scaled(limb, scale, low) for limb in limbs], Coat(rough=0.12), 0.004)


def _scaled(limb: Limb, scale: float, low: float) -> Limb:
    def moved(p: Point) -> Point:
        return p[0] * scale, p[1] * scale, (p[2] - low) * scale

    return replace(
        limb,
        start=moved(limb.start),
        end=moved(limb.end),
        r0=limb.r0 * scale,
        r1=limb.r1 * scale,
        blend=limb.blend * scale,
    )


def _dress(rng: Random) -> Dress:
    return Dress(
        skin=varied(rng, _SKINS[rng.integers(len(_SKINS))], 0.03),
        hair=varied(rng, _HAIRS[rng.integers(len(_HAIRS))], 0.03),
        shirt=varied(rng, _SHIRTS[rng.integers(len(_SHIRTS))], 0.08),
        trousers=varied(rng, _TROUSERS[rng.integers(len(_TROUSERS))], 0.06),
        shoes=varied(
            rng, ((0.15, 0.12, 0.11), (0.85, 0.84, 0.82), (0.4, 0.27, 0.18))[rng.integers(3)], 0.04
        ),
        long_hair=bool(rng.random() < 0.45),
        sleeves=bool(rng.random() < 0.6),
        skirt=bool(rng.random() < 0.22),
    )


def _torso(outfit: Dress, broad: float, drop: float) -> list[Limb]:
    shirt, low = outfit.shirt, outfit.trousers
    limbs = []
    for side in (-1, 1):
        s = side * broad
        limbs += [
            Limb((0.10 * s, 0, 1.33 - drop), (0.07 * s, 0, 1.08 - drop), 0.105, 0.09, shirt, 0.05),
            Limb(
                (0.07 * s, 0, 1.08 - drop), (0.075 * s, 0.01, 0.99 - drop), 0.09, 0.105, shirt, 0.05
            ),
            Limb(
                (0.075 * s, 0.01, 0.95 - drop),
                (0.08 * s, 0.01, 0.9 - drop),
                0.108,
                0.108,
                low,
                0.03,
            ),
            Limb(
                (0.03 * s, 0.0, 1.44 - drop),
                (0.165 * s, 0.0, 1.405 - drop),
                0.062,
                0.068,
                shirt,
                0.05,
            ),
        ]
    return limbs


def _head(rng: Random, outfit: Dress, drop: float) -> list[Limb]:
    look = float(rng.uniform(-0.5, 0.5))
    c, s = float(np.cos(look)), float(np.sin(look))

    def at(x: float, y: float, z: float) -> Point:
        return x * c - y * s, x * s + y * c, z - drop

    skin, hair = outfit.skin, outfit.hair
    limbs = [
        Limb(at(0, 0.01, 1.42), at(0, 0, 1.54), 0.055, 0.05, skin, 0.02),
        Limb(at(0, 0, 1.665), at(0, -0.012, 1.59), 0.088, 0.062, skin, 0.02),
        Limb(at(0, -0.03, 1.555), at(0, -0.035, 1.555), 0.044, 0.044, skin, 0.04),
        Limb(at(0, -0.086, 1.635), at(0, -0.099, 1.612), 0.009, 0.014, skin, 0.012),
        Limb(at(0, 0.022, 1.70), at(0, 0.035, 1.655), 0.091, 0.088, hair, 0.01),
        Limb(at(0, -0.03, 1.735), at(0, 0.0, 1.74), 0.062, 0.06, hair, 0.02),
    ]
    lips = darker(skin, 0.55)
    limbs.append(
        Limb(at(-0.016, -0.073, 1.573), at(0.016, -0.073, 1.573), 0.0075, 0.0075, lips, 0.003)
    )
    for side in (-1, 1):
        eye, ear = at(0.0325 * side, -0.079, 1.652), at(0.088 * side, 0.005, 1.645)
        lobe = at(0.09 * side, 0.008, 1.62)
        limbs.append(Limb(eye, eye, 0.0115, 0.0115, EYE, 0.002))
        limbs.append(Limb(ear, lobe, 0.016, 0.012, skin, 0.008))
    if outfit.long_hair:
        limbs += [
            Limb(at(0.06 * k, 0.05, 1.68), at(0.075 * k, 0.06, 1.42), 0.06, 0.045, hair, 0.03)
            for k in (-1, 1)
        ]
    return limbs


def _leg(rng: Random, outfit: Dress, pose: str, side: int) -> list[Limb]:
    cloth = outfit.skin if outfit.skirt and pose != "sit" else outfit.trousers
    x = 0.088 * side
    hip, knee, ankle = (x, 0.01, 0.88), (x * 1.1, 0.0, 0.48), (x * 1.1, 0.02, 0.09)
    if pose == "walk":
        step = 0.27 * side
        knee = (x, -step * 0.75 - 0.04, 0.49)
        ankle = (x, -step * 1.25 + 0.06, 0.09 + (0.07 if step < 0 else 0.0))
    if pose == "sit":
        hip, knee, ankle = (x, 0.01, 0.47), (x * 1.5, -0.42, 0.5), (x * 1.5, -0.44, 0.09)
    elif pose != "walk":
        ankle = (x * float(rng.uniform(1.0, 1.9)), ankle[1], ankle[2])
    toe = (ankle[0] * 1.12, ankle[1] - 0.15, ankle[2] - 0.045)
    heel = (ankle[0], ankle[1] + 0.02, ankle[2] - 0.04)
    return [
        Limb(hip, knee, 0.09, 0.062, cloth, 0.03),
        Limb(knee, ankle, 0.062, 0.05, cloth, 0.02),
        Limb(heel, toe, 0.045, 0.036, outfit.shoes, 0.01),
    ]


def _arm(rng: Random, outfit: Dress, pose: str, side: int, broad: float, drop: float) -> list[Limb]:
    x = 0.185 * side * broad
    shoulder = (x, 0.0, 1.40 - drop)
    elbow = (x + 0.055 * side, float(rng.uniform(-0.01, 0.05)), 1.12 - drop)
    wrist = (x + 0.05 * side, -0.07, 0.88 - drop)
    if pose == "walk":
        swing = -0.16 * side
        elbow = (x + 0.05 * side, -swing * 0.8 + 0.05, 1.13 - drop)
        wrist = (x + 0.03 * side, -swing * 1.8 - 0.05, 0.93 - drop)
    if pose == "wave" and side == 1:
        elbow, wrist = (x + 0.22, -0.05, 1.42), (x + 0.25, -0.12, 1.70)
    if pose == "hips" and (side == 1 or rng.random() < 0.7):
        elbow, wrist = (x + 0.2 * side, 0.05, 1.17), (x - 0.02 * side, -0.06, 1.0)
    if pose == "sit":
        elbow, wrist = (x + 0.05 * side, -0.06, 1.13 - drop), (x * 0.75, -0.3, 1.04 - drop)
    hand = tuple(w + 0.3 * (w - e) for w, e in zip(wrist, elbow, strict=True))
    lower = outfit.shirt if outfit.sleeves else outfit.skin
    return [
        Limb(shoulder, elbow, 0.06, 0.047, outfit.shirt, 0.03),
        Limb(elbow, wrist, 0.045, 0.034, lower, 0.015),
        Limb(wrist, (hand[0], hand[1], hand[2]), 0.034, 0.036, outfit.skin, 0.012),
    ]
