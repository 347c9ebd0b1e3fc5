"""Progress on the terminal: a tqdm bar, or without a terminal a line now and then.

The one rule: progress goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from depthgen.stage import Progress

_LINE_EVERY_S = 10.0


def progress_bar(title: str, unit: str, quiet: bool) -> Progress:
    """A callback that shows `done` of `total`; it closes itself when all is done."""
    show = _Counter(title, unit, quiet)
    return show.update


class _Counter:
    def __init__(self, title: str, unit: str, quiet: bool) -> None:
        self._title, self._unit, self._quiet = title, unit, quiet
        self._bar: tqdm[Any] | None = None
        self._first: int | None = None
        self._started = self._told = time.monotonic()

    def update(self, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._first is None:  # what an earlier run has done says nothing of this one's speed
            self._first, self._started = done, time.monotonic()
        if sys.stderr.isatty():
            self._draw(done, total)
        else:
            self._tell(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, desc=self._title, unit=f" {self._unit}", leave=False
            )
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()

    def _tell(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told < _LINE_EVERY_S:
            return
        self._told = now
        rate = (done - (self._first or 0)) / (now - self._started)
        sys.stderr.write(
            f"{self._title}: {done:,} of {total:,} {self._unit}, {rate:,.0f} a second\n"
        )
        sys.stderr.flush()


# Of what training tells, what fits beside a bar.
_SHOWN = {"loss": "loss", "miou": "IoU", "mrmse": "RMSE"}


@contextmanager
def training_bar(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """A callback for `vathos.trainer.Progress`: one bar over all steps; beside it loss, IoU, RMSE
    and samples a second."""
    bar: tqdm[Any] | None = None
    told = time.monotonic()

    def on_progress(progress: Any) -> None:
        nonlocal bar, told
        if quiet or (progress.phase == "test" and not progress.done):
            return
        figures = [f"{word} {progress.metrics[name]:.3f}" for name, word in _SHOWN.items()]
        figures.append(f"{progress.samples_per_second:.0f} samples/s")
        if sys.stderr.isatty():
            if bar is None:
                # An epoch of a run begins with training. What an earlier run has done says nothing
                # of this one's speed.
                bar = tqdm(
                    total=progress.steps,
                    initial=progress.step,
                    desc="train",
                    unit=" steps",
                    leave=False,
                )
            if progress.phase == "train":
                bar.update(progress.step - bar.n)
            bar.set_postfix_str(", ".join(figures))
        elif progress.done or time.monotonic() - told > _LINE_EVERY_S:
            told = time.monotonic()
            sys.stderr.write(
                f"{progress.phase} epoch {progress.epoch + 1}/{progress.epochs}, "
                f"step {progress.step}/{progress.steps}: {', '.join(figures)}\n"
            )
            sys.stderr.flush()

    try:
        yield on_progress
    finally:
        if bar is not None:
            bar.close()
