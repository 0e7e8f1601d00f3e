"""What torch needs to know of the raw Jacobian operators: fake kernels, vmap, FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake, register_vmap
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._library import LIBRARY as LIBRARY

_ops = torch.ops.supertickets


@register_fake("supertickets::jacobian_conv2d_rows")
def _fake_rows(
    grad: Tensor,
    x: Tensor,
    mask: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    size: Sequence[int],
    images: int,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    rows = grad.shape[0] // images
    return x.new_empty((rows, *size)), x.new_empty((0 if weight is None else rows, size[0]))


@register_fake("supertickets::jacobian_gram_")
def _fake_gram(gram: Tensor, one: Tensor, two: Tensor | None) -> None:
    return None


@register_fake("supertickets::ntk_lanes_gram")
def _fake_lanes(
    nodes: Tensor,
    links: Tensor,
    scales: Tensor,
    tensors: Sequence[Tensor],
    images: int,
    columns: int,
) -> Tensor:
    return scales.new_empty((images, images), dtype=torch.float64)


@register_vmap("supertickets::jacobian_conv2d_rows")
def _vmap_rows(
    info: Any, dims: tuple[Any, ...], *arguments: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    results = [
        _ops.jacobian_conv2d_rows(*_selected(arguments, dims, i)) for i in range(info.batch_size)
    ]
    rows, dots = zip(*results, strict=True)
    return (torch.stack(rows), torch.stack(dots)), (0, 0)


@register_vmap("supertickets::jacobian_gram_")
def _vmap_gram(
    info: Any, dims: tuple[Any, ...], gram: Tensor, one: Tensor, two: Tensor | None
) -> tuple[None, None]:
    if dims[0] is None:
        raise ValueError("jacobian_gram_: under vmap, gram must be batched if the rows are")
    for i in range(info.batch_size):
        own, first, second = _selected((gram, one, two), dims, i)
        total = own.contiguous()
        _ops.jacobian_gram_(total, first, second)
        if total is not own:
            own.copy_(total)
    return None, None


def _selected(arguments: Sequence[Any], dims: Sequence[Any], i: int) -> list[Any]:
    return [
        a.select(d, i) if isinstance(a, Tensor) and d is not None else a
        for a, d in zip(arguments, dims, strict=True)
    ]


@register_flop_formula(_ops.jacobian_conv2d_rows)
def _flops_rows(
    grad: Any, x: Any, mask: Any, scale: Any, weight: Any, size: Any, *_: Any, **__: Any
) -> int:
    images, filters, height, width = grad
    return int(2 * images * filters * height * width * size[1] * size[2] * size[3])


@register_flop_formula(_ops.jacobian_gram_)
def _flops_gram(gram: Any, one: Any, two: Any = None, *_: Any, **__: Any) -> int:
    rows, columns = one
    pairs = rows * (rows + 1) // 2 if two is None else rows * two[0]
    return int(2 * pairs * columns)
