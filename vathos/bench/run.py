"""Measuring training by network and batch size.

The one rule: one trial after the other; what one finds, memory that does not suffice included, is a
row, and the next one begins.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vathos.bench.demand import count_demand
from vathos.bench.drawn import DrawnPictures
from vathos.bench.options import DEFAULT_SIZE, BenchOptions
from vathos.bench.result import Bench
from vathos.bench.roof import measure_roof
from vathos.bench.trial import Trial
from vathos.data_loader.opening import check_size, open_dataset
from vathos.errors import ConfigError
from vathos.runner.parts import build_model
from vathos.trainer.tuning import precision_name
from vathos.utils.config import parse_config
from vathos.utils.device import choose_device, choose_precision
from vathos.utils.schema import NamedConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from vathos.utils.schema import Config

__all__ = ["bench"]


def bench(
    config: dict[str, Any] | Config,
    options: BenchOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bench:
    """Time the training of each network at each batch size, and measure the device.

    progress: called with the steps done and their number. Ctrl-C ends it with the rows there are;
    before the first one it is raised. Raises `ConfigError`, `DataError`, `ArchiveError`.
    """
    options = BenchOptions() if options is None else options
    config = _checked(config, options)
    dataset = _open(config, options)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    config = _settled(config, device, precision)
    found = Bench(
        device=_called(device),
        precision="float32" if precision is None else str(precision).removeprefix("torch."),
        size=(dataset.height, dataset.width),
        drawn=isinstance(dataset, DrawnPictures),
        doubles=options.doubles,
        roof=measure_roof(device, precision),
    )
    try:
        _measure(config, options, dataset, (device, precision), found, progress)
    except KeyboardInterrupt:
        if not found.rows:
            raise
        found.interrupted = True
    return found


def _measure(
    config: Config,
    options: BenchOptions,
    dataset: Any,
    place: tuple[torch.device, torch.dtype | None],
    found: Bench,
    progress: Callable[[int, int], None] | None,
) -> None:
    device, precision = place
    names, sizes = options.models or (config.model.type,), options.sizes()
    total = len(names) * len(sizes) * options.steps

    def tell(timed: int) -> None:
        if progress is not None:
            progress(len(found.rows) * options.steps + timed, total)

    for name in names:
        demand = None
        for batch_size in sizes:
            # A folder each, for what one finds out about its steps is kept there.
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                trial = Trial(_with_model(config, name), folder, batch_size, options.steps)
                if demand is None:
                    demand = count_demand(build_model(trial.config), found.size, precision)
                row = trial.run(dataset, demand, device, tell)
            found.rows.append(row)
            tell(0)
            if options.doubles and row.problem is not None:
                break
    if progress is not None:
        progress(total, total)


def _checked(config: dict[str, Any] | Config, options: BenchOptions) -> Config:
    config = parse_config(config)
    device, size = options.device or config.device, options.size or config.dataset.size
    if device == "TPU":
        raise ConfigError("bench measures a GPU or the CPU, and device is TPU; add --device CPU")
    # A copy, for it knows where each key was written.
    dataset = config.dataset.model_copy(update={"size": size})
    return config.model_copy(update={"device": device, "dataset": dataset})


def _settled(config: Config, device: torch.device, precision: torch.dtype | None) -> Config:
    """With what was chosen in place of what was asked for, so that no trial warns of it again."""
    here = "CPU" if device.type == "cpu" else config.device
    return config.model_copy(update={"device": here, "precision": precision_name(precision)})


def _with_model(config: Config, name: str) -> Config:
    """With the arguments that the configuration has for it, if it is the configuration's."""
    if name == config.model.type:
        return config
    return config.model_copy(update={"model": NamedConfig(type=name)})


def _open(config: Config, options: BenchOptions) -> Any:
    """The archives, or pictures drawn at random."""
    drawn = options.drawn
    if drawn is None:
        drawn = not any(config.zip_dir.glob("fg_bg*.zip"))
    if drawn:
        pictures = DrawnPictures(config.dataset.size or DEFAULT_SIZE)
        check_size(pictures, "the drawn pictures")
        return pictures
    return open_dataset(config)


def _called(device: torch.device) -> str:
    """Such as `NVIDIA H100`, or `x86_64, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """As Linux calls it; elsewhere its architecture."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    named = (line.split(": ")[1] for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
