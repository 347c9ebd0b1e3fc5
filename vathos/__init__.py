"""Learn mask and depth of a composite from the archives that `depthgen` writes.

This package reads the archive and trains on it. It keeps one rule: importing it costs nothing, so
torch is only loaded by the subpackage that needs it (`vathos.model`, `vathos.trainer`, ...), or
when `Predictor` is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vathos.predict import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from vathos.predict import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
