"""Exact masks by rank: of a tensor, its slices, a list of tensors, or groups of neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from supertickets_ext import _mask_rules as _mask_rules
from supertickets_ext._mask_checks import check_keep, check_list, check_scores, without_graph

_ops = torch.ops.supertickets
_GROUP_MOST = 64  # entries of a group that the kernel of nm_mask takes


def topk_mask(
    scores: Tensor, keep: int, *, by_magnitude: bool = True, dim: int | None = None
) -> Tensor:
    """Mark the ``keep`` largest scores; ties go to the lowest flat index.

    The result is the same for any number of threads.

    Args:
        scores: ``[*]``, float32, bfloat16, float16 or float64; NaN ranks lowest.
        keep: Number of ones, ``0 <= keep <= n``; n is ``scores.numel()``, or the size of ``dim``.
        by_magnitude: Rank by ``|scores|`` instead of ``scores``.
        dim: Rank every slice along this dimension by itself.

    Returns:
        Bool ``[*]`` with exactly ``keep`` ones (in every slice along ``dim``).

    Raises:
        ValueError: ``keep`` or ``dim`` is out of range, or the device has no kernel.
        TypeError: ``scores`` is not floating point.

    Source: magnitude pruning, Han et al. 2015, section 3.
    """
    check_scores("topk_mask", scores)
    scores = scores.detach()
    if dim is None:
        check_keep("topk_mask", keep, scores.numel())
        return _ops.topk_mask(scores.reshape(1, -1), keep, by_magnitude).reshape(scores.shape)
    if not -scores.dim() <= dim < scores.dim():
        raise ValueError(
            f"topk_mask: dim must be in [{-scores.dim()}, {scores.dim() - 1}], got {dim}"
        )
    check_keep("topk_mask", keep, scores.shape[dim])
    rows = scores.movedim(dim, -1)
    count = math.prod(rows.shape[:-1])  # reshape cannot infer it from slices of size 0
    mask = _ops.topk_mask(rows.reshape(count, rows.shape[-1]), keep, by_magnitude)
    return mask.reshape(rows.shape).movedim(-1, dim).contiguous()


def global_topk_mask(
    scores: Sequence[Tensor], keep: int, *, by_magnitude: bool = True
) -> list[Tensor]:
    """Mark the ``keep`` largest scores of all tensors together, without concatenating them.

    Args:
        scores: At least one tensor; same dtype (see :func:`topk_mask`), any shapes.
        keep: Number of ones in all masks together.
        by_magnitude: Rank by ``|scores|`` instead of ``scores``.

    Returns:
        One bool mask per tensor, of its shape. Ties go to the earlier tensor, then to the lower
        flat index.

    Raises:
        ValueError: The list is empty, ``keep`` is out of range, or the device has no kernel.
        TypeError: The dtypes are not floating point, or differ.

    Source: global magnitude pruning, Lee et al. 2019 (SNIP), section 4.
    """
    scores = without_graph(scores)
    check_list("global_topk_mask", scores)
    check_keep("global_topk_mask", keep, sum(s.numel() for s in scores))
    return _ops.global_topk_mask(scores, keep, by_magnitude)


def nm_mask(weight: Tensor, n: int, m: int, *, dim: int = 1, by_magnitude: bool = True) -> Tensor:
    """Mark the ``n`` largest of every ``m`` neighbours; ties go to the lowest index.

    Args:
        weight: ``[*]`` with at least ``dim + 1`` dimensions, see :func:`topk_mask`.
        n: Number of ones in a group, ``0 <= n <= m``.
        m: Size of a group; divides the size of ``dim``.
        dim: Groups are runs along this dimension; 1 is the input channels of a convolution and
            the input features of a linear layer.
        by_magnitude: Rank by ``|weight|`` instead of ``weight``.

    Returns:
        Bool ``[*]``.

    Raises:
        ValueError: ``n``, ``m`` or ``dim`` does not fit, or the device has no kernel.
        TypeError: ``weight`` is not floating point.

    Source: 2:4 sparsity, Mishra et al. 2021 (arXiv 2104.08378).
    """
    op = "nm_mask"
    check_scores(op, weight, "weight")
    if not -weight.dim() <= dim < weight.dim():
        raise ValueError(f"{op}: dim must be in [{-weight.dim()}, {weight.dim() - 1}], got {dim}")
    dim %= weight.dim()
    if m < 1 or weight.shape[dim] % m:
        raise ValueError(f"{op}: m must divide weight's size {weight.shape[dim]}, got {m}")
    if not 0 <= n <= m:
        raise ValueError(f"{op}: n must be in [0, {m}], got {n}")
    weight = weight.detach()
    if m <= _GROUP_MOST:
        return _ops.nm_mask(weight, n, m, dim, by_magnitude)
    groups = weight.unflatten(dim, (-1, m))
    return topk_mask(groups, n, by_magnitude=by_magnitude, dim=dim + 1).flatten(dim, dim + 1)
