"""Losses and metrics by name: a configuration's `seg_loss` and `depth_loss` are looked up here.

Rule: everything here takes logits, never probabilities, and returns a mean as a 0-d tensor.
"""

from torch.nn import BCEWithLogitsLoss

from vathos.model.loss.bce_dice_loss import BCEDiceLoss
from vathos.model.loss.bce_tversky_loss import BCETverskyLoss
from vathos.model.loss.berhu_loss import BerHuLoss
from vathos.model.loss.dice_loss import DiceLoss
from vathos.model.loss.grad_loss import GradLoss
from vathos.model.loss.metrics import (
    abs_rel,
    delta,
    dice,
    iou,
    log10,
    rmse,
    soft_dice_half,
    ssim,
)
from vathos.model.loss.rmse_loss import RMSELoss
from vathos.model.loss.rmse_ssim_loss import RMSEwSSIMLoss
from vathos.model.loss.ssim_loss import SSIMLoss
from vathos.model.loss.tversky_loss import TverskyLoss

__all__ = [
    "BCEDiceLoss",
    "BCETverskyLoss",
    "BCEWithLogitsLoss",
    "BerHuLoss",
    "DiceLoss",
    "GradLoss",
    "RMSELoss",
    "RMSEwSSIMLoss",
    "SSIMLoss",
    "TverskyLoss",
    "abs_rel",
    "delta",
    "dice",
    "iou",
    "log10",
    "rmse",
    "soft_dice_half",
    "ssim",
]
