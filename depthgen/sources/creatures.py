"""People and animals, posed and dressed, as bodies.

The one rule: a creature stands on z = 0 over the origin, looks towards +x (an animal) or -y (a
person), has its true size in metres, and draws every choice from the generator that it is given.
"""

from __future__ import annotations

import numpy as np

from depthgen.sources.beasts import BEASTS, Beast
from depthgen.sources.bodies import PATCHES, SPOTS, TABBY, Body, Coat, Limb
from depthgen.sources.furniture import Random, darker, varied
from depthgen.sources.materials import Colour, Floats, srgb

Point = tuple[float, float, float]
EYE, _NOSE = srgb(0.08, 0.06, 0.05), srgb(0.13, 0.10, 0.10)


def animal(rng: Random, name: str) -> Body:
    """One of `BEASTS`, standing or walking, of either build, in one of its coats."""
    kind = BEASTS[name]
    colour, pattern, second, belly = kind.coats[rng.integers(len(kind.coats))]
    fur = varied(rng, colour, 0.04)
    coat = Coat(
        pattern,
        varied(rng, second, 0.03),
        belly,
        kind.length * _scale(pattern),
        0.35,
        float(rng.uniform(0, 40)),
    )
    stout = float(rng.uniform(0.9, 1.12))
    nod = float(rng.uniform(-0.35, 0.2)) if name != "cat" else float(rng.uniform(-0.1, 0.2))
    limbs = _trunk(kind, fur, stout)
    limbs += _four_legs(rng, kind, fur)
    limbs += _tail(rng, kind, fur)
    limbs += _head(rng, kind, fur, nod, name)
    return Body(limbs, coat, 0.05 * kind.chest)


def _scale(pattern: int) -> float:
    return {PATCHES: 0.33, SPOTS: 0.075, TABBY: 0.22}.get(pattern, 0.3)


def _trunk(kind: Beast, fur: Colour, stout: float) -> list[Limb]:
    half, chest, hip = kind.length / 2, kind.chest * stout, kind.hip * stout
    fore, rear = kind.back - chest, kind.back - hip
    blend = chest * 0.5
    belly = (chest + hip) / 2 * 0.92
    trunk = [
        Limb(
            (half, 0, fore),
            (0, 0, kind.back - belly - 0.03 * kind.back),
            chest,
            belly,
            fur,
            blend,
            True,
        ),
        Limb(
            (0, 0, kind.back - belly - 0.03 * kind.back),
            (-half, 0, rear),
            belly,
            hip,
            fur,
            blend,
            True,
        ),
    ]
    for side in (-1, 1):
        y = side * hip * 0.45
        trunk.append(
            Limb(
                (-half, y, rear - 0.1 * hip),
                (-half * 0.95, y * 1.1, rear - hip * 0.9),
                hip * 0.72,
                hip * 0.5,
                fur,
                blend,
                True,
            )
        )
    return trunk


def _four_legs(rng: Random, kind: Beast, fur: Colour) -> list[Limb]:
    limbs = []
    stride = float(rng.choice([0.0, rng.uniform(0.1, 0.5)]))
    foot_colour = srgb(0.16, 0.13, 0.11) if kind.hoof else darker(fur, 0.85)
    for front in (True, False):
        for side in (-1, 1):
            swing = stride * side * (1 if front else -1) + float(rng.normal(0, 0.05))
            limbs += _leg(kind, fur, foot_colour, front, side, swing)
    return limbs


def _leg(
    kind: Beast, fur: Colour, foot_colour: Colour, front: bool, side: int, swing: float
) -> list[Limb]:
    """Thigh, shank and foot; the hind leg bends back at the hock, as an animal's does."""
    width = kind.chest if front else kind.hip
    r, y = kind.leg, side * width * 0.56
    x = kind.length / 2 * (1.0 if front else -1.0)
    top = (x, y, kind.back - width * 1.25)
    drop = top[2] - r * 0.8
    bend = (0.04 if front else -0.20) * drop
    knee = (x + bend + swing * drop * 0.35, y, r * 0.8 + drop * (0.46 if front else 0.52))
    lift = max(0.0, abs(swing) - 0.25) * drop * 0.25
    ankle = (x + swing * drop * 0.75 + (0 if front else -0.08 * drop), y, r * 0.9 + lift)
    toe = (ankle[0] + r * (0.7 if kind.hoof else 1.5), y, r * 0.72 + lift)
    thigh = r * (1.5 if front else 2.0)
    return [
        Limb(top, knee, thigh, r * 1.05, fur, r * 1.5, True),
        Limb(knee, ankle, r * 1.05, r * 0.82, fur, r * 0.8, True),
        Limb(ankle, toe, r * 0.95, r * 0.8, foot_colour, r * 0.5),
    ]


def _tail(rng: Random, kind: Beast, fur: Colour) -> list[Limb]:
    long, angle, r = kind.tail
    angle += float(rng.uniform(-0.25, 0.25))
    x, z = -kind.length / 2 - kind.hip * 0.75, kind.back - kind.hip * 0.6
    middle = (x - np.cos(angle) * long * 0.45, 0.0, z + np.sin(angle) * long * 0.45)
    curl = angle + (0.5 if angle > 0 else -0.1)
    side = float(rng.uniform(-0.25, 0.25)) * long
    tip = (middle[0] - np.cos(curl) * long * 0.55, side, middle[2] + np.sin(curl) * long * 0.55)
    root = (x + kind.hip * 0.2, 0.0, z)
    return [
        Limb(root, middle, r * 1.25, r, fur, r, True),
        Limb(middle, tip, r, r * 0.8, fur, r, True),
    ]


