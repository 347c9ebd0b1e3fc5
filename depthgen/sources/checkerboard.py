"""Telling pictures whose transparency is only painted: an editor's checkerboard as opaque pixels.

The one rule: the board is looked for along the picture's border, where it is not hidden by the
subject, and only one regular, axis-parallel grid of two near-neutral tones, the same on all sides,
counts as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Lines looked at along each side, and how deep they reach. A subject that covers 60 % and stays
# clear of the border leaves a ninth of the side.
_LINES = 16
_DEPTH = 0.1
# Editors' tones differ by 10 (a faint white) to 64 (white and silver). A chess board in black and
# white differs by far more, and stays a picture.
_LEAST_CONTRAST = 8
_MOST_CONTRAST = 100
_TONE_TOLERANCE = 12
_MOST_COLOUR = 24
_SMALLEST_CELL = 3.0
_LARGEST_CELL = 100.0
_LEAST_CELLS = 4.0
_SQUARENESS = 0.12
# 1 is a perfect board, 0 is chance. `_PURITY` is asked of the pixels that have the two tones,
# `_SHARE` of all: a subject may cover two of four sides.
_PURITY = 0.7
_SHARE = 0.25
_EVENNESS = 0.7


class _Wave(NamedTuple):
    """sign(cos(2π · frequency · x + phase)): frequency in cycles a pixel, two cells a cycle."""

    frequency: float
    phase: float

    def signs(self, length: int) -> NDArray[np.float32]:
        turns = 2 * np.pi * self.frequency * np.arange(length) + self.phase
        return np.where(np.cos(turns) >= 0, np.float32(1), np.float32(-1))


def has_painted_checkerboard(pixels: NDArray[np.uint8]) -> bool:
    """Whether (H, W, 3) RGB shows a transparency checkerboard around its subject.

    Cells of 3 to 100 pixels, whole or not, at least four a side; tones that differ by 8 to 100
    levels and have hardly any colour. The subject may cover two of the four sides.
    """
    height, width = pixels.shape[:2]
    if min(height, width) <= _LEAST_CELLS * _SMALLEST_CELL:
        return False
    rows, columns = _lines(height), _lines(width)
    across, down = pixels[rows], pixels[:, columns].transpose(1, 0, 2)
    tones = _two_tones(across, down)
    if tones is None:
        return False
    horizontal, vertical = _balance(across, *tones), _balance(down, *tones)
    wave_x, wave_y = _wave(horizontal), _wave(vertical)
    if abs(np.log(wave_x.frequency / wave_y.frequency)) > _SQUARENESS:
        return False
    signs_x, signs_y = wave_x.signs(width), wave_y.signs(height)
    seen_across = horizontal * np.outer(signs_y[rows], signs_x)
    seen_down = vertical * np.outer(signs_x[columns], signs_y)
    return _is_board(seen_across, seen_down) and _is_even(horizontal, vertical)


def _is_board(*agreements: NDArray[np.float32]) -> bool:
    """agreements: in each pixel 1 where the board fits, −1 where it is inverted, 0 for no tone."""
    nets = [float(agreement.sum()) for agreement in agreements]
    # Which of the cells are the dark ones is the same for rows and columns.
    sign = np.sign(sum(nets))
    pure = all(
        sign * net > _PURITY * float(np.abs(agreement).sum())
        for net, agreement in zip(nets, agreements, strict=True)
    )
    return pure and abs(sum(nets)) > _SHARE * sum(agreement.size for agreement in agreements)


def _is_even(*balances: NDArray[np.float32]) -> bool:
    """A board has as much of one tone as of the other; checked cloth, with three tones, has not."""
    light = sum(float(np.maximum(balance, 0).sum()) for balance in balances)
    dark = sum(float(np.maximum(-balance, 0).sum()) for balance in balances)
    return min(light, dark) > _EVENNESS * max(light, dark)


def _lines(length: int) -> NDArray[np.intp]:
    """Where the lines lie: as many at the start as at the end, at most one a pixel."""
    near = np.unique(np.linspace(0, max(1, length * _DEPTH), _LINES).astype(np.intp))
    return np.concatenate((near, length - 1 - near))


def _two_tones(*bands: NDArray[np.uint8]) -> tuple[float, float] | None:
    """The two commonest grey levels that are far enough apart, dark first."""
    counts = np.zeros(256)
    for band in bands:
        counts += np.bincount(band[_is_neutral(band), 1], minlength=256)
    counts = np.convolve(counts, (1, 2, 3, 4, 3, 2, 1), mode="same")
    first = int(counts.argmax())
    apart = np.abs(np.arange(256) - first)
    # Along the edges of small cells the tones mix; the mixtures lie nearer than the second tone.
    counts *= apart
    counts[(apart < _LEAST_CONTRAST) | (apart > _MOST_CONTRAST)] = 0
    second = int(counts.argmax())
    return (min(first, second), max(first, second)) if counts[second] else None


def _is_neutral(band: NDArray[np.uint8]) -> NDArray[np.bool_]:
    red, green, blue = (band[..., channel].astype(np.int16) for channel in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    return highest - np.minimum(np.minimum(red, green), blue) <= _MOST_COLOUR


def _balance(band: NDArray[np.uint8], dark: float, light: float) -> NDArray[np.float32]:
    """(lines, length) from −1 for the dark tone to 1 for the light one; 0 for what is neither."""
    grey = band[..., 1].astype(np.float32)
    toned = (grey >= dark - _TONE_TOLERANCE) & (grey <= light + _TONE_TOLERANCE)
    level = np.clip((2 * grey - dark - light) / (light - dark), -1, 1)
    return np.where(toned & _is_neutral(band), level, np.float32(0))


def _wave(balance: NDArray[np.float32]) -> _Wave:
    """The square wave that most lines follow, each as it is or inverted.

    The sum of the lines' power spectra does not know which of them are inverted, nor do the
    squares of their Fourier coefficients, whose mean angle is twice the phase.
    """
    length = balance.shape[1]
    centred = balance - balance.mean(axis=1, keepdims=True)
    size = 2 ** int(np.ceil(np.log2(2 * length)))
    power = (np.abs(np.fft.rfft(centred, size)) ** 2).sum(axis=0)
    longest = min(2 * _LARGEST_CELL, 2 * length / _LEAST_CELLS)
    first = int(np.ceil(size / longest))
    last = int(size / (2 * _SMALLEST_CELL))
    peak = first + int(power[first : last + 1].argmax())
    # Half a bin off would be a quarter of a cell off at both ends.
    frequencies = (peak + np.linspace(-1, 1, 17)) / size
    turns = 2 * np.pi * np.arange(length)[:, None] * frequencies
    waves = np.exp(-1j * turns).astype(np.complex64)
    coefficients = centred @ waves
    best = int((np.abs(coefficients) ** 2).sum(axis=0).argmax())
    phase = np.angle((coefficients[:, best] ** 2).sum()) / 2
    return _Wave(float(frequencies[best]), float(phase))
