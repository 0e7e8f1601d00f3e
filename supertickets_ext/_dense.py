"""The masked convolution by torch's dense kernels: whole, or as the smaller ones a mask allows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets_ext._conv_options import ConvOptions, output_size
from supertickets_ext._kept import prepared
from supertickets_ext._masked_weight import apply_masked_weight, has_masked_weight
from supertickets_ext._structure import Part

_HAS_BFLOAT16 = (
    torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)


def summing_dtype(x: Tensor, dtype: torch.dtype | None = None) -> torch.dtype:
    """What torch must convolve in for sums to be kept in float32 or better.

    Its CPU kernels for float16 sum in float16; those for bfloat16, where the processor has not the
    instructions of the good ones, sum in bfloat16 (and take ten times as long as float32).

    Args:
        x: The input.
        dtype: The one asked for; None for x's.

    Returns:
        ``dtype``, or float32.
    """
    dtype = dtype or x.dtype
    poor = dtype == torch.bfloat16 and not _HAS_BFLOAT16 and x.device.type == "cpu"
    return torch.float32 if dtype == torch.float16 or poor else dtype


def dense_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, options: ConvOptions) -> Tensor:
    """Convolve without a mask, by torch.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[O, C / groups, KH, KW]``.
        bias: ``[O]``.
        options: Normalised options.

    Returns:
        ``[N, O, OH, OW]``, half precision summed in float32.
    """
    top, bottom, left, right = options.padding
    pad = (top, left)
    if top != bottom or left != right:  # torch pads both sides alike
        x, pad = F.pad(x, (left, right, top, bottom)), (0, 0)
    rest = (options.stride, pad, options.dilation, options.groups)
    wide = summing_dtype(x)
    wide_bias = None if bias is None else bias.to(wide)
    return F.conv2d(x.to(wide), weight.to(wide), wide_bias, *rest).to(x.dtype)


def masked_dense_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    scores: Tensor | None,
    options: ConvOptions,
) -> Tensor:
    """Convolve with pruned weights set to zero; gradients as those of ``masked_conv2d``.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[O, C / groups, KH, KW]``.
        mask: Bool, of weight's shape.
        bias: ``[O]``.
        scores: Of weight's shape; only takes the straight-through gradient.
        options: Normalised options.

    Returns:
        ``[N, O, OH, OW]``.
    """
    kept = None if torch.is_grad_enabled() else kept_dense_weight(weight, mask)
    if kept is None and has_masked_weight(weight):
        return dense_conv2d(x, apply_masked_weight(weight, mask, scores), bias, options)
    if kept is None:
        kept = weight.where(mask, 0)
    if scores is not None and torch.is_grad_enabled():  # adds zero, with weight as gradient
        kept = kept + weight * (scores - scores.detach()).to(weight.dtype)
    return dense_conv2d(x, kept, bias, options)


def kept_dense_weight(weight: Tensor, mask: Tensor) -> Tensor | None:
    """The weight with zeros for what is pruned, in its memory format; None if it is not kept."""
    return prepared(
        weight,
        mask,
        ("dense", weight.dtype),
        lambda: torch.empty_like(weight).copy_(weight.where(mask, 0)),
    )


def compact_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    options: ConvOptions,
    parts: tuple[Part, ...],
    weights: list[Tensor] | None = None,
) -> Tensor:
    """Convolve by the smaller dense convolutions of the mask's structure.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[O, C / groups, KH, KW]``.
        mask: Bool, of weight's shape.
        bias: ``[O]``.
        options: Normalised options.
        parts: From :func:`mask_structure` of this mask.
        weights: The parts' weights, if there are some already.

    Returns:
        ``[N, O, OH, OW]`` in x's memory format.
    """
    if weights is None and not torch.is_grad_enabled():
        weights = kept_part_weights(weight, mask, options, parts)
    if weights is None:
        weights = _part_weights(weight, mask, parts)
    results = []
    for part, small in zip(parts, weights, strict=True):
        small_bias = None if bias is None else bias.index_select(0, part.filters)
        some = take_channels(x, part.channels)
        results.append(dense_conv2d(some, small, small_bias, options._replace(groups=part.groups)))
    if len(parts) == 1 and len(parts[0].filters) == weight.shape[0]:
        return results[0]
    return scatter_filters(x, weight.shape, bias, options, parts, results)


def kept_part_weights(
    weight: Tensor, mask: Tensor, options: ConvOptions, parts: tuple[Part, ...]
) -> list[Tensor] | None:
    """The weights of a mask's parts; None if they are not kept."""
    key = ("compact", weight.dtype, options.groups)
    return prepared(weight, mask, key, lambda: _part_weights(weight, mask, parts))


def _part_weights(weight: Tensor, mask: Tensor, parts: tuple[Part, ...]) -> list[Tensor]:
    return [_part_weight(weight, mask, part) for part in parts]


def _part_weight(weight: Tensor, mask: Tensor, part: Part) -> Tensor:
    small = weight.index_select(0, part.filters).where(mask.index_select(0, part.filters), 0)
    if part.groups == 1 and len(part.channels) < weight.shape[1]:
        small = small.index_select(1, part.channels)
    return small


def is_channels_last(x: Tensor) -> bool:
    """Whether x is stored with the channels innermost, and not also the other way."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def take_channels(x: Tensor, channels: Tensor) -> Tensor:
    """Copy some channels, in x's memory format; ``channels`` ascends."""
    if len(channels) == x.shape[1]:
        return x
    if is_channels_last(x):
        return x.movedim(1, -1).index_select(-1, channels).movedim(-1, 1)
    return x.index_select(1, channels)


def scatter_filters(
    x: Tensor,
    weight_shape: torch.Size,
    bias: Tensor | None,
    options: ConvOptions,
    parts: tuple[Part, ...],
    results: list[Tensor],
) -> Tensor:
    """Put the parts' results in place; filters without a kept weight give the bias."""
    size = output_size("masked_conv2d", x.shape[2:], weight_shape[2:], options)
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    shape = (x.shape[0], weight_shape[0], *size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if bias is None:
        y.zero_()
    else:
        y = y.copy_(bias[:, None, None])
    for part, result in zip(parts, results, strict=True):
        y = y.index_copy_(1, part.filters, result)
    return y
