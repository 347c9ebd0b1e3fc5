"""Mask and depth of pictures that are in no archive.

Rule: a picture keeps its own size; what the network sees of it is another matter.
"""

from vathos.predict.files import Left, Pair, Pairs, Written, find_pairs, predict_pairs
from vathos.predict.predictor import Network, Predictor, load_network

__all__ = [
    "Left",
    "Network",
    "Pair",
    "Pairs",
    "Predictor",
    "Written",
    "find_pairs",
    "load_network",
    "predict_pairs",
]
