"""Compositing: every cut-out onto every background, many times, with its mask.

`plan` says where, `blend` and `cells` make the pixels and the bytes, `run` is the stage.
"""

from depthgen.composite.run import CompositeOptions, Forecast, forecast, run

__all__ = ["CompositeOptions", "Forecast", "forecast", "run"]
