"""Where decoded samples are kept between epochs: what `dataset.cache` names, or `auto` finds.

The one rule: auto takes half of what is free at most, on a GPU of what a step leaves free, and
nothing for a run that would visit each sample once. What it takes is one line in the log.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from depthgen.workspace import Workspace
from vathos.data_loader.cache import Cache, layouts_of, total_bytes
from vathos.data_loader.disk_cache import DiskCache
from vathos.errors import ConfigError
from vathos.utils.memory import available_share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vathos.data_loader.batches import Batches
    from vathos.data_loader.dense_depth import Batch
    from vathos.utils.schema import Config

__all__ = ["keep"]

log = logging.getLogger(__name__)

Place = Literal["device", "ram", "disk"]
SHARE = 0.5  # of what is free that auto may take


def keep(
    config: Config,
    batches: Sequence[Batches],
    device: torch.device,
    epochs: int,
    spare: Callable[[], int],
) -> None:
    """Have these batches keep their samples as `dataset.cache` says, in a run of so many epochs.

    spare: gives the bytes that a step leaves free on the device, for auto alone.

    Raises `ConfigError` where what was named has no room, `DataError` where no file can be written.
    """
    wanted = config.dataset.cache
    if wanted == "none" or not hasattr(batches[0].dataset, "load_batch"):
        return
    if wanted != "auto":
        _keep_at(wanted, config, batches, device, _size(batches))
        return
    if epochs == 1:
        log.info("dataset.cache: none, for each sample is trained on once")
        return
    size = _size(batches)
    free_at: dict[Place, Callable[[], int]] = {"device": spare, "ram": available_share}
    for place, free in free_at.items():
        if size > SHARE * free():
            continue
        try:
            _keep_at(place, config, batches, device, size)
        except ConfigError:
            continue
        return
    log.info("dataset.cache: none, for %s have no room; disk is there to be named", _told(size))


def _keep_at(
    place: Place, config: Config, batches: Sequence[Batches], device: torch.device, size: int
) -> None:
    free = available_share()
    if place == "ram" and 0 < free < size:
        raise ConfigError(
            f"dataset.cache: ram would take {_told(size)}, and {_told(free)} of memory are free; "
            "take disk, none, or a smaller dataset.size"
        )
    try:
        caches = [_cache(place, config, each, device) for each in batches]
    except RuntimeError as error:  # torch has no type of its own for the memory of the host
        raise ConfigError(
            f"dataset.cache: {place} has no room for {_told(size)}; take auto, disk or none"
        ) from error
    for each, cache in zip(batches, caches, strict=True):
        each.keep_in(cache)
    where = caches[0].path if isinstance(caches[0], DiskCache) else place
    log.info("dataset.cache: %s, at most %s", where, _told(size))


def _cache(place: Place, config: Config, batches: Batches, device: torch.device) -> Cache:
    dataset = batches.dataset
    rows = np.arange(len(dataset)) if place == "disk" else np.unique(batches.order.rows)
    layouts = layouts_of(dataset, rows, _sample(batches))
    pinned = device.type == "cuda" and place != "device"
    if place == "disk":
        folder = Workspace(config.zip_dir).cache
        return DiskCache(folder, dataset.digests(), rows, layouts, pinned)
    return Cache(rows, layouts, device if place == "device" else torch.device("cpu"), pinned)


def _sample(batches: Batches) -> Batch:
    sample: Batch = batches.dataset.load_batch(batches.order.rows[:1])
    return sample


def _size(batches: Sequence[Batches]) -> int:
    """Bytes of all the samples that these batches visit."""
    return sum(
        total_bytes(layouts_of(each.dataset, np.unique(each.order.rows), _sample(each)))
        for each in batches
    )


def _told(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
