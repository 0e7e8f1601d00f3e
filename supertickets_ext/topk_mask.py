"""Exact top-k masks and bounded mask updates: public functions, fake kernels, vmap, FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import register_fake, register_vmap
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._library import LIBRARY as LIBRARY

_ops = torch.ops.supertickets
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class MaskUpdate(NamedTuple):
    """What one mask update did; tensors without dimensions."""

    threshold: Tensor
    """The keep-th largest score, or magnitude, in scores' dtype; +inf if keep is 0."""
    grown: Tensor
    """int64: entries that went from False to True."""
    pruned: Tensor
    """int64: entries that went from True to False."""


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
    _check_scores("topk_mask", scores)
    scores = scores.detach()
    if dim is None:
        _check_keep("topk_mask", keep, scores.numel())
        return _ops.topk_mask(scores.reshape(1, -1), keep, by_magnitude).reshape(scores.shape)
    if not -scores.dim() <= dim < scores.dim():
        raise ValueError(
            f"topk_mask: dim must be in [{-scores.dim()}, {scores.dim() - 1}], got {dim}"
        )
    _check_keep("topk_mask", keep, scores.shape[dim])
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
    scores = [s.detach() for s in scores]
    if not scores:
        raise ValueError("global_topk_mask: scores must hold at least one tensor, got none")
    for tensor in scores:
        _check_scores("global_topk_mask", tensor)
        if tensor.dtype != scores[0].dtype:
            raise TypeError(
                f"global_topk_mask: all scores must have the same dtype, got {scores[0].dtype} "
                f"and {tensor.dtype}"
            )
        if tensor.device != scores[0].device:
            raise ValueError(
                f"global_topk_mask: all scores must be on one device, got {scores[0].device} "
                f"and {tensor.device}"
            )
    _check_keep("global_topk_mask", keep, sum(s.numel() for s in scores))
    return _ops.global_topk_mask(scores, keep, by_magnitude)


def update_topk_mask_(
    mask: Tensor,
    scores: Tensor,
    keep: int,
    *,
    max_swaps: int | None = None,
    by_magnitude: bool = True,
) -> MaskUpdate:
    """Move ``mask`` in place towards the top-k set of ``scores``.

    Entries of the top-k set that the mask lacks are grown, entries outside it are pruned. Where
    the mask does not hold ``keep`` ones, the difference is carried out in full. Beyond that, an
    entry grown and one pruned make a swap; of the swaps at most ``max_swaps`` are done: those that
    grow the largest scores and prune the smallest. Ties rank as in :func:`topk_mask`.

    Args:
        mask: Bool ``[*]``, changed in place.
        scores: Of mask's shape, see :func:`topk_mask`.
        keep: Number of ones afterwards.
        max_swaps: Most swaps; None for all, which gives exactly ``topk_mask(scores, keep)``.
        by_magnitude: Rank by ``|scores|`` instead of ``scores``.

    Returns:
        Threshold of the top-k set, and how many entries were grown and pruned.

    Raises:
        ValueError: A shape, ``keep``, ``max_swaps`` or a device does not fit.
        TypeError: A dtype does not fit.

    Source: short restriction, Zhang et al. 2023, Lottery Jackpots (arXiv 2104.08700).
    """
    op = "update_topk_mask_"
    _check_scores(op, scores)
    if mask.dtype != torch.bool:
        raise TypeError(f"{op}: mask must be bool, got {mask.dtype}")
    if mask.shape != scores.shape:
        raise ValueError(
            f"{op}: mask must have scores' shape {tuple(scores.shape)}, got {tuple(mask.shape)}"
        )
    if mask.device != scores.device:
        raise ValueError(f"{op}: mask must be on scores' device {scores.device}, got {mask.device}")
    if any(size > 1 and step == 0 for size, step in zip(mask.shape, mask.stride(), strict=True)):
        raise ValueError(f"{op}: mask must not overlap itself, got strides {mask.stride()}")
    _check_keep(op, keep, scores.numel())
    if max_swaps is not None and max_swaps < 0:
        raise ValueError(f"{op}: max_swaps must not be negative, got {max_swaps}")
    update = MaskUpdate(
        *_ops.update_topk_mask_(mask, scores.detach(), keep, max_swaps, by_magnitude)
    )
    if not torch.compiler.is_compiling():  # raw operators do not count as writes for autograd
        torch.autograd.graph.increment_version(mask)
    return update


