"""Opening the data set that a configuration names.

The one rule: pictures that the network cannot take are refused here, before anything is built for
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vathos import data_loader as datasets
from vathos.errors import DataError
from vathos.model.resunet import SIZE_MULTIPLE
from vathos.utils.instances import get_instance_v2

if TYPE_CHECKING:
    from pathlib import Path

    from vathos.utils.schema import Config

__all__ = ["check_size", "open_dataset"]


def open_dataset(config: Config, zip_dir: Path | None = None) -> Any:
    """The data set of `config.dataset`, from the archives that it names or else those in `zip_dir`.

    Raises `ConfigError` for a class or argument that there is not, `DataError` for archives that do
    not fit together or the network, `ArchiveError` for a damaged one.
    """
    section = config.dataset
    folder = config.zip_dir if zip_dir is None else zip_dir
    variant = {"suffix": section.suffix, "size": section.size}
    dataset = get_instance_v2(datasets, section.name, section.root, folder, **variant)
    check_size(dataset, f"the pictures in {folder}")
    return dataset


def check_size(dataset: Any, pictures: str) -> None:
    """Raise `DataError`, which calls them `pictures`, if their height or width is not a multiple of
    16."""
    if dataset.height % SIZE_MULTIPLE or dataset.width % SIZE_MULTIPLE:
        raise DataError(
            f"{pictures} are {dataset.height} x {dataset.width}, and the network needs a multiple "
            f"of {SIZE_MULTIPLE}; set dataset.size to one"
        )
