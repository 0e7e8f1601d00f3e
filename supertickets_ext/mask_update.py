"""Updates of masks in place: towards a top-k set, bounded or not, and RigL's drop and grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from supertickets_ext import _mask_rules as _mask_rules
from supertickets_ext._mask_checks import (
    check_hint,
    check_keep,
    check_limit,
    check_list,
    check_mask,
    check_masks,
    check_scores,
    without_graph,
)

_ops = torch.ops.supertickets


class MaskUpdate(NamedTuple):
    """What one update did; tensors without dimensions, or one entry for each updated mask."""

    threshold: Tensor
    """The keep-th largest score, or magnitude, in scores' dtype; +inf if keep is 0."""
    grown: Tensor
    """int64: entries that went from False to True."""
    pruned: Tensor
    """int64: entries that went from True to False."""
    wanted: Tensor
    """int64: entries of the top-k set that the mask lacked; grown, if all are."""


class RiglUpdate(NamedTuple):
    """What one RigL update did; tensors without dimensions."""

    kept_weight: Tensor
    """The smallest magnitude of a weight that stays active; +inf if none does."""
    grown_grad: Tensor
    """The smallest magnitude of a gradient that is grown; +inf if none is."""
    swaps: Tensor
    """int64: entries pruned, and as many grown."""


def update_topk_mask_(
    mask: Tensor,
    scores: Tensor,
    keep: int,
    *,
    max_swaps: int | None = None,
    max_swap_fraction: float | None = None,
    by_magnitude: bool = True,
    hint: Tensor | None = None,
) -> MaskUpdate:
    """Move ``mask`` in place towards the top-k set of ``scores``.

    Entries of the top-k set that the mask lacks are grown, entries outside it are pruned. Where
    the mask does not hold ``keep`` ones, the difference is carried out in full. Beyond that, an
    entry grown and one pruned make a swap; of the swaps those are done that grow the largest
    scores and prune the smallest. Ties rank as in :func:`supertickets_ext.topk_mask`.

    Args:
        mask: Bool ``[*]``, changed in place.
        scores: Of mask's shape, see :func:`supertickets_ext.topk_mask`.
        keep: Number of ones afterwards.
        max_swaps: Most swaps; None for all, which gives exactly ``topk_mask(scores, keep)``.
        max_swap_fraction: Of the wanted swaps at most this share is done, rounded up.
        by_magnitude: Rank by ``|scores|`` instead of ``scores``.
        hint: The threshold of an earlier update. A good one saves time; the result is the same.

    Returns:
        Threshold of the top-k set, how many entries were grown and pruned, and how many the mask
        lacked.

    Raises:
        ValueError: A shape, ``keep``, a bound, the hint or a device does not fit.
        TypeError: A dtype does not fit.

    Source: short restriction, Zhang et al. 2023, Lottery Jackpots (arXiv 2104.08700).
    """
    op = "update_topk_mask_"
    check_scores(op, scores)
    check_mask(op, mask, scores)
    check_keep(op, keep, scores.numel())
    check_limit(op, max_swaps, max_swap_fraction)
    check_hint(op, hint, scores, ())
    result = _ops.update_topk_mask_(
        mask, scores.detach(), keep, max_swaps, max_swap_fraction, by_magnitude, hint
    )
    _written(mask)
    return MaskUpdate._make(result)


