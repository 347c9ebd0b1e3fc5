"""Losses and metrics by name: a configuration's `seg_loss` and `depth_loss` are looked up here.

Rule: everything here takes logits, never probabilities, and returns a mean as a 0-d tensor.
"""

from torch.nn import BCEWithLogitsLoss

from vathos.model.loss.depth import RMSELoss
from vathos.model.loss.metrics import iou, rmse, soft_dice_half
from vathos.model.loss.segmentation import BCEDiceLoss, DiceLoss

__all__ = [
    "BCEDiceLoss",
    "BCEWithLogitsLoss",
    "DiceLoss",
    "RMSELoss",
    "iou",
    "rmse",
    "soft_dice_half",
]
