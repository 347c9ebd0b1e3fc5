"""Bodies of flesh and cloth: tapered limbs that melt into each other, found by marching.

The one rule: a body is a distance field, and everything about it (its outline, normals, shade) is
asked of that field alone. Lengths are metres; vectors are (3, n) float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthgen.sources.materials import Colour, noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from depthgen.sources.raycast import Floats

PLAIN_COAT, SPOTS, TABBY, PATCHES = range(4)
# A taper makes the field a little steeper than a distance, so steps are a little shorter.
_CAUTION = 0.92
_STEPS = 40


@dataclass(frozen=True)
class Limb:
    """A round tapered rod from `start` (radius `r0`) to `end` (radius `r1`), in metres.

    `blend` is the width over which it melts into the limbs before it; `coat` says whether the
    body's coat pattern lies on it.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    r0: float
    r1: float
    colour: Colour
    blend: float = 0.03
    coat: bool = False


@dataclass(frozen=True)
class Coat:
    """How the second colour lies on the coated limbs; `scale` in metres."""

    pattern: int = PLAIN_COAT
    second: Colour = (0.8, 0.8, 0.8)
    belly: float = 0.0
    scale: float = 0.2
    rough: float = 0.25
    shift: float = 0.0


class Body:
    """Limbs as arrays."""

    def __init__(self, limbs: Sequence[Limb], coat: Coat, crisp_m: float = 0.006) -> None:
        self.limbs = list(limbs)
        self.coat = coat
        self.crisp_m = crisp_m
        self.start = np.array([limb.start for limb in limbs], dtype=np.float32).reshape(-1, 3)
        self.end = np.array([limb.end for limb in limbs], dtype=np.float32).reshape(-1, 3)
        self.r0 = np.array([limb.r0 for limb in limbs], dtype=np.float32)
        self.r1 = np.array([limb.r1 for limb in limbs], dtype=np.float32)

    def seen_in(self, which: NDArray[np.bool_]) -> Body:
        """The body reduced to the limbs `which` (n,): where no other limb is near, the same."""
        return Body(
            [k for k, keep in zip(self.limbs, which, strict=True) if keep], self.coat, self.crisp_m
        )

    def _limb_distance(self, number: int, point: Floats) -> Floats:
        a, span = self.start[number], self.end[number] - self.start[number]
        x, y, z = point[0] - a[0], point[1] - a[1], point[2] - a[2]
        square = max(float(span @ span), 1e-9)
        along = (x * span[0] + y * span[1] + z * span[2]) * np.float32(1 / square)
        along = np.minimum(np.maximum(along, 0, out=along), 1, out=along)
        x -= along * span[0]
        y -= along * span[1]
        z -= along * span[2]
        radius = self.r0[number] + along * (self.r1[number] - self.r0[number])
        return np.asarray(np.sqrt(x * x + y * y + z * z) - radius)

    def distance(self, point: Floats) -> Floats:
        """Signed distance (n,), never more than the true one by over a tenth."""
        total = np.full(point.shape[1], 1e3, dtype=np.float32)
        for number, limb in enumerate(self.limbs):
            here = self._limb_distance(number, point)
            near = np.maximum(np.float32(limb.blend) - np.abs(total - here), 0)
            total = np.minimum(total, here) - near * near * np.float32(0.25 / max(limb.blend, 1e-6))
        return total

    def march(
        self, origin: Floats, direction: Floats, start: Floats, stop: float, width: float
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Follow unit rays from `start` (n,) until closer than `width * t`, or past `stop`.

        Returns the distance reached (n,) and whether (n,) something was met; with a large `width`
        it is a cone that is followed, and what it misses all rays inside it miss.
        """
        t = start.copy()
        met = np.zeros(t.shape, dtype=np.bool_)
        alive = np.arange(t.size)
        for _ in range(_STEPS):
            gap = self.distance(origin[:, None] + direction[:, alive] * t[alive])
            reached = gap < width * t[alive]
            met[alive[reached]] = True
            alive, gap = alive[~reached], gap[~reached]
            t[alive] += np.float32(_CAUTION) * gap
            alive = alive[t[alive] < stop]
            if alive.size == 0:
                break
        # What still creeps along the surface after so many steps grazes it: leave no holes there.
        met[alive] = True
        return t, met

    def normals(self, point: Floats) -> Floats:
        """Unit normals (3, n): the field's slope over four corners of a tetrahedron."""
        total = np.zeros_like(point)
        for corner in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
            way = np.array(corner, dtype=np.float32)[:, None]
            total += way * self.distance(point + way * np.float32(2e-3))
        return np.asarray(total / np.sqrt((total * total).sum(axis=0) + 1e-20))

    def colours(self, point: Floats, normal: Floats) -> Floats:
        """Albedo (3, n): the nearest limbs' colours, and the coat's pattern on top."""
        count = point.shape[1]
        gaps = np.stack([self._limb_distance(k, point) for k in range(len(self.limbs))])
        weight = np.exp((gaps.min(axis=0) - gaps) / np.float32(self.crisp_m))
        weight /= weight.sum(axis=0)
        table = np.array([limb.colour for limb in self.limbs], dtype=np.float32)
        coated = np.array([limb.coat for limb in self.limbs], dtype=np.float32)
        base = np.stack([(weight * table[:, k, None]).sum(axis=0) for k in range(3)])
        share = np.clip(_coat_weight(self.coat, point, normal), 0, 1)
        share = share * (weight * coated[:, None]).sum(axis=0)
        second = np.asarray(self.coat.second, dtype=np.float32)[:, None]
        mixed = base + (second - base) * share
        x, y, z = point * np.float32(60)
        grain = noise(x + 0.3 * z, y * 0.9 + z * 0.35).reshape(count)
        return np.asarray(mixed * (1 + self.coat.rough * (grain - 0.5)), dtype=np.float32)

    def openness(self, point: Floats, normal: Floats) -> Floats:
        """Share of the sky (n,) left by the body itself and by the ground below z = 0."""
        free = np.ones(point.shape[1], dtype=np.float32)
        for reach, strength in ((0.03, 3.0), (0.09, 1.6), (0.2, 0.9)):
            ahead = point + normal * np.float32(reach)
            gap = np.minimum(self.distance(ahead), ahead[2] + 0.02)
            free -= np.float32(strength) * np.clip(reach - gap, 0, reach) * 0.9
        return np.clip(free, 0.12, 1.0)

    def lit(self, point: Floats, normal: Floats, toward: Floats) -> Floats:
        """Unblocked share (n,) of a broad light in direction `toward`, softer with distance."""
        share = np.ones(point.shape[1], dtype=np.float32)
        t = np.full(point.shape[1], 0.025, dtype=np.float32)
        start = point + normal * np.float32(0.012)
        for _ in range(7):
            gap = self.distance(start + toward[:, None] * t)
            share = np.minimum(share, 0.5 + 5.0 * gap / t)
            t += np.clip(gap, 0.03, 0.35)
        share = np.clip(share, 0, 1)
        return share * share * (3 - 2 * share)


def _coat_weight(coat: Coat, point: Floats, normal: Floats) -> Floats:
    x, y, z = point / np.float32(coat.scale) + np.float32(coat.shift)
    low = np.clip((-normal[2] - 0.25) * 2.2, 0, 1) * np.float32(coat.belly)
    if coat.pattern == PLAIN_COAT:
        return np.asarray(low)
    if coat.pattern == TABBY:
        bend = noise(z * 1.5 + y, y * 1.2 + 3) * 1.4
        return np.maximum(low, np.clip(np.sin((x * 2.2 + bend) * 3.0) * 2.2 - 0.6, 0, 1) * 0.8)
    field = noise(x + 0.35 * y, z + 0.6 * y)
    edge, sharp = (0.56, 22.0) if coat.pattern == PATCHES else (0.70, 14.0)
    return np.maximum(low, np.clip((field - edge) * sharp, 0, 1))
