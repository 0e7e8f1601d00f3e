"""Cases and comparers of the operator tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import ConvInputs, ConvShape
from supertickets_ext import masked_conv2d, reference
from supertickets_ext._conv_options import ConvOptions, conv_options
from supertickets_ext.lanes import to_lanes

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ConvFunction = Callable[..., Tensor]


def cotangent_for(shape: ConvShape, inputs: ConvInputs, seed: int = 1) -> Tensor:
    """Draw a gradient for the output."""
    x, weight, mask, bias = (None if t is None else t.detach() for t in inputs)
    output = reference.masked_conv2d(x, weight, mask, bias, **shape.keywords)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(output.shape, generator=generator).to(weight.dtype)


def forward_and_gradients(
    function: ConvFunction,
    shape: ConvShape,
    inputs: ConvInputs,
    cotangent: Tensor,
    scores: Tensor | None = None,
) -> dict[str, Tensor]:
    """Run one convolution forward and backward.

    Returns:
        ``output`` and the gradients by the argument's name.
    """
    leaves = {"x": inputs.x, "weight": inputs.weight, "bias": inputs.bias, "scores": scores}
    leaves = {k: t.detach().requires_grad_() for k, t in leaves.items() if t is not None}
    output = function(
        leaves["x"],
        leaves["weight"],
        inputs.mask,
        leaves.get("bias"),
        scores=leaves.get("scores"),
        **shape.keywords,
    )
    gradients = torch.autograd.grad(output, list(leaves.values()), cotangent)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def in_lanes(x: Tensor, *arguments: Tensor | None, **keywords: Any) -> Tensor:
    """``masked_conv2d`` of images side by side; the result is an ordinary tensor again."""
    return masked_conv2d(to_lanes(x), *arguments, **keywords).dense()


def exact_and_bound(
    shape: ConvShape, inputs: ConvInputs, cotangent: Tensor, scores: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute the float64 result and how far a sound kernel may be from it.

    A sum of n products is off by at most about n roundings of the accumulator times the sum of
    absolute products, in whatever order it is taken; the result is then rounded once to the
    output's type. Outside the mask the sum of absolute products is 0, so gradients must be 0.

    Returns:
        The exact values and the bounds, both by name as in `forward_and_gradients`.
    """
    dtype = inputs.weight.dtype

    def double(change: Callable[[Tensor], Tensor], mask: Tensor) -> dict[str, Tensor]:
        x, weight, _, bias = (None if t is None else change(t.double()) for t in inputs)
        wide = ConvInputs(x, weight, mask, bias)
        wide_scores = None if scores is None else scores.double()
        return forward_and_gradients(
            reference.masked_conv2d, shape, wide, change(cotangent.double()), wide_scores
        )

    exact = double(lambda t: t, inputs.mask)
    magnitude = double(torch.abs, inputs.mask)
    terms = double(torch.ones_like, torch.ones_like(inputs.mask))

    accumulator = torch.float64 if dtype is torch.float64 else torch.float32
    unit, unit_out = torch.finfo(accumulator).eps / 2, torch.finfo(dtype).eps / 2
    bound = {}
    for name, value in exact.items():
        roundings = 2 if name == "scores" else 1  # dL/d(W * M) is itself a rounded tensor
        bound[name] = (
            2 * (terms[name] + 2) * unit * magnitude[name]  # 2: the float64 twin rounds as well
            + roundings * unit_out * value.abs()
            + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps * (magnitude[name] > 0)
        )
    return exact, bound


def assert_within(
    actual: Mapping[str, Tensor], exact: Mapping[str, Tensor], bound: Mapping[str, Tensor]
) -> None:
    """Fail with the worst entry if a value is farther from the exact one than its bound."""
    assert actual.keys() == exact.keys()
    for name, value in actual.items():
        assert value.shape == exact[name].shape, name
        error = (value.double() - exact[name]).abs()
        bad = ~(error <= bound[name])
        if bad.any():
            worst = torch.where(bad, error - bound[name], -torch.inf).argmax()
            raise AssertionError(
                f"{name}: {int(bad.sum())} of {bad.numel()} entries are off, worst at flat index "
                f"{int(worst)}: got {value.flatten()[worst].item()}, exact "
                f"{exact[name].flatten()[worst].item()}, allowed error "
                f"{bound[name].flatten()[worst].item()}"
            )


# --- packed weights, in every layout -----------------------------------------------------------

LAYOUTS = ("nchw", "channels_last", "lanes")
_ops = torch.ops.supertickets


def options_of(shape: ConvShape) -> ConvOptions:
    return conv_options(
        "test", shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups
    )


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    if layout == "lanes":
        return _ops.to_lanes(tensor)
    last = layout == "channels_last"
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def dense(y: Tensor, batch: int) -> Tensor:
    return _ops.from_lanes(y, batch, False) if y.dim() == 5 else y


def packed_convolution(
    shape: ConvShape,
    inputs: ConvInputs,
    layout: str,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Pack the weight and convolve, in a layout."""
    x = laid_out(inputs.x, layout)
    options = options_of(shape)
    packed = _ops.masked_conv2d_pack(inputs.weight, inputs.mask, x.shape, *options)
    added = None if residual is None else laid_out(residual, layout)
    size = list(shape.weight_shape)
    return _ops.masked_conv2d_packed(x, packed, size, inputs.bias, added, relu, *options)
