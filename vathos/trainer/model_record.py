"""What a trained network says of itself in `model_checkpoint.pt`, besides its weights.

The one rule: it is enough to build the network again and to read its depth: its name and arguments,
the size it was trained on, and what a label of 1 means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from vathos.utils.schema import Config

__all__ = ["model_record", "picture_size"]


def model_record(model: nn.Module, config: Config, dataset: Any) -> dict[str, Any]:
    """`model_name`, `model_args`, `size` [H, W] and `quantity`, a dict; the latter two are None
    where the data set does not tell. Raises `DataError` if what it tells is damaged."""
    return {
        "model_name": type(model).__name__,
        "model_args": dict(config.model.args),
        "size": picture_size(dataset),
        "quantity": getattr(dataset, "quantity", None),
    }


def picture_size(dataset: Any) -> list[int] | None:
    """[H, W] of the pictures, or None where the data set does not tell."""
    size = [getattr(dataset, side, None) for side in ("height", "width")]
    return None if None in size else [int(side) for side in size if side is not None]