def _check_scores(op: str, scores: Tensor) -> None:
    if scores.dtype not in _FLOATS:
        raise TypeError(
            f"{op}: scores must be float32, bfloat16, float16 or float64, got {scores.dtype}"
        )
    if scores.device.type not in ("cpu", "meta"):
        raise ValueError(
            f"{op}: this build has kernels for the CPU only, got scores on {scores.device}"
        )


def _check_keep(op: str, keep: int, count: int) -> None:
    if not isinstance(keep, int | torch.SymInt) or isinstance(keep, bool):
        raise TypeError(f"{op}: keep must be an int, got {keep!r}")
    if not 0 <= keep <= count:
        raise ValueError(f"{op}: keep must be in [0, {count}], got {keep}")


@register_fake("supertickets::topk_mask")
def _fake_topk(scores: Tensor, keep: int, by_magnitude: bool) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


@register_fake("supertickets::global_topk_mask")
def _fake_global(scores: Sequence[Tensor], keep: int, by_magnitude: bool) -> list[Tensor]:
    return [torch.empty(s.shape, dtype=torch.bool, device=s.device) for s in scores]


@register_fake("supertickets::update_topk_mask_")
def _fake_update(
    mask: Tensor, scores: Tensor, keep: int, max_swaps: int | None, by_magnitude: bool
) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.empty((), dtype=torch.int64, device=scores.device)
    return scores.new_empty(()), count, torch.empty_like(count)


@register_vmap("supertickets::topk_mask")
def _vmap_topk(
    info: Any, dims: tuple[Any, ...], scores: Tensor, keep: int, by_magnitude: bool
) -> tuple[Tensor, int]:
    rows = scores.movedim(dims[0], 0)
    mask = _ops.topk_mask(rows.flatten(0, 1), keep, by_magnitude)
    return mask.reshape(rows.shape), 0


@register_vmap("supertickets::global_topk_mask")
def _vmap_global(
    info: Any, dims: tuple[Any, ...], scores: Sequence[Tensor], keep: int, by_magnitude: bool
) -> tuple[list[Tensor], list[int]]:
    rounds = [
        _ops.global_topk_mask(
            [s if d is None else s.select(d, i) for s, d in zip(scores, dims[0], strict=True)],
            keep,
            by_magnitude,
        )
        for i in range(info.batch_size)
    ]
    return [torch.stack(masks) for masks in zip(*rounds, strict=True)], [0] * len(scores)


@register_vmap("supertickets::update_topk_mask_")
def _vmap_update(
    info: Any,
    dims: tuple[Any, ...],
    mask: Tensor,
    scores: Tensor,
    keep: int,
    max_swaps: int | None,
    by_magnitude: bool,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    if dims[0] is None:
        raise ValueError("update_topk_mask_: under vmap, mask must be batched if scores are")
    rounds = []
    for i in range(info.batch_size):
        one = scores if dims[1] is None else scores.select(dims[1], i)
        rounds.append(
            _ops.update_topk_mask_(mask.select(dims[0], i), one, keep, max_swaps, by_magnitude)
        )
    return tuple(torch.stack(values) for values in zip(*rounds, strict=True)), (0, 0, 0)


def _no_flops(*_: Any, **__: Any) -> int:
    """Ranking compares; it does no floating-point arithmetic."""
    return 0


for _op in (_ops.topk_mask, _ops.global_topk_mask, _ops.update_topk_mask_):
    register_flop_formula(_op)(_no_flops)
