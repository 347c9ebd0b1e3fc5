"""How good a trained network is, on what it saw and on what it never saw.

Rule: a network's figures are never shown without those of the baselines on the same samples.
"""

from vathos.evaluate.run import EvaluateOptions, Evaluation, Part, Scored, evaluate
from vathos.evaluate.scores import REGIONS, RegionFigures, Scores, zones

__all__ = [
    "REGIONS",
    "EvaluateOptions",
    "Evaluation",
    "Part",
    "RegionFigures",
    "Scored",
    "Scores",
    "evaluate",
    "zones",
]
