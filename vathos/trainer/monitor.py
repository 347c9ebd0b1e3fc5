"""Which epoch was the best, and whether waiting for a better one is over.

The one rule: one named figure of the test decides both; a figure that is not a number never wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vathos.utils.schema import TrainingConfig

__all__ = ["Monitor"]

HIGHER_IS_BETTER = {"miou", "soft_dice_half", "dice", "delta1", "delta2", "delta3", "ssim"}


class Monitor:
    """The best value of `training.monitor` so far, and the epochs since then."""

    def __init__(self, training: TrainingConfig) -> None:
        self.name = training.monitor
        self._patience = training.patience
        self.best: float | None = None
        self.waited = 0

    def update(self, value: float) -> bool:
        """Take an epoch's value; True if it is the best so far."""
        best = self.best
        # Written so that a comparison with NaN is "not better".
        if best is None:
            better = value == value
        else:
            better = value > best if self.name in HIGHER_IS_BETTER else value < best
        if better:
            self.best = value
        self.waited = 0 if better else self.waited + 1
        return better

    @property
    def exhausted(self) -> bool:
        """True if `training.patience` epochs have brought nothing better."""
        return self._patience is not None and self.waited >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """What continuing needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.best, self.waited = state["best"], state["waited"]
