"""Compiled sparse operators for any PyTorch model."""

from __future__ import annotations

from supertickets_ext import nn, reference
from supertickets_ext._jacobian_explain import NtkReport, ntk_explain
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
from supertickets_ext.mask_update import (
    MaskUpdate,
    RiglUpdate,
    global_update_topk_mask_,
    rigl_update_,
    update_topk_mask_,
    update_topk_masks_,
)
from supertickets_ext.masked_conv2d import masked_conv2d
from supertickets_ext.pack_mask import pack_mask, unpack_mask
from supertickets_ext.regions import RegionCounter, count_regions, regions_refusal
from supertickets_ext.routes import clear_routes, explain
from supertickets_ext.semi_structured import semi_structured
from supertickets_ext.sparsify import sparsify
from supertickets_ext.topk_mask import global_topk_mask, nm_mask, topk_mask

__version__ = "0.1.0"

__all__ = [
    "ConditionNumber",
    "LaneTensor",
    "MaskUpdate",
    "NtkReport",
    "RegionCounter",
    "RiglUpdate",
    "SaturationWarning",
    "activation_patterns",
    "batched_jvp",
    "batched_vjp",
    "clear_routes",
    "condition_number",
    "count_patterns",
    "count_regions",
    "explain",
    "from_lanes",
    "global_topk_mask",
    "global_update_topk_mask_",
    "hamming_gram",
    "keep_lanes",
    "masked_conv2d",
    "nm_mask",
    "nn",
    "ntk_cross",
    "ntk_explain",
    "ntk_gram",
    "pack_mask",
    "pack_signs",
    "reference",
    "regions_refusal",
    "rigl_update_",
    "semi_structured",
    "sparsify",
    "to_lanes",
    "topk_mask",
    "unpack_mask",
    "update_topk_mask_",
    "update_topk_masks_",
]
