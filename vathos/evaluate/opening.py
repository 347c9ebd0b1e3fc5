"""What a checkpoint was trained with: its configuration, its split and its archives.

The one rule: they are taken from the run folder, for only there it stands which samples the network
never saw.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vathos.data_loader.opening import open_dataset
from vathos.data_loader.split import Split, thin
from vathos.errors import CheckpointError, DataError
from vathos.runner.runner import CONFIG_FILE, SPLIT_FILE
from vathos.utils.config import read_config

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vathos.utils.config import Config

__all__ = ["Opened", "open_run"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A run's data. parts: rows of the data set by what is new about them, as the run saw them."""

    config: Config
    dataset: Any
    parts: dict[str, NDArray[np.int64]]


def open_run(checkpoint: Path, config: Path | None, zip_dir: Path | None) -> Opened:
    """Find the run of a checkpoint and open its archives, or those in `zip_dir`.

    Warns if the archives are not those of the training. Raises `CheckpointError` if configuration
    or split are not found, `DataError` if the archives are not.
    """
    settings, folder = _settings(checkpoint, config)
    split, digests = _split(settings, folder, checkpoint)
    dataset = _open_archives(settings, zip_dir)
    changed = [stem for stem, each in dataset.digests().items() if digests.get(stem) != each]
    if changed:
        log.warning(
            "%s changed since this network was trained: what is called new here may not be",
            " and ".join(changed),
        )
    factor, seed = settings.dataset.div_factor, settings.seed
    parts = {
        name: thin(rows, max(1, len(rows) // factor), seed)
        for name, rows in split.parts(dataset).items()
    }
    if "train" not in parts or len(parts) < 2:
        raise DataError(
            f"the archives in {dataset.paths['fg_bg'].parent} hold none of the samples that this "
            "network was trained or tested on; name the right ones with --zip-dir"
        )
    return Opened(settings, dataset, parts)


def _settings(checkpoint: Path, config: Path | None) -> tuple[Config, Path]:
    path = checkpoint.parent / CONFIG_FILE if config is None else config
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist, so nothing says what {checkpoint.name} was trained on; name "
            "the configuration in the folder of its run with --config"
        )
    return read_config(path), path.parent


def _split(config: Config, folder: Path, checkpoint: Path) -> tuple[Split, dict[str, str]]:
    """The split that the run kept, and the digests of its archives."""
    places = [folder / SPLIT_FILE, checkpoint.parent / SPLIT_FILE, config.run_folder / SPLIT_FILE]
    path = next((each for each in places if each.exists()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} has no {SPLIT_FILE}, so nothing says which samples {checkpoint.name} never "
            "saw; copy it there from the folder of its run"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Split.from_json(record["split"]), dict(record["archives"])
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(
            f"{path} cannot be read; train the network again to know what it never saw"
        ) from error


def _open_archives(config: Config, zip_dir: Path | None) -> Any:
    folder = config.zip_dir if zip_dir is None else zip_dir
    if not any(folder.glob("fg_bg*.zip")):
        raise DataError(
            f"the archives that this network was trained on are not in {folder}; say where they "
            "are with --zip-dir"
        )
    return open_dataset(config, folder)
