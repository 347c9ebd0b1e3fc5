"""The networks, by name: a configuration's `model:` is looked up here.

Rule: a network takes (N, 6, H, W), the background and the composite, and returns (depth, mask)
logits.
"""

from vathos.model.resunet import ResUNet
from vathos.model.resunext import ResUNeXt

__all__ = ["ResUNeXt", "ResUNet"]