def _head(rng: Random, kind: Beast, fur: Colour, nod: float, name: str) -> list[Limb]:
    rise, r = kind.rise + nod, kind.skull
    base = np.array([kind.length / 2 + kind.chest * 0.35, 0, kind.back - kind.chest * 0.6])
    look, tilt = float(rng.uniform(-0.6, 0.6)), -0.35 + 0.3 * nod
    skull = base + np.array([np.cos(rise), np.sin(look) * 0.25, np.sin(rise)]) * (
        kind.neck + r * 0.6
    )
    ahead = np.array([np.cos(look) * np.cos(tilt), np.sin(look) * np.cos(tilt), np.sin(tilt)])
    across = np.array([-np.sin(look), np.cos(look), 0])
    up = np.cross(ahead, across)
    nose = skull + ahead * (r * 0.75 + kind.snout) - up * r * 0.25
    thick, wide = max(kind.chest * 0.52, r * 0.62) * 0.72, kind.chest * 0.72
    root = _p(base - [kind.chest * 0.2, 0, 0])
    limbs = [
        Limb(root, _p(skull), wide, thick, fur, thick, True),
        Limb(_p(skull), _p(skull + ahead * r * 0.25), r, r * 0.9, fur, r * 0.5, True),
    ]
    limbs += _snout(kind, fur, name, (skull + ahead * r * 0.6 - up * r * 0.2, nose), (ahead, up))
    for side in (-1, 1):
        limbs += _features(kind, fur, skull, (ahead, side * across, up), side)
    if name == "goat" and rng.random() < 0.7:
        chin = nose - up * kind.muzzle
        limbs.append(Limb(_p(chin), _p(chin - up * 0.1), 0.02, 0.006, fur, 0.02))
    return limbs + _horns(rng, kind, skull, ahead, across, up)


def _snout(
    kind: Beast, fur: Colour, name: str, line: tuple[Floats, Floats], frame: tuple[Floats, Floats]
) -> list[Limb]:
    """From the skull to the nose along `line`; `frame` is ahead and up."""
    (root, nose), (ahead, up), m = line, frame, kind.muzzle
    colour = srgb(0.85, 0.72, 0.66) if name == "cow" else fur
    tip = nose + ahead * m * 0.85 + up * m * 0.4
    blend = kind.skull * 0.5
    return [
        Limb(_p(root), _p(nose), kind.skull * 0.66, m, fur, blend, True),
        Limb(_p(nose), _p(nose + ahead * m * 0.2), m, m, colour, m * 0.3),
        Limb(_p(tip), _p(tip + ahead * m * 0.05), m * 0.42, m * 0.42, _NOSE, 0.004),
    ]


def _features(
    kind: Beast, fur: Colour, skull: Floats, frame: tuple[Floats, ...], side: int
) -> list[Limb]:
    ahead, across, up = frame
    r, (long, wide, upward) = kind.skull, kind.ear
    eye = skull + ahead * r * 0.84 + across * r * 0.52 + up * r * 0.30
    root = skull + across * r * (0.62 if upward > 0.5 else 0.8) + up * r * 0.62 - ahead * r * 0.1
    out = across * (1 - abs(upward)) + up * upward + across * 0.3
    tip = root + out / np.linalg.norm(out) * long
    dark = darker(fur, 0.6)
    narrow = 0.35 if upward > 0.5 else 0.75
    return [
        Limb(_p(eye), _p(eye), r * 0.15, r * 0.15, EYE, 0.003),
        Limb(_p(root), _p(tip), wide, wide * narrow, dark if upward < 0.5 else fur, wide * 0.6),
    ]


def _horns(
    rng: Random,
    kind: Beast,
    skull: Floats,
    ahead: Floats,
    across: Floats,
    up: Floats,
) -> list[Limb]:
    limbs: list[Limb] = []
    if not kind.horn or rng.random() < 0.35:
        return limbs
    bone, r = srgb(0.62, 0.54, 0.42), kind.skull
    for side in (-1, 1):
        root = skull + up * r * 0.8 + across * side * r * 0.4
        if kind.horn == "antlers":
            limbs += _antler(root, ahead, across * side, up, bone)
            continue
        bow = -ahead if kind.horn == "curved" else across * side
        stem = root + up * r * 0.8 + bow * r * (0.5 if kind.horn == "curved" else 1.0)
        tip = stem + bow * r * 1.0 + up * r * (-0.1 if kind.horn == "curved" else 0.6)
        limbs += [
            Limb(_p(root), _p(stem), r * 0.2, r * 0.15, bone, 0.01),
            Limb(_p(stem), _p(tip), r * 0.15, r * 0.05, bone, 0.01),
        ]
    return limbs


def _antler(root: Floats, ahead: Floats, outward: Floats, up: Floats, bone: Colour) -> list[Limb]:
    stem = root + up * 0.2 + outward * 0.14 - ahead * 0.1
    tip = stem + up * 0.24 + outward * 0.06 + ahead * 0.1
    fork = (root + stem) / 2
    brow, back = fork + up * 0.12 + ahead * 0.1, stem + up * 0.17 - ahead * 0.07 + outward * 0.08
    return [
        Limb(_p(root), _p(stem), 0.019, 0.016, bone, 0.01),
        Limb(_p(stem), _p(tip), 0.016, 0.007, bone, 0.01),
        Limb(_p(fork), _p(brow), 0.013, 0.006, bone, 0.01),
        Limb(_p(stem), _p(back), 0.013, 0.006, bone, 0.01),
    ]


def _p(point: Floats) -> Point:
    x, y, z = (float(v) for v in point)
    return x, y, z
