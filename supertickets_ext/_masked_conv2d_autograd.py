"""Gradients of masked_conv2d, of every order and in both modes.

The three raw operators are bilinear, and the derivative of each is made of the other two:

    y = conv(x, w)     dx = grad_input(dy, w)    dw = grad_weight(dy, x)

so all of them run on the same kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from supertickets_ext import _masked_conv2d_rules as _masked_conv2d_rules  # registers them
from supertickets_ext._conv_options import ConvOptions
from supertickets_ext._dense import summing_dtype
from supertickets_ext._kept import is_plain, kept_conv2d, kept_pattern

_ops = torch.ops.supertickets


def apply_masked_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scores: Tensor | None,
    options: ConvOptions,
    score_dtype: torch.dtype | None = None,
) -> Tensor:
    """Convolve with gradients; a mask of None keeps every weight. Arguments are not checked.

    Args:
        x: ``[N, C, H, W]``, or lanes ``[G, C, H, W, 16]``.
        weight: ``[O, C / groups, KH, KW]``.
        mask: Bool, of weight's shape.
        bias: ``[O]``.
        scores: Of weight's shape; only takes the straight-through gradient.
        options: Normalised options.
        score_dtype: What the dense gradient of scores is computed in; None for x's dtype.

    Returns:
        ``[N, O, OH, OW]``, in lanes if x is.
    """
    inputs = (x, weight, mask, bias, scores, score_dtype, *options)
    if torch.compiler.is_compiling():
        return MaskedConv2d.apply(*inputs)
    if not torch.is_grad_enabled() and is_plain():
        return kept_conv2d(x, weight, mask, bias, options)
    return _apply(MaskedConv2d, *inputs)


class MaskedConv2d(Function):
    """Inputs x, weight, mask, bias, scores, score_dtype, then the options."""

    generate_vmap_rule = True

    @staticmethod
    def forward(  # spelled out: torch.compile counts the parameters
        x: Tensor,
        weight: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        scores: Tensor | None,
        score_dtype: torch.dtype | None,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        options = ConvOptions(stride, padding, dilation, groups)
        pattern = kept_pattern(x.shape, weight, mask, options)
        return _ops.masked_conv2d(x, weight, mask, bias, *options, pattern)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, mask, _, _, ctx.score_dtype, *options = inputs
        _save(ctx, x, weight, mask, options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        needs_x, needs_weight, _, needs_bias, needs_scores = ctx.needs_input_grad[:5]
        grad_x = grad_weight = grad_bias = grad_scores = None
        if needs_x:
            grad_x = _apply(GradInput, grad, weight, mask, tuple(x.shape), *ctx.options)
        if needs_scores:
            dense = _dense_grad_weight(grad, x, weight, ctx.score_dtype, *ctx.options)
            grad_scores = dense * weight
            if needs_weight:
                grad_weight = dense if mask is None else dense.masked_fill(~mask, 0)
        elif needs_weight:
            grad_weight = _apply(GradWeight, grad, x, mask, tuple(weight.shape), *ctx.options)
        if needs_bias:
            grad_bias = grad.sum((0, *range(2, grad.dim())))
        return grad_x, grad_weight, None, grad_bias, grad_scores, None, None, None, None, None


class _Gradient(Function):
    """Inputs grad, its factor, mask, the result's size, then the options."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, factor, mask, ctx.size, *options = inputs
        _save(ctx, grad, factor, mask, options)


