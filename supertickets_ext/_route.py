"""The routes of a masked convolution, and how each computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets_ext._conv_options import ConvOptions
from supertickets_ext._dense import (
    compact_conv2d,
    dense_conv2d,
    is_channels_last,
    kept_dense_weight,
    kept_part_weights,
    masked_dense_conv2d,
    summing_dtype,
)
from supertickets_ext._kept import packed_weight
from supertickets_ext._lane_tensor import LaneTensor, to_lanes
from supertickets_ext._masked_conv2d_autograd import apply_masked_conv2d
from supertickets_ext._route_table import Times
from supertickets_ext._structure import Part

PreparedCall = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Route:
    """What computes a convolution, and why."""

    name: str
    """``"sparse"``, ``"dense"`` or ``"compact"``."""
    reason: str
    times_us: Times = field(default_factory=dict)
    """Measured microseconds of each route, forward or (in training) forward and backward."""
    parts: tuple[Part, ...] | None = field(default=None, repr=False, compare=False)


ROUTES = {
    "sparse": Route("sparse", "asked for"),
    "dense": Route("dense", "asked for"),
}
"""The routes that can be forced."""


def layout_of(x: Any) -> str:
    """``"lanes"``, ``"channels_last"`` or ``"nchw"`` (of strided tensors too)."""
    if not isinstance(x, Tensor):
        return "lanes"
    return "channels_last" if is_channels_last(x) else "nchw"


def prepared_call(
    route: Route, x: Tensor, weight: Tensor, mask: Tensor, options: ConvOptions
) -> PreparedCall | None:
    """A route for inputs like x without gradients, with all that is made of the weight kept.

    Args:
        route: From :func:`choose_route` with this mask, or one of :data:`ROUTES`.
        x: ``[N, C, H, W]``.
        weight: ``[O, C / groups, KH, KW]``.
        mask: Bool, of weight's shape.
        options: Normalised options.

    Returns:
        What computes the result of an input and a bias while weight and mask stay as they are;
        None where nothing may be kept.
    """
    if route.name == "sparse":
        packed = packed_weight(x.shape, weight, mask, options)
        if packed is None:
            return None
        size, rest = weight.shape, (None, False, *options)
        run = torch.ops.supertickets.masked_conv2d_packed.default
        return lambda x, bias: run(x, packed, size, bias, *rest)
    if route.name == "compact" and route.parts is not None:
        parts = route.parts
        weights = kept_part_weights(weight, mask, options, parts)
        if weights is None:
            return None
        return lambda x, bias: compact_conv2d(x, weight, mask, bias, options, parts, weights)
    kept = kept_dense_weight(weight, mask)
    if kept is None:
        return None
    top, bottom, left, right = options.padding
    if (top, left) != (bottom, right) or summing_dtype(x) != x.dtype:
        return lambda x, bias: dense_conv2d(x, kept, bias, options)
    plain = (options.stride, (top, left), options.dilation, options.groups)
    return lambda x, bias: F.conv2d(x, kept, bias, *plain)


def run_route(
    route: Route,
    x: Any,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    options: ConvOptions,
    scores: Tensor | None = None,
    score_dtype: torch.dtype | None = None,
) -> Any:
    """Compute the masked convolution by a route. Arguments are not checked.

    Args:
        route: From :func:`choose_route` with this mask, or one of :data:`ROUTES`.
        x: ``[N, C, H, W]``, or a ``LaneTensor``.
        weight: ``[O, C / groups, KH, KW]``.
        mask: Bool, of weight's shape.
        bias: ``[O]``.
        options: Normalised options.
        scores: Of weight's shape; takes the straight-through gradient.
        score_dtype: What the sparse route computes that gradient in; None for x's dtype.

    Returns:
        ``[N, O, OH, OW]``, a ``LaneTensor`` if x is one.
    """
    if isinstance(x, LaneTensor):
        if route.name == "sparse":
            lanes = x.lanes
            y = apply_masked_conv2d(lanes, weight, mask, bias, scores, options, score_dtype)
            return x.with_lanes(y)
        dense = x.dense(torch.channels_last)
        y = run_route(route, dense, weight, mask, bias, options, scores, score_dtype)
        return x.with_lanes(to_lanes(y).lanes)
    if route.name == "sparse":
        return apply_masked_conv2d(x, weight, mask, bias, scores, options, score_dtype)
    if route.name == "compact" and route.parts is not None:
        return compact_conv2d(x, weight, mask, bias, options, route.parts)
    return masked_dense_conv2d(x, weight, mask, bias, scores, options)
