"""The obvious plain-PyTorch twin of every operator: same signature, same result, no kernel.

Tests and benchmarks compare the kernels with these. Nothing here is shared with the kernels, and
arguments are taken as valid: the public operators are the ones that check them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets_ext.activation_patterns_reference import (
    count_patterns,
    hamming_gram,
    pack_signs,
)
from supertickets_ext.jacobian_reference import (
    batched_jvp,
    batched_vjp,
    condition_number,
    ntk_cross,
    ntk_gram,
)
from supertickets_ext.topk_mask import MaskUpdate

__all__ = [
    "batched_jvp",
    "batched_vjp",
    "condition_number",
    "count_patterns",
    "from_lanes",
    "global_topk_mask",
    "hamming_gram",
    "masked_conv2d",
    "ntk_cross",
    "ntk_gram",
    "pack_signs",
    "to_lanes",
    "topk_mask",
    "update_topk_mask_",
]


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    scores: Tensor | None = None,
) -> Tensor:
    """Convolve ``x`` with ``weight * mask``.

    The product is dense, so a pruned weight still meets its input here: ``0 * inf`` and
    ``0 * nan`` give NaN, where the kernels skip the pair.

    Args:
        x: ``[N, C, H, W]`` or ``[C, H, W]``.
        weight: ``[K, C / groups, R, S]``.
        mask: Bool, shape of ``weight``; False entries are pruned.
        bias: ``[K]`` or None.
        stride: Step, one int or (vertical, horizontal).
        padding: Zeros added on each side, one int, (vertical, horizontal), 'same' or 'valid'.
        dilation: Distance between taps, one int or (vertical, horizontal).
        groups: Number of channel groups.
        scores: Finite, shape of ``weight``. It leaves the result as it is and receives the
            straight-through gradient ``dL/d(weight * mask) * weight``.

    Returns:
        ``[N, K, OH, OW]``, or ``[K, OH, OW]`` for an unbatched ``x``.

    Source: straight-through mask scores, Ramanujan et al. 2020, "What's Hidden in a Randomly
    Weighted Neural Network?", section 3.
    """
    gate = mask.to(weight.dtype)
    if scores is not None:  # adds zero, with gradient one
        gate = gate + (scores - scores.detach()).to(weight.dtype)
    strides, dilations = _pair(stride), _pair(dilation)
    pads = padding if isinstance(padding, str) else _pair(padding)
    return F.conv2d(x, weight * gate, bias, strides, pads, dilations, groups)


def to_lanes(x: Tensor) -> Tensor:
    """Put 16 images side by side.

    Args:
        x: ``[N, C, H, W]``.

    Returns:
        ``[ceil(N / 16), C, H, W, 16]``, contiguous; zero where there is no image.
    """
    groups = -(-x.shape[0] // 16)
    lanes = x.new_zeros((groups, *x.shape[1:], 16))
    for n, image in enumerate(x):
        lanes[n // 16, ..., n % 16] = image
    return lanes


def from_lanes(lanes: Tensor, batch: int, channels_last: bool) -> Tensor:
    """Put the images one after the other again.

    Args:
        lanes: ``[ceil(batch / 16), C, H, W, 16]``.
        batch: Number of images; what the lanes hold beyond them is dropped.
        channels_last: The memory format of the result; False is contiguous.

    Returns:
        ``[batch, C, H, W]``.
    """
    images = [lanes[n // 16, ..., n % 16] for n in range(batch)]
    x = torch.stack(images) if images else lanes.new_empty((0, *lanes.shape[1:4]))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout)


def topk_mask(
    scores: Tensor, keep: int, *, by_magnitude: bool = True, dim: int | None = None
) -> Tensor:
    """Mark the ``keep`` largest scores; ties go to the lowest flat index.

    Args:
        scores: ``[*]``, floating point; NaN ranks lowest, ``-0.0`` equals ``0.0``.
        keep: Number of ones, in the whole tensor or, with ``dim``, in each slice along it.
        by_magnitude: Rank by ``|score|`` instead of ``score``.
        dim: Rank along this dimension only.

    Returns:
        Bool ``[*]``, the shape of ``scores``.
    """
    if dim is None:
        return _mark_best(scores.reshape(-1), keep, by_magnitude).reshape(scores.shape)
    if scores.dim() == 0:
        return _mark_best(scores.reshape(1), keep, by_magnitude).reshape(())
    return _mark_best(scores.movedim(dim, -1), keep, by_magnitude).movedim(-1, dim)


def global_topk_mask(
    scores: Sequence[Tensor], keep: int, *, by_magnitude: bool = True
) -> list[Tensor]:
    """Mark the ``keep`` largest scores over all tensors together.

    Args:
        scores: At least one ``[*]``; ties go to the earlier tensor, then the lowest flat index.
        keep: Number of ones in all masks together.
        by_magnitude: Rank by ``|score|`` instead of ``score``.

    Returns:
        One bool mask per tensor, each with the shape of its tensor.
    """
    flat = torch.cat([s.reshape(-1).to(torch.float64) for s in scores])
    parts = _mark_best(flat, keep, by_magnitude).split([s.numel() for s in scores])
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


def update_topk_mask_(
    mask: Tensor,
    scores: Tensor,
    keep: int,
    *,
    max_swaps: int | None = None,
    by_magnitude: bool = True,
) -> MaskUpdate:
    """Move ``mask`` in place towards the exact top-k mask, by at most ``max_swaps`` swaps.

    A swap turns the best missing entry on and the worst surplus entry off. A change of the number
    of ones (``keep`` differs from ``mask.sum()``) is carried out in full besides.

    Args:
        mask: Bool, shape of ``scores``; changed in place.
        scores: ``[*]``, floating point.
        keep: Number of ones afterwards.
        max_swaps: Bound on the swaps; None for the exact top-k mask.
        by_magnitude: Rank by ``|score|`` instead of ``score``.

    Returns:
        ``threshold``: the ``keep``-th largest score (its magnitude if ``by_magnitude``), 0-dim of
        the scores' dtype, infinity if ``keep`` is 0. ``grown`` and ``pruned``: 0-dim int64, the
        number of entries that went from 0 to 1 and from 1 to 0.

    Source: short restriction, Zhang et al. 2023, "Lottery Jackpots Exist in Pre-trained Models".
    """
    key = scores.detach().abs() if by_magnitude else scores.detach()
    best_first = _best_first(scores.reshape(-1), by_magnitude)
    flat = mask.reshape(-1).clone()
    inside, outside = best_first[:keep], best_first[keep:]
    missing = inside[~flat[inside]]  # best first
    surplus = outside[flat[outside]].flip(0)  # worst first

    swaps = min(len(missing), len(surplus))
    if max_swaps is not None:
        swaps = min(swaps, max_swaps)
    grown = swaps + max(0, len(missing) - len(surplus))
    pruned = swaps + max(0, len(surplus) - len(missing))
    flat[missing[:grown]] = True
    flat[surplus[:pruned]] = False
    mask.copy_(flat.reshape(mask.shape))

    if keep == 0:
        threshold = key.new_full((), torch.inf)
    else:
        threshold = key.reshape(-1)[best_first[keep - 1]].clone()
    counts = torch.tensor([grown, pruned], device=mask.device)
    return MaskUpdate(threshold, counts[0], counts[1])


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _best_first(scores: Tensor, by_magnitude: bool) -> Tensor:
    """Indices along the last dimension, best score first, lowest index first among equals."""
    key = scores.detach().to(torch.float64)  # holds every value of every floating dtype
    if by_magnitude:
        key = key.abs()
    nan = key.isnan()
    order = key.masked_fill(nan, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    nan_last = nan.gather(-1, order).to(torch.uint8).argsort(dim=-1, stable=True)
    return order.gather(-1, nan_last)


def _mark_best(scores: Tensor, keep: int, by_magnitude: bool) -> Tensor:
    """Mark the ``keep`` best entries of each slice along the last dimension."""
    chosen = _best_first(scores, by_magnitude)[..., :keep]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)
