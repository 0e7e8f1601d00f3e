"""Compiled sparse operators for any PyTorch model."""

from __future__ import annotations

from supertickets_ext import nn, reference
from supertickets_ext.masked_conv2d import masked_conv2d
from supertickets_ext.topk_mask import (
    MaskUpdate,
    global_topk_mask,
    topk_mask,
    update_topk_mask_,
)

__version__ = "0.1.0"

__all__ = [
    "MaskUpdate",
    "global_topk_mask",
    "masked_conv2d",
    "nn",
    "reference",
    "topk_mask",
    "update_topk_mask_",
]
