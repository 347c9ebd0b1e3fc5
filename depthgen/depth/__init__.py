"""Depth labels for composites: what they mean, who computes them, and the stage itself."""

from depthgen.depth.run import DepthmapOptions, prepare, run

__all__ = ["DepthmapOptions", "prepare", "run"]
