"""What torch needs to know of the raw convolution operators: fake kernels, vmap, FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake, register_vmap
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._conv_options import ConvOptions, check_channels, output_size
from supertickets_ext._library import LIBRARY as LIBRARY

_ops = torch.ops.supertickets

# --- fake kernels -------------------------------------------------------------------------------


def _empty_in_format(like: Tensor, size: Sequence[int]) -> Tensor:
    if len(size) == 5:  # lanes
        return like.new_empty(tuple(size))
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(tuple(size), dtype=like.dtype, device=like.device, memory_format=layout)


def _fake_output(x: Tensor, weight: Sequence[int], o: ConvOptions) -> Tensor:
    size = output_size("masked_conv2d", x.shape[2:4], weight[2:], o)
    return _empty_in_format(x, (x.shape[0], weight[0], *size, *x.shape[4:]))


@register_fake("supertickets::masked_conv2d")
def _fake_conv(
    x: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None, *options: Any
) -> Tensor:
    o = ConvOptions(*options[:4])  # a pattern may follow
    check_channels("masked_conv2d", x.shape, weight.shape, o)
    return _fake_output(x, weight.shape, o)


@register_fake("supertickets::masked_conv2d_grad_input")
def _fake_grad_input(
    grad: Tensor, weight: Tensor, mask: Tensor | None, size: Sequence[int], *options: Any
) -> Tensor:
    return _empty_in_format(grad, size)


@register_fake("supertickets::masked_conv2d_grad_weight")
def _fake_grad_weight(
    grad: Tensor, x: Tensor, mask: Tensor | None, size: Sequence[int], *options: Any
) -> Tensor:
    return x.new_empty(tuple(size))


@register_fake("supertickets::masked_conv2d_pack")
def _fake_pack(weight: Tensor, mask: Tensor | None, size: Sequence[int], *options: Any) -> Tensor:
    return weight.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)


@register_fake("supertickets::masked_conv2d_pattern")
def _fake_pattern(weight: Tensor, mask: Tensor, size: Sequence[int], *options: Any) -> Tensor:
    return weight.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)


@register_fake("supertickets::masked_conv2d_packed")
def _fake_packed(
    x: Tensor,
    packed: Tensor,
    weight_size: Sequence[int],
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    *options: Any,
) -> Tensor:
    return _fake_output(x, weight_size, ConvOptions(*options))


@register_fake("supertickets::to_lanes")
def _fake_to_lanes(x: Tensor) -> Tensor:
    batch, *rest = x.shape
    return x.new_empty((batch + 15) // 16, *rest, 16)


@register_fake("supertickets::from_lanes")
def _fake_from_lanes(lanes: Tensor, batch: int, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    size = (batch, *lanes.shape[1:4])
    return torch.empty(size, dtype=lanes.dtype, device=lanes.device, memory_format=layout)


# --- vmap: a batch of inputs is a larger batch, a batch of weights is more groups ---------------


def _fold(tensor: Tensor | None, dim: int | None, batch: int, axis: int) -> Tensor | None:
    """Merge the vmapped dimension into ``axis``; a tensor without one is repeated."""
    if tensor is None:
        return None
    if dim is None:
        tensor = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], batch, *tensor.shape[axis:])
    else:
        tensor = tensor.movedim(dim, axis)
    return tensor.flatten(axis, axis + 1)


@register_vmap("supertickets::masked_conv2d")
def _vmap_conv(
    info: Any,
    dims: tuple[Any, ...],
    x: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pattern: Tensor | None = None,
) -> tuple[Tensor, int]:
    n = info.batch_size
    if dims[1] is None and dims[2] is None and dims[3] is None:
        x = _fold(x, dims[0], n, 0)  # type: ignore[assignment]
        y = _ops.masked_conv2d(x, weight, mask, bias, stride, padding, dilation, groups)
        return y.unflatten(0, (n, -1)), 0
    y = _ops.masked_conv2d(
        _fold(x, dims[0], n, 1),
        _fold(weight, dims[1], n, 0),
        _fold(mask, dims[2], n, 0),
        _fold(bias, dims[3], n, 0),
        stride,
        padding,
        dilation,
        groups * n,
    )
    return y.unflatten(1, (n, -1)), 1


@register_vmap("supertickets::masked_conv2d_grad_input")
def _vmap_grad_input(
    info: Any,
    dims: tuple[Any, ...],
    grad: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pattern: Tensor | None = None,
) -> tuple[Tensor, int]:
    n = info.batch_size
    fold_weight = dims[1] is not None or dims[2] is not None
    axis = 1 if fold_weight else 0
    folded = list(size)
    folded[axis] *= n
    if fold_weight:
        weight = _fold(weight, dims[1], n, 0)  # type: ignore[assignment]
        mask = _fold(mask, dims[2], n, 0)
        groups = groups * n
    out = _ops.masked_conv2d_grad_input(
        _fold(grad, dims[0], n, axis), weight, mask, folded, stride, padding, dilation, groups
    )
    return out.unflatten(axis, (n, -1)), axis


@register_vmap("supertickets::masked_conv2d_grad_weight")
def _vmap_grad_weight(
    info: Any,
    dims: tuple[Any, ...],
    grad: Tensor,
    x: Tensor,
    mask: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pattern: Tensor | None = None,
) -> tuple[Tensor, int]:
    n = info.batch_size
    out = _ops.masked_conv2d_grad_weight(
        _fold(grad, dims[0], n, 1),
        _fold(x, dims[1], n, 1),
        _fold(mask, dims[2], n, 0),
        [size[0] * n, *size[1:]],
        stride,
        padding,
        dilation,
        groups * n,
    )
    return out.unflatten(0, (n, -1)), 0


# --- FLOPs: the dense convolution's, because which weights are kept is data, not shape ----------


def _flops(output: Sequence[int], weight: Sequence[int]) -> int:
    batch, filters, height, width, *lanes = output
    images = batch * (lanes[0] if lanes else 1)
    return 2 * images * filters * height * width * weight[1] * weight[2] * weight[3]


@register_flop_formula(_ops.masked_conv2d)
def _flops_conv(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return _flops(out_shape, weight)


@register_flop_formula(_ops.masked_conv2d_packed)
def _flops_packed(
    x: Any, packed: Any, weight_size: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return _flops(out_shape, weight_size)


@register_flop_formula(_ops.masked_conv2d_grad_input)
def _flops_grad_input(grad: Any, weight: Any, *_: Any, **__: Any) -> int:
    return _flops(grad, weight)


@register_flop_formula(_ops.masked_conv2d_grad_weight)
def _flops_grad_weight(grad: Any, x: Any, mask: Any, size: Any, *_: Any, **__: Any) -> int:
    return _flops(grad, size)
