"""Depth labels for composites: what they mean, who computes them, and the stage itself."""

from depthgen.depth.run import DepthmapOptions, run

__all__ = ["DepthmapOptions", "run"]
