"""Pictures of our own: furnished rooms with exact depth, and things cut out of nothing.

The one rule: a picture depends on (seed, kind, index, size) alone; no other picture, clock or
machine has a say in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthgen.sources import lighting
from depthgen.sources.cutouts import draw_cutout
from depthgen.sources.raycast import TILE, Floats, Ints, Scene
from depthgen.sources.rooms import FAR_M, NEAR_M, Camera, Room, plan_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BACKGROUND, _CUTOUT = 1, 2
_SAMPLES = 2


def generator(seed: int, kind: int, index: int, attempt: int = 0) -> np.random.Generator:
    """The generator of one picture: Philox keyed by (seed, kind, index, attempt)."""
    if index < 0 or index >= 2**32:
        raise ValueError(f"the picture's index must be in [0, 2^32), got {index}")
    low = kind << 48 | attempt << 32 | index
    # As an array: a list with a number beyond 2^63 would pass through float64 and lose bits.
    return np.random.Generator(np.random.Philox(key=np.array([seed, low], np.uint64)))


def render_background(
    seed: int, index: int, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """A room: RGB (size, size, 3) and its z-depth (size, size) in millimetres.

    Depth is the distance along the optical axis of what the ray through the middle of the pixel
    meets, in float64, rounded to the millimetre; within 500 to 10,000, never 0. Colour is the mean
    of two by two samples a pixel. Raises `ValueError` for a size under 16 or an index out of range.
    """
    _check_size(size)
    for attempt in range(100):
        room = plan_room(generator(seed, _BACKGROUND, index, attempt))
        scene = Scene(room.solids)
        depth_m = depth_map(room, scene, size)
        if depth_m.min() >= NEAR_M and depth_m.max() <= FAR_M and _worth_seeing(depth_m):
            break
    else:
        raise RuntimeError(f"no room fits seed {seed}, index {index}: please report this")
    return _photograph(room, scene, size), np.rint(depth_m * 1000).astype(np.uint16)


def render_cutout(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """A thing: RGBA (h, w, 4) with straight colour, the longer side `size` pixels.

    Alpha is coverage: sixteen (bodies) or nine (furniture) samples a pixel along every outline; a
    rim of clear pixels surrounds the thing. Raises `ValueError` for a size under 16 or an index
    out of range.
    """
    _check_size(size)
    return draw_cutout(generator(seed, _CUTOUT, index), size)


def depth_map(room: Room, scene: Scene, size: int) -> NDArray[np.float64]:
    """z-depth (size, size) in metres at the middles of the pixels."""
    direction = camera_rays(room.camera, size, 1, np.dtype(np.float64))
    t, _, _ = _first(room, scene, direction)
    side = padded(size)
    # Directions have length one along the optical axis, so the ray's parameter is the z-depth.
    return lighting.untiled(t.reshape(-1), side, side)[:size, :size].astype(np.float64)


def camera_rays(camera: Camera, size: int, samples: int, dtype: np.dtype[np.floating]) -> Floats:
    """Directions (3, tiles, TILE²), `samples` a pixel each way, padded to whole tiles."""
    side = padded(size * samples)
    steps = ((np.arange(side) + 0.5) / (size * samples) * 2 - 1) * camera.tangent
    across = lighting.tiled(np.broadcast_to(steps, (side, side)))
    down = lighting.tiled(np.broadcast_to(-steps[:, None], (side, side)))
    right, up, forward = camera.axes[:, :, None, None]
    return np.asarray(right * across + up * down + forward, dtype=dtype)


def padded(side: int) -> int:
    return -(-side // TILE) * TILE


def _check_size(size: int) -> None:
    if size < 16:
        raise ValueError(f"a picture needs a size of at least 16 pixels, got {size}")


def _worth_seeing(depth_m: Floats) -> bool:
    """Something is far: a cupboard that fills the view makes no background."""
    return bool(np.median(depth_m) > 1.6)


def _first(room: Room, scene: Scene, direction: Floats) -> tuple[Floats, Ints, Ints]:
    place = room.camera.place.astype(direction.dtype)
    origin = np.ascontiguousarray(np.broadcast_to(place[:, None, None], direction.shape))
    t_shell, face = lighting.shell(room.size, origin, direction)
    hits = scene.trace(origin, direction, float(t_shell.max()))
    nearer = hits.t < t_shell
    return np.where(nearer, hits.t, t_shell), np.where(nearer, hits.solid, -1), face


def _photograph(room: Room, scene: Scene, size: int) -> NDArray[np.uint8]:
    direction = camera_rays(room.camera, size, _SAMPLES, np.dtype(np.float32))
    t, solid, face = _first(room, scene, direction)
    side = padded(size * _SAMPLES)
    place = room.camera.place.astype(np.float32)[:, None]
    flat = direction.reshape(3, -1)
    point = place + flat * t.reshape(-1)
    seen = lighting.surface(room, scene, solid.reshape(-1), face.reshape(-1), point, flat)
    free = lighting.visibility(room, scene, seen, side, side, np.arange(t.shape[0]))
    unit = flat / np.sqrt((flat * flat).sum(axis=0))
    linear = lighting.radiance(room, seen, free, unit)
    image = lighting.untiled(linear, side, side)[:, : size * _SAMPLES, : size * _SAMPLES]
    return develop(image, room.mood)


def develop(linear: Floats, mood: Floats) -> NDArray[np.uint8]:
    """Expose, roll off the highlights, average the samples, encode.

    `linear` is (3, h, w) with `_SAMPLES` a pixel each way; `mood` holds three gains of the white
    balance and the mean display value to reach.
    """
    balanced = linear * mood[:3, None, None].astype(np.float32)
    low, high = -4.0, 5.0
    small = balanced[:, ::4, ::4]
    for _ in range(12):
        middle = (low + high) / 2
        if float(lighting.film(small * 2.0**middle).mean()) < mood[3]:
            low = middle
        else:
            high = middle
    display = lighting.film(balanced * np.float32(2.0**low)) ** 2.2
    h, w = display.shape[1] // _SAMPLES, display.shape[2] // _SAMPLES
    pixels = display.reshape(3, h, _SAMPLES, w, _SAMPLES).mean(axis=(2, 4)) ** (1 / 2.2)
    return np.rint(pixels * 255).astype(np.uint8).transpose(1, 2, 0)
