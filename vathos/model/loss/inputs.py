"""What all losses and metrics do with their two arguments before they compare them.

The one rule: the sigmoid is taken once, here, and in float32 or better, because in half precision a
probability near 1 has no neighbours left.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["both_empty", "probabilities_and_labels", "widen"]


def widen(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, or in float64 where the logits are. Raises ValueError if shapes differ."""
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; give both the "
            f"same shape, else one is repeated over the other"
        )
    kind = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(kind), labels.to(kind)


def probabilities_and_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(sigmoid(logits), labels), both in [0, 1] and float32 or better. Errors as in `widen`."""
    logits, labels = widen(logits, labels)
    return torch.sigmoid(logits), labels


def both_empty(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: no pixel is labelled and none is predicted, as `iou` predicts: above 0.5.

    A sigmoid never reaches 0, so "no mass at all" would never happen.
    """
    return (labels.flatten(1) == 0).all(1) & (logits.flatten(1) <= 0).all(1)