def update_topk_masks_(
    masks: Sequence[Tensor],
    scores: Sequence[Tensor],
    keep: Sequence[int],
    *,
    max_swaps: int | None = None,
    max_swap_fraction: float | None = None,
    by_magnitude: bool = True,
    hints: Tensor | None = None,
) -> MaskUpdate:
    """Call :func:`update_topk_mask_` for every tensor of a list, each ranked by itself.

    One call for all layers of a network: small ones then cost no call each.

    Args:
        masks: Bool ``[*]``, changed in place.
        scores: One for each mask, of its shape; same dtype.
        keep: Number of ones afterwards, for each mask.
        max_swaps: Most swaps in each mask.
        max_swap_fraction: Of each mask's wanted swaps at most this share is done, rounded up.
        by_magnitude: Rank by ``|scores|`` instead of ``scores``.
        hints: ``[len(masks)]``, the thresholds of an earlier update.

    Returns:
        What was done, ``[len(masks)]`` each.

    Raises:
        ValueError: A length, shape, number, bound, the hints or a device does not fit.
        TypeError: A dtype does not fit.
    """
    op = "update_topk_masks_"
    scores = without_graph(scores)
    check_masks(op, masks, scores)
    if len(keep) != len(scores):
        raise ValueError(f"{op}: keep must have {len(scores)} entries, got {len(keep)}")
    for count, tensor in zip(keep, scores, strict=True):
        check_keep(op, count, tensor.numel())
    check_limit(op, max_swaps, max_swap_fraction)
    check_hint(op, hints, scores[0], (len(scores),))
    result = _ops.update_topk_masks_(
        list(masks), scores, list(keep), max_swaps, max_swap_fraction, by_magnitude, hints
    )
    _written(*masks)
    return MaskUpdate._make(result)


def global_update_topk_mask_(
    masks: Sequence[Tensor],
    scores: Sequence[Tensor],
    keep: int,
    *,
    max_swaps: int | None = None,
    max_swap_fraction: float | None = None,
    by_magnitude: bool = True,
    hint: Tensor | None = None,
) -> MaskUpdate:
    """Do what :func:`update_topk_mask_` does for all tensors ranked together.

    Nothing is concatenated.

    Args:
        masks: Bool ``[*]``, changed in place.
        scores: One for each mask, of its shape; same dtype.
        keep: Number of ones afterwards, in all masks together.
        max_swaps: Most swaps in all masks together.
        max_swap_fraction: Of the wanted swaps at most this share is done, rounded up.
        by_magnitude: Rank by ``|scores|`` instead of ``scores``.
        hint: The threshold of an earlier update.

    Returns:
        What was done, as tensors without dimensions.

    Raises:
        ValueError: A length, shape, ``keep``, bound, the hint or a device does not fit.
        TypeError: A dtype does not fit.
    """
    op = "global_update_topk_mask_"
    scores = without_graph(scores)
    check_keep(op, keep, check_masks(op, masks, scores))
    check_limit(op, max_swaps, max_swap_fraction)
    check_hint(op, hint, scores[0], ())
    result = _ops.global_update_topk_mask_(
        list(masks), scores, keep, max_swaps, max_swap_fraction, by_magnitude, hint
    )
    _written(*masks)
    return MaskUpdate._make(result)


def rigl_update_(mask: Tensor, weight: Tensor, grad: Tensor, swaps: int) -> RiglUpdate:
    """Prune the smallest active weights, and grow as many inactive ones by gradient.

    Grown are entries that were inactive before the call: what it prunes it does not grow again
    (the published code may). Ties: of equal magnitudes the lower flat index stays, or is grown.

    Args:
        mask: Bool ``[*]``, changed in place.
        weight: Of mask's shape; pruned are the active entries with the smallest magnitudes.
        grad: Of mask's shape and weight's dtype; grown are the inactive entries with the largest
            magnitudes. NaN ranks lowest in both.
        swaps: How many; fewer are done if fewer entries are active, or inactive.

    Returns:
        The two thresholds, and the number of swaps.

    Raises:
        ValueError: A shape, ``swaps`` or a device does not fit.
        TypeError: A dtype does not fit.

    Source: RigL, Evci et al. 2020, algorithm 1 (arXiv 1911.11134).
    """
    op = "rigl_update_"
    check_scores(op, weight, "weight")
    check_mask(op, mask, weight, "weight")
    if grad.shape != weight.shape:
        raise ValueError(
            f"{op}: grad must have weight's shape {tuple(weight.shape)}, got {tuple(grad.shape)}"
        )
    check_list(op, [weight, grad])
    if swaps < 0:
        raise ValueError(f"{op}: swaps must not be negative, got {swaps}")
    result = _ops.rigl_update_(mask, weight.detach(), grad.detach(), swaps)
    _written(mask)
    return RiglUpdate._make(result)


def _written(*masks: Tensor) -> None:
    if not torch.compiler.is_compiling():  # raw operators do not count as writes for autograd
        torch.autograd.graph.increment_version(masks)
