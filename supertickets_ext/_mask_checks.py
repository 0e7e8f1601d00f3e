"""Checks that the mask operators share; messages name operator, argument and what was given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from supertickets_ext._library import check_device

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_scores(op: str, scores: Tensor, name: str = "scores") -> None:
    """Refuse what no kernel takes."""
    if scores.dtype not in _FLOATS:
        raise TypeError(
            f"{op}: {name} must be float32, bfloat16, float16 or float64, got {scores.dtype}"
        )
    check_device(op, name, scores)


def check_list(op: str, scores: Sequence[Tensor]) -> None:
    """Refuse an empty list, and tensors that cannot be ranked together."""
    if not scores:
        raise ValueError(f"{op}: scores must hold at least one tensor, got none")
    check_scores(op, scores[0])
    for tensor in scores:
        _check_like_first(op, tensor, scores[0].dtype, scores[0].device)


def _check_like_first(op: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    if tensor.dtype is not dtype:
        check_scores(op, tensor)
        raise TypeError(
            f"{op}: all scores must have the same dtype, got {dtype} and {tensor.dtype}"
        )
    if tensor.device != device:
        check_scores(op, tensor)
        raise ValueError(
            f"{op}: all scores must be on one device, got {device} and {tensor.device}"
        )


def check_keep(op: str, keep: int, count: int) -> None:
    """Refuse a number of ones outside ``[0, count]``."""
    if not isinstance(keep, int | torch.SymInt) or isinstance(keep, bool):
        raise TypeError(f"{op}: keep must be an int, got {keep!r}")
    if not 0 <= keep <= count:
        raise ValueError(f"{op}: keep must be in [0, {count}], got {keep}")


def check_mask(op: str, mask: Tensor, scores: Tensor, name: str = "scores") -> None:
    """Refuse a mask that cannot be updated in place by these scores."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{op}: mask must be bool, got {mask.dtype}")
    if mask.shape != scores.shape:
        raise ValueError(
            f"{op}: mask must have {name}' shape {tuple(scores.shape)}, got {tuple(mask.shape)}"
        )
    if mask.device != scores.device:
        raise ValueError(f"{op}: mask must be on {name}' device {scores.device}, got {mask.device}")
    if not mask.is_contiguous() and any(
        size > 1 and step == 0 for size, step in zip(mask.shape, mask.stride(), strict=True)
    ):
        raise ValueError(f"{op}: mask must not overlap itself, got strides {mask.stride()}")


def check_masks(op: str, masks: Sequence[Tensor], scores: Sequence[Tensor]) -> int:
    """Refuse lists that do not pair up; give the number of scores in all."""
    check_list(op, scores[:1])
    if len(masks) != len(scores):
        raise ValueError(
            f"{op}: masks must be one per scores, got {len(masks)} and {len(scores)} scores"
        )
    dtype, device, count = scores[0].dtype, scores[0].device, 0
    for mask, tensor in zip(masks, scores, strict=True):  # once for each layer, at every step
        if (
            mask.dtype is not torch.bool
            or tensor.dtype is not dtype
            or mask.shape != tensor.shape
            or mask.device != device
            or tensor.device != device
            or not mask.is_contiguous()
        ):
            _check_like_first(op, tensor, dtype, device)
            check_mask(op, mask, tensor)
        count += tensor.numel()
    return count


def without_graph(scores: Sequence[Tensor]) -> list[Tensor]:
    """Detach what is part of a graph; the others are left as they are, which costs no call."""
    return [tensor.detach() if tensor.requires_grad else tensor for tensor in scores]


def check_limit(op: str, max_swaps: int | None, max_swap_fraction: float | None) -> None:
    """Refuse bounds that are none."""
    if max_swaps is not None and max_swaps < 0:
        raise ValueError(f"{op}: max_swaps must not be negative, got {max_swaps}")
    if max_swap_fraction is not None and not 0 <= max_swap_fraction <= 1:
        raise ValueError(f"{op}: max_swap_fraction must be in [0, 1], got {max_swap_fraction}")


def check_hint(op: str, hint: Tensor | None, scores: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a hint that is not a threshold as the update returns it."""
    if hint is not None and (hint.dtype != scores.dtype or tuple(hint.shape) != shape):
        raise ValueError(
            f"{op}: hint must be {scores.dtype} of shape {shape}, as the threshold that an update "
            f"returns, got {hint.dtype} {tuple(hint.shape)}"
        )
