"""Convolution with a masked weight: the public function and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from supertickets_ext._conv_options import (
    ConvOptions,
    check_channels,
    conv_options,
    output_size,
)
from supertickets_ext._lane_tensor import LaneTensor
from supertickets_ext._library import check_device
from supertickets_ext._masked_conv2d_autograd import apply_masked_conv2d
from supertickets_ext.routes import ROUTES, Route, choose_route, layout_of, run_route

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def masked_conv2d(
    x: Any,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    scores: Tensor | None = None,
    score_dtype: torch.dtype | None = None,
    route: str = "sparse",
) -> Any:
    """Compute ``conv2d(x, weight * mask, bias)`` on the kept weights alone.

    The gradient of ``weight`` is zero outside the mask. With ``scores``, which the forward pass
    does not read, the backward pass also gives the straight-through gradient
    ``dL/d(weight * mask) * weight``, dense; only then is a dense weight gradient computed. Pruned
    weights are skipped, not multiplied by zero: an infinite input does not turn them into NaN. A
    kept weight that is not finite meets the zeros of the padding, forwards and backwards.
    Under autocast, tensors are cast as for ``torch.nn.functional.conv2d``.

    Args:
        x: ``[N, C, H, W]`` or ``[C, H, W]``; float32, bfloat16, float16 or float64, any strides.
            The output has its memory format. Or a ``LaneTensor``, then the output is one.
        weight: ``[O, C / groups, KH, KW]``, of x's dtype.
        mask: Bool, of weight's shape; True keeps a weight.
        bias: ``[O]``, of x's dtype.
        stride: Int or pair.
        padding: Int, pair, ``"same"`` or ``"valid"``; zeros.
        dilation: Int or pair.
        groups: Divides C and O.
        scores: Of weight's shape; takes the straight-through gradient.
        score_dtype: What the dense gradient of the scores is computed in, such as bfloat16 where
            that is faster; None for x's dtype. Half precision that the processor would sum in half
            precision becomes float32.
        route: ``"sparse"``; ``"dense"`` for torch's convolution of the masked weight; ``"auto"``
            for the fastest by measurement (see ``supertickets_ext.routes``). Only the sparse route
            skips pruned weights also where x is infinite or NaN.

    Returns:
        ``[N, O, OH, OW]``, or ``[O, OH, OW]`` for an input of three dimensions.

    Raises:
        ValueError: A shape, an option or a device does not fit.
        TypeError: A dtype does not fit.

    Source: straight-through score gradients, Ramanujan et al. 2020 (arXiv 1911.13299), section 3.
    """
    lanes = isinstance(x, LaneTensor)
    _check_types(x=x.lanes if lanes else x, weight=weight, mask=mask, bias=bias, scores=scores)
    x, weight, bias = _autocast(x, weight, bias)
    _check_tensors(x, weight, mask, bias, scores)
    kernel = (weight.shape[2], weight.shape[3])
    options = conv_options("masked_conv2d", kernel, stride, padding, dilation, groups)
    batched = x if x.dim() == 4 else x.unsqueeze(0)
    check_channels("masked_conv2d", batched.shape, weight.shape, options)
    output_size("masked_conv2d", batched.shape[2:], kernel, options)
    if route == "sparse" and not lanes:
        y = apply_masked_conv2d(batched, weight, mask, bias, scores, options, score_dtype)
    else:
        chosen = _route(route, batched, weight, mask, bias, scores, options)
        y = run_route(chosen, batched, weight, mask, bias, options, scores, score_dtype)
    return y if x.dim() == 4 else y.squeeze(0)


def _route(
    name: str,
    x: Any,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    scores: Tensor | None,
    options: ConvOptions,
) -> Route:
    if name in ROUTES:
        return ROUTES[name]
    if name != "auto":
        raise ValueError(f"masked_conv2d: route must be 'auto', 'sparse' or 'dense', got {name!r}")
    training = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias, scores)
    )
    size, layout = tuple(x.shape), layout_of(x)
    return choose_route(size, layout, weight, mask, options, training, scores=scores is not None)


def _autocast(x: Any, weight: Tensor, bias: Tensor | None) -> tuple[Any, Tensor, Tensor | None]:
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _check_types(**arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Tensor) and (value is not None or name in ("x", "weight", "mask")):
            raise TypeError(f"masked_conv2d: {name} must be a tensor, got {type(value).__name__}")


def _check_tensors(
    x: Any, weight: Tensor, mask: Tensor, bias: Tensor | None, scores: Tensor | None
) -> None:
    op = "masked_conv2d"
    if x.dim() not in (3, 4):
        raise ValueError(f"{op}: x must have 4 dimensions (or 3), got shape {tuple(x.shape)}")
    if weight.dim() != 4:
        raise ValueError(f"{op}: weight must have 4 dimensions, got shape {tuple(weight.shape)}")
    if x.dtype not in _FLOATS:
        raise TypeError(f"{op}: x must be float32, bfloat16, float16 or float64, got {x.dtype}")
    if weight.dtype != x.dtype:
        raise TypeError(f"{op}: weight must have x's dtype {x.dtype}, got {weight.dtype}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{op}: mask must be bool, got {mask.dtype}")
    for name, tensor in (("mask", mask), ("scores", scores)):
        if tensor is not None and tensor.shape != weight.shape:
            raise ValueError(
                f"{op}: {name} must have weight's shape {tuple(weight.shape)}, "
                f"got {tuple(tensor.shape)}"
            )
    if scores is not None and not scores.dtype.is_floating_point:
        raise TypeError(f"{op}: scores must be floating point, got {scores.dtype}")
    if bias is not None and bias.dtype != x.dtype:
        raise TypeError(f"{op}: bias must have x's dtype {x.dtype}, got {bias.dtype}")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(
            f"{op}: bias must have shape {(weight.shape[0],)}, got {tuple(bias.shape)}"
        )
    for name, tensor in (("weight", weight), ("mask", mask), ("bias", bias), ("scores", scores)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{op}: {name} must be on x's device {x.device}, got {tensor.device}")
    check_device(op, "x", x)