class GradInput(_Gradient):
    """The factor is the weight."""

    @staticmethod
    def forward(
        grad: Tensor,
        weight: Tensor,
        mask: Tensor | None,
        size: tuple[int, ...],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        options = ConvOptions(stride, padding, dilation, groups)
        pattern = kept_pattern(size, weight, mask, options, grad_input=True)
        return _ops.masked_conv2d_grad_input(grad, weight, mask, size, *options, pattern)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight, mask = ctx.saved_tensors
        to_grad = to_weight = None
        if ctx.needs_input_grad[0]:
            to_grad = _apply(MaskedConv2d, x, weight, mask, None, None, None, *ctx.options)
        if ctx.needs_input_grad[1]:
            to_weight = _apply(GradWeight, grad, x, mask, tuple(weight.shape), *ctx.options)
        return to_grad, to_weight, None, None, None, None, None, None


class GradWeight(_Gradient):
    """The factor is x."""

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        mask: Tensor | None,
        size: tuple[int, ...],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        options = ConvOptions(stride, padding, dilation, groups)
        pattern = kept_pattern(x.shape, None, mask, options)
        return _ops.masked_conv2d_grad_weight(grad, x, mask, size, *options, pattern)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        grad, x, mask = ctx.saved_tensors
        to_grad = to_x = None
        if ctx.needs_input_grad[0]:
            to_grad = _apply(MaskedConv2d, x, weight, mask, None, None, None, *ctx.options)
        if ctx.needs_input_grad[1]:
            to_x = _apply(GradInput, grad, weight, mask, tuple(x.shape), *ctx.options)
        return to_grad, to_x, None, None, None, None, None, None


def _save(ctx: Any, a: Tensor, b: Tensor, mask: Tensor | None, options: list[Any]) -> None:
    ctx.options = options
    ctx.save_for_backward(a, b, mask)
    ctx.save_for_forward(a, b, mask)


def _dense_grad_weight(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    score_dtype: torch.dtype | None,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """The weight gradient of every entry, by torch's own dense kernel."""
    if x.dim() == 5:  # lanes without an image have no gradient
        grad, x = (_ops.from_lanes(t, t.shape[0] * t.shape[4], True) for t in (grad, x))
    top, bottom, left, right = padding
    pad = [top, left]
    if top != bottom or left != right:  # torch pads both sides alike
        x, pad = torch.nn.functional.pad(x, (left, right, top, bottom)), [0, 0]
    wide = summing_dtype(x, score_dtype)
    dense = torch.ops.aten.convolution_backward(
        grad.to(wide),
        x.to(wide),
        weight.to(wide),
        None,
        stride,
        pad,
        dilation,
        False,
        [0, 0],
        groups,
        [False, True, False],
    )[1]
    return dense.to(weight.dtype)


# --- forward mode, in classes of its own: torch.compile traces no Function that defines jvp -------


def _product_rule(
    function: type[Function], ctx: Any, t_a: Tensor | None, t_b: Tensor | None, *rest: Any
) -> Tensor | None:
    """f(da, b) + f(a, db) for a bilinear f; None if neither moves."""
    a, b, mask = ctx.saved_tensors
    terms = [
        _apply(function, *pair, mask, *rest, *ctx.options)
        for pair in ((t_a, b), (a, t_b))
        if pair[0] is not None and pair[1] is not None
    ]
    return sum(terms[1:], start=terms[0]) if terms else None


class _MaskedConv2dForwardMode(MaskedConv2d):
    @staticmethod
    def jvp(
        ctx: Any, t_x: Tensor | None, t_w: Tensor | None, _: Any, t_bias: Tensor | None, *__: Any
    ) -> Tensor:
        moved = _product_rule(MaskedConv2d, ctx, t_x, t_w, None, None, None)
        if moved is None:  # only the bias or the scores move
            x, weight, mask = ctx.saved_tensors
            moved = torch.zeros_like(
                _apply(MaskedConv2d, x, weight, mask, None, None, None, *ctx.options)
            )
        return moved if t_bias is None else moved + t_bias.view(-1, *[1] * (moved.dim() - 2))


class _GradInputForwardMode(GradInput):
    @staticmethod
    def jvp(ctx: Any, t_grad: Tensor, t_weight: Tensor, *_: Any) -> Any:
        return _product_rule(GradInput, ctx, t_grad, t_weight, ctx.size)


class _GradWeightForwardMode(GradWeight):
    @staticmethod
    def jvp(ctx: Any, t_grad: Tensor, t_x: Tensor, *_: Any) -> Any:
        return _product_rule(GradWeight, ctx, t_grad, t_x, ctx.size)


_FORWARD_MODE: dict[type[Function], type[Function]] = {
    MaskedConv2d: _MaskedConv2dForwardMode,
    GradInput: _GradInputForwardMode,
    GradWeight: _GradWeightForwardMode,
}


def _apply(function: type[Function], *inputs: Any) -> Tensor:
    """Call one of the functions above from a derivative of another."""
    if torch.compiler.is_compiling():  # the compiler derives once; it cannot nest Functions
        return function.forward(*inputs)
    return _FORWARD_MODE[function].apply(*inputs)
