"""How a step is computed: how precisely, in which memory order, compiled or not.

The one rule: what a person set is done, and `auto` is measured where the run is long enough for
that to pay, else decided by a rule; measuring touches nothing of the run, and what came out of it
is kept in the run folder, so that to go on is to compute as before.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from vathos.trainer.checkpoint import write_atomic
from vathos.utils.allocator import keep_freed
from vathos.utils.device import choose_precision, device_name, synchronise
from vathos.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from vathos.utils.config import Config

__all__ = ["STEP_FILE", "StepSettings", "Tuner", "arrange", "precision_name", "time_passes"]

log = logging.getLogger(__name__)

STEP_FILE = "step.json"
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# A CUDA graph is recorded in the second pass and replayed from the third on.
WARM_UP, TIMED = 3, 5
# Four ways of eight passes each, the slowest of which takes thrice as long as the fastest, are as
# much as 60 passes: 3 % of such a run.
MEASURED_FROM_PASSES = 2000
# To compile takes about a minute: a tenth of such a run.
COMPILED_FROM_S = 600.0
# What is not faster by so much may just have been lucky.
MARGIN = 0.05


@dataclass(frozen=True)
class StepSettings:
    """How forward and backward pass are computed; `precision` is float32, bf16 or fp16."""

    precision: str
    channels_last: bool
    compile: bool

    @property
    def autocast(self) -> torch.dtype | None:
        """The type that the forward pass multiplies in; None is that of the weights."""
        return PRECISIONS[self.precision]

    @property
    def memory_order(self) -> torch.memory_format:
        """That of the weights and of the pictures."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        order = "channels-last" if self.channels_last else "contiguous"
        return f"{self.precision} {order}{' compiled' if self.compile else ''}"


class Tuner:
    """Finds the settings of a run on `device`.

    time_pass: the seconds of one forward and backward pass with such settings; it raises
    RuntimeError for those that do not work here. It is called for what is `auto` if the run is
    long, and once, to see whether it works, for what is compiled.
    """

    def __init__(
        self, config: Config, device: torch.device, time_pass: Callable[[StepSettings], float]
    ) -> None:
        training = config.training
        self._path = config.run_folder / STEP_FILE
        self._asked = {
            "device": device_name(device),
            "precision": config.precision,
            "channels_last": training.channels_last,
            "compile": training.compile,
        }
        kind = choose_precision(config.precision, device)
        self._rule = StepSettings(
            precision=precision_name(kind),
            channels_last=training.channels_last is not False and device.type != "mps",
            compile=False,
        )
        self._time_pass = time_pass
        self._seconds: dict[StepSettings, float] = {}
        self._out_of_memory = False

    def choose(self, passes: int) -> StepSettings:
        """The settings for a run of so many forward passes: those that it began with, or measured
        ones, or those of the rule: bf16 where the hardware has it, channels-last, not compiled.

        Raises `torch.OutOfMemoryError` if none that were measured has room.
        """
        best = self._read()
        if best is None:
            best = self._rule
            if "auto" in self._asked.values() and passes >= MEASURED_FROM_PASSES:
                best = self._measure(passes)
                self._write(best)
            elif self._asked["compile"] is True:
                best = replace(best, compile=True)
        if best.compile and self._time(best) == math.inf:
            best = replace(best, compile=False)
        return best

    def _measure(self, passes: int) -> StepSettings:
        least = min([self._time(way) for way in self._ways()])
        if least == math.inf and self._out_of_memory:
            raise torch.OutOfMemoryError("a forward and a backward pass have no room in any way")
        best = self._fastest(self._rule)
        compiled = replace(best, compile=True)
        if self._asked["compile"] is True:
            best = compiled
        elif self._asked["compile"] == "auto" and self._seconds[best] * passes > COMPILED_FROM_S:
            self._time(compiled)
            best = self._fastest(best)
        figures = ", ".join(f"{way} {1000 * s:.3g} ms" for way, s in self._seconds.items())
        log.info("a step is computed in %s; forward and backward took: %s", best, figures)
        return best

    def _ways(self) -> list[StepSettings]:
        """What to compare, uncompiled; the rule's comes first."""
        ways = [self._rule]
        if self._asked["precision"] == "auto" and self._rule.precision != "float32":
            ways.append(replace(self._rule, precision="float32"))
        if self._asked["channels_last"] == "auto" and self._rule.channels_last:
            ways += [replace(way, channels_last=False) for way in ways]
        return ways

    def _fastest(self, usual: StepSettings) -> StepSettings:
        best = min(self._seconds, key=self._seconds.__getitem__)
        return best if self._seconds[best] < (1 - MARGIN) * self._seconds[usual] else usual

    def _time(self, settings: StepSettings) -> float:
        """Seconds of a pass, measured once; infinite if it fails."""
        if settings not in self._seconds:
            try:
                self._seconds[settings] = self._time_pass(settings)
            except RuntimeError as error:
                # torch.compile's first line says whose error it passes on, and the next one what.
                lines = [line for line in str(error).splitlines() if line and line[-1] != ":"]
                reason = lines[0] if lines else type(error).__name__
                if is_out_of_memory(error):
                    reason, self._out_of_memory = "out of memory", True
                log.warning("%s is left out, for no step can be so computed: %s", settings, reason)
                self._seconds[settings] = math.inf
        return self._seconds[settings]

    def _read(self) -> StepSettings | None:
        """What the run began with, if it was measured on such a device for the same wishes."""
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            if record["asked"] == self._asked and record["settings"]["precision"] in PRECISIONS:
                return StepSettings(**record["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or not ours: it is measured, and written anew
        return None

    def _write(self, settings: StepSettings) -> None:
        seconds = {str(way): s for way, s in self._seconds.items() if s < math.inf}
        record = {"asked": self._asked, "settings": asdict(settings), "seconds": seconds}
        text = json.dumps(record, indent=1) + "\n"
        write_atomic(self._path, lambda file: file.write(text.encode()))


def precision_name(kind: torch.dtype | None) -> str:
    """What a configuration calls the type of autocast: float32 (None), bf16 or fp16."""
    return next(name for name, each in PRECISIONS.items() if each is kind)


def arrange(model: nn.Module, settings: StepSettings, device: torch.device) -> nn.Module:
    """Lay the weights of `model` out in memory, in place, and return what is to be called for it:
    the model, or its compiled form, which shares its weights."""
    model.to(memory_format=settings.memory_order)  # type: ignore[call-overload]
    if not settings.compile:
        return model
    # All batches of training are of one shape; and on CUDA, graphs spare the launch of each kernel.
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return cast("nn.Module", torch.compile(model, dynamic=False, mode=mode))


def time_passes(run: Callable[[], None], device: torch.device) -> float:
    """The least seconds that `run` took on `device`, after it has warmed up."""
    seconds = []
    for done in range(WARM_UP + TIMED):
        start = time.perf_counter()
        run()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        if not done:
            keep_freed(device)  # as training does, so that the same is timed
    return min(seconds[WARM_UP:])
