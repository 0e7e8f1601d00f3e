"""The dense route's weight on CUDA: one kernel before torch's convolution, one behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import register_fake, register_vmap
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._library import LIBRARY as LIBRARY
from supertickets_ext._library import has_cuda_kernel

_ops = torch.ops.supertickets


def has_masked_weight(weight: Tensor) -> bool:
    """Whether there are such kernels for a weight."""
    return weight.is_cuda and has_cuda_kernel("masked_weight")


def apply_masked_weight(weight: Tensor, mask: Tensor, scores: Tensor | None) -> Tensor:
    """Zero what is pruned, with the gradients of ``masked_conv2d``.

    Args:
        weight: Floating point.
        mask: Bool of weight's shape, or the bits that ``pack_mask`` makes of one.
        scores: Of weight's shape; only takes the straight-through gradient.

    Returns:
        Of weight's shape.
    """
    return MaskedWeight.apply(weight, mask, scores)


class MaskedWeight(Function):
    """Inputs weight, mask, scores."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor, scores: Tensor | None) -> Tensor:
        return _ops.masked_weight(weight, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, mask, scores = inputs
        ctx.save_for_backward(weight, mask)
        ctx.scores = None if scores is None else scores.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, mask = ctx.saved_tensors
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        to_weight, to_scores = SplitGradient.apply(grad, weight, mask, *wanted)
        return (
            to_weight if wanted[0] else None,
            None,
            to_scores.to(ctx.scores) if wanted[1] else None,
        )


class SplitGradient(Function):
    """Inputs grad, weight, mask, and whether the gradients of weight and scores are wanted."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor, weight: Tensor, mask: Tensor, to_weight: bool, to_scores: bool
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _ops.masked_weight_grad(
            grad, weight, mask, to_weight, to_scores
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        grad, weight, mask, ctx.to_weight, ctx.to_scores = inputs
        ctx.save_for_backward(grad, weight, mask)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor, of_scores: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight, mask = ctx.saved_tensors
        to_grad: Tensor | None = None
        if ctx.to_weight:
            to_grad = MaskedWeight.apply(of_weight, mask, None)
        if ctx.to_scores:
            more = of_scores * weight
            to_grad = more if to_grad is None else to_grad + more
        return to_grad, of_scores * grad if ctx.to_scores else None, None, None, None


@register_fake("supertickets::masked_weight")
def _fake_weight(weight: Tensor, mask: Tensor) -> Tensor:
    return torch.empty_like(weight)


@register_fake("supertickets::masked_weight_grad")
def _fake_grad(
    grad: Tensor, weight: Tensor, mask: Tensor, to_weight: bool, to_scores: bool
) -> tuple[Tensor, Tensor]:
    def result(wanted: bool) -> Tensor:
        return torch.empty_like(weight) if wanted else weight.new_empty(0)

    return result(to_weight), result(to_scores)


def _batched(info: Any, dims: tuple[Any, ...], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors with the vmapped dimension first; those without one are repeated."""
    *others, mask = tensors
    if mask.dtype == torch.uint8:  # bits of several masks do not follow one another
        raise ValueError("masked_weight: under vmap, mask must be bool")
    return [
        t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip((*others, mask), dims, strict=True)
    ]


@register_vmap("supertickets::masked_weight")
def _vmap_weight(
    info: Any, dims: tuple[Any, ...], weight: Tensor, mask: Tensor
) -> tuple[Tensor, int]:
    return _ops.masked_weight(*_batched(info, dims, (weight, mask))), 0


@register_vmap("supertickets::masked_weight_grad")
def _vmap_grad(
    info: Any, dims: tuple[Any, ...], grad: Tensor, weight: Tensor, mask: Tensor, *wanted: bool
) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
    result = _ops.masked_weight_grad(*_batched(info, dims[:3], (grad, weight, mask)), *wanted)
    return result, (0 if wanted[0] else None, 0 if wanted[1] else None)


@register_flop_formula((_ops.masked_weight, _ops.masked_weight_grad))
def _flops(*_: Any, **__: Any) -> int:
    return 0
