"""Makes and labels composited image data sets with masks and depth.

Every stage is a module with a ``run(workspace, options, progress)``; nothing is imported here, so
that a command loads only what it needs.
"""

__version__ = "0.1.0"
