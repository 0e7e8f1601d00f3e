"""Fake kernels, vmap rules and FLOP formulas of the mask operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake, register_vmap
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._library import LIBRARY as LIBRARY

_ops = torch.ops.supertickets
_UPDATES = ("update_topk_mask_", "update_topk_masks_", "global_update_topk_mask_", "rigl_update_")


@register_fake("supertickets::topk_mask")
def _fake_topk(scores: Tensor, keep: int, by_magnitude: bool) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


@register_fake("supertickets::global_topk_mask")
def _fake_global(scores: Sequence[Tensor], keep: int, by_magnitude: bool) -> list[Tensor]:
    return [torch.empty(s.shape, dtype=torch.bool, device=s.device) for s in scores]


@register_fake("supertickets::nm_mask")
def _fake_nm(scores: Tensor, n: int, m: int, dim: int, by_magnitude: bool) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


@register_fake("supertickets::update_topk_mask_")
def _fake_update(mask: Tensor, scores: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _fake_results(scores, ())


@register_fake("supertickets::update_topk_masks_")
def _fake_updates(masks: Sequence[Tensor], scores: Sequence[Tensor], *_: Any) -> tuple[Tensor, ...]:
    return _fake_results(scores[0], (len(scores),))


@register_fake("supertickets::global_update_topk_mask_")
def _fake_global_update(
    masks: Sequence[Tensor], scores: Sequence[Tensor], *_: Any
) -> tuple[Tensor, ...]:
    return _fake_results(scores[0], ())


@register_fake("supertickets::rigl_update_")
def _fake_rigl(
    mask: Tensor, weight: Tensor, grad: Tensor, swaps: int
) -> tuple[Tensor, Tensor, Tensor]:
    return weight.new_empty(()), weight.new_empty(()), weight.new_empty((), dtype=torch.int64)


def _fake_results(scores: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    counts = [scores.new_empty(shape, dtype=torch.int64) for _ in range(3)]
    return scores.new_empty(shape), *counts


@register_fake("supertickets::pack_mask")
def _fake_pack(mask: Tensor) -> Tensor:
    return mask.new_empty(((mask.numel() + 7) // 8,), dtype=torch.uint8)


@register_fake("supertickets::unpack_mask")
def _fake_unpack(packed: Tensor, size: Sequence[int]) -> Tensor:
    return packed.new_empty(size, dtype=torch.bool)


@register_vmap("supertickets::topk_mask")
def _vmap_topk(
    info: Any, dims: tuple[Any, ...], scores: Tensor, keep: int, by_magnitude: bool
) -> tuple[Tensor, int]:
    rows = scores.movedim(dims[0], 0)
    mask = _ops.topk_mask(rows.flatten(0, 1), keep, by_magnitude)
    return mask.reshape(rows.shape), 0


@register_vmap("supertickets::nm_mask")
def _vmap_nm(
    info: Any, dims: tuple[Any, ...], scores: Tensor, n: int, m: int, dim: int, by_magnitude: bool
) -> tuple[Tensor, int]:
    return _ops.nm_mask(scores.movedim(dims[0], 0), n, m, dim + 1, by_magnitude), 0


def _one_by_one(name: str) -> Callable[..., tuple[Any, Any]]:
    """Give a rule that calls the operator once for each entry of the batch."""

    def rule(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        updated = [dims[0]] if isinstance(arguments[0], Tensor) else dims[0]
        if name in _UPDATES and any(dim is None for dim in updated):
            raise ValueError(f"{name}: under vmap, mask must be batched if scores are")
        rounds = [
            getattr(_ops, name)(*(_entry(a, d, i) for a, d in zip(arguments, dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(rounds[0], Tensor):
            return torch.stack(rounds), 0
        stacked = [torch.stack(values) for values in zip(*rounds, strict=True)]
        return type(rounds[0])(stacked), type(rounds[0])([0] * len(stacked))

    return rule


def _entry(argument: Any, dims: Any, index: int) -> Any:
    if isinstance(argument, Tensor):
        return argument if dims is None else argument.select(dims, index)
    if isinstance(argument, list | tuple) and isinstance(dims, list | tuple):
        return [_entry(a, d, index) for a, d in zip(argument, dims, strict=True)]
    return argument


for _name in ("global_topk_mask", *_UPDATES, "pack_mask", "unpack_mask"):
    register_vmap(f"supertickets::{_name}")(_one_by_one(_name))


def _no_flops(*_: Any, **__: Any) -> int:
    """Ranking and packing do no floating-point arithmetic."""
    return 0


for _name in (
    "topk_mask", "global_topk_mask", "nm_mask", *_UPDATES, "pack_mask", "unpack_mask",
):  # fmt: skip
    register_flop_formula(getattr(_ops, _name))(_no_flops)
