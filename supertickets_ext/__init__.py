"""Compiled sparse operators for any PyTorch model."""

from __future__ import annotations

from supertickets_ext import nn, reference
from supertickets_ext.activation_patterns import (
    SaturationWarning,
    activation_patterns,
    count_patterns,
    hamming_gram,
    pack_signs,
)
from supertickets_ext.jacobian import (
    ConditionNumber,
    batched_jvp,
    batched_vjp,
    condition_number,
    ntk_cross,
    ntk_gram,
)
from supertickets_ext.lanes import LaneTensor, from_lanes, keep_lanes, to_lanes
from supertickets_ext.masked_conv2d import masked_conv2d
from supertickets_ext.routes import clear_routes, explain
from supertickets_ext.sparsify import sparsify
from supertickets_ext.topk_mask import (
    MaskUpdate,
    global_topk_mask,
    topk_mask,
    update_topk_mask_,
)

__version__ = "0.1.0"

__all__ = [
    "ConditionNumber",
    "LaneTensor",
    "MaskUpdate",
    "SaturationWarning",
    "activation_patterns",
    "batched_jvp",
    "batched_vjp",
    "clear_routes",
    "condition_number",
    "count_patterns",
    "explain",
    "from_lanes",
    "global_topk_mask",
    "hamming_gram",
    "keep_lanes",
    "masked_conv2d",
    "nn",
    "ntk_cross",
    "ntk_gram",
    "pack_signs",
    "reference",
    "sparsify",
    "to_lanes",
    "topk_mask",
    "update_topk_mask_",
]
