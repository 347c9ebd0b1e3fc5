"""From a configuration to a trained network in its run folder.

Rule: everything that a run was made of is written beside what it made.
"""

from vathos.runner.runner import Runner

__all__ = ["Runner"]
