"""Packed weights: the same values as the unpacked operator, fused forms, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import supertickets_ext  # noqa: F401  registers the operators
from benchmarks.shapes import EDGE_SHAPES, ConvInputs, ConvShape
from tests.ext.cases import (
    DTYPES,
    LAYOUTS,
    assert_within,
    cotangent_for,
    dense,
    exact_and_bound,
    laid_out,
    options_of,
    packed_convolution,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

_ops = torch.ops.supertickets
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", EDGE_SHAPES, ids=lambda shape: shape.name)
def test_every_shape(shape: ConvShape, dtype: torch.dtype) -> None:
    inputs = shape.inputs(dtype=dtype)
    residual = cotangent_for(shape, inputs)
    exact, bound = exact_and_bound(shape, inputs, residual)
    total = exact["output"] + residual.double()
    expected = {"output": total.relu()}
    # the sum is rounded in place of the convolution; ReLU brings nothing farther apart
    allowed = bound["output"] + torch.finfo(dtype).eps * (total.abs() + residual.double().abs())
    for layout in LAYOUTS:
        y = packed_convolution(shape, inputs, layout, residual, relu=True)
        assert y.dtype == dtype
        assert_within({"output": dense(y, shape.batch)}, expected, {"output": allowed})


@layouts
@pytest.mark.parametrize("batch", [1, 7, 8, 17])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_as_the_unpacked_operator(dtype: torch.dtype, batch: int, layout: str) -> None:
    shape = ConvShape("bits", batch, 6, 7, (9, 8), padding=1)
    inputs = shape.inputs(dtype=dtype)
    options = options_of(shape)
    x = laid_out(inputs.x, layout)
    plain = _ops.masked_conv2d(x, inputs.weight, inputs.mask, inputs.bias, *options)
    packed = packed_convolution(shape, inputs, layout)
    assert packed.stride() == plain.stride()
    assert torch.equal(dense(packed, batch), dense(plain, batch))
    rectified = packed_convolution(shape, inputs, layout, relu=True)
    assert torch.equal(dense(rectified, batch), dense(plain, batch).relu())


@layouts
def test_without_a_mask_every_weight_is_kept(layout: str) -> None:
    shape = ConvShape("dense", 3, 5, 4, (6, 7), stride=2, padding=1)
    inputs = shape.inputs(density=1.0)
    options = options_of(shape)
    x = laid_out(inputs.x, layout)
    packed = _ops.masked_conv2d_pack(inputs.weight, None, x.shape, *options)
    y = _ops.masked_conv2d_packed(
        x, packed, list(shape.weight_shape), inputs.bias, None, False, *options
    )
    assert torch.equal(dense(y, 3), dense(packed_convolution(shape, inputs, layout), 3))


def test_relu_keeps_nan_and_infinity() -> None:
    x = torch.tensor([-1.0, torch.inf, torch.nan, -torch.inf]).view(1, 1, 1, 4)
    shape = ConvShape("special", 1, 1, 1, (1, 4), (1, 1), bias=False)
    weight = torch.full((1, 1, 1, 1), 2.0)
    inputs = ConvInputs(x, weight, torch.ones(1, 1, 1, 1, dtype=torch.bool), None)
    for layout in LAYOUTS:
        y = dense(packed_convolution(shape, inputs, layout, relu=True), 1).flatten()
        assert y.isnan().tolist() == [False, False, True, False]
        assert y[[0, 1, 3]].tolist() == [0.0, torch.inf, 0.0]


@pytest.mark.parametrize(("packed_for", "used_with"), [(1, 7), (7, 2), (8, 33), (40, 9)])
def test_serves_every_batch_of_its_kind(packed_for: int, used_with: int) -> None:
    shape = ConvShape("batches", used_with, 6, 7, (9, 8), padding=1)
    x, weight, mask, bias = shape.inputs()
    options = options_of(shape)
    size = [packed_for, *shape.input_shape[1:]]
    packed = _ops.masked_conv2d_pack(weight, mask, size, *options)
    y = _ops.masked_conv2d_packed(x, packed, weight.shape, bias, None, False, *options)
    assert torch.equal(y, _ops.masked_conv2d(x, weight, mask, bias, *options))


def test_residual_of_any_strides() -> None:
    shape = ConvShape("strides", 3, 4, 5, (6, 7), padding=1)
    inputs = shape.inputs()
    residual = cotangent_for(shape, inputs)
    expected = packed_convolution(shape, inputs, "nchw", residual)
    options = options_of(shape)
    packed = _ops.masked_conv2d_pack(inputs.weight, inputs.mask, inputs.x.shape, *options)
    wide = torch.zeros(3, 5, 6, 14)
    wide[..., ::2] = residual
    for view in (wide[..., ::2], residual.contiguous(memory_format=torch.channels_last)):
        y = _ops.masked_conv2d_packed(
            inputs.x, packed, inputs.weight.shape, inputs.bias, view, False, *options
        )
        assert torch.equal(y, expected)


# --- what is refused ------------------------------------------------------------------------------

SHAPE = ConvShape("refused", 2, 4, 6, (7, 9), padding=1)
INPUTS = SHAPE.inputs()
OPTIONS = options_of(SHAPE)
SIZE = list(SHAPE.weight_shape)
GROUPED = ([1, 1], [1, 1, 1, 1], [1, 1], 2)


def pack(x_size: tuple[int, ...] = SHAPE.input_shape, dtype: torch.dtype = torch.float32) -> Tensor:
    return _ops.masked_conv2d_pack(INPUTS.weight.to(dtype), INPUTS.mask, x_size, *OPTIONS)


def damaged(packed: Tensor, byte: int, value: int) -> Tensor:
    packed = packed.clone()
    packed[byte] = value
    return packed


def run(
    x: Tensor,
    packed: Tensor,
    residual: Tensor | None = None,
    size: list[int] = SIZE,
    options: tuple[Any, ...] = OPTIONS,
) -> Tensor:
    return _ops.masked_conv2d_packed(x, packed, size, INPUTS.bias, residual, False, *options)


X = INPUTS.x
GOOD = pack()
Y = run(X, GOOD)
PACKED_FAULTS: list[tuple[str, tuple[Any, ...], str]] = [
    ("for-lanes", (X, pack((1, 4, 7, 9, 16))), "packed"),
    ("for-a-large-batch", (X, pack((8, 4, 7, 9))), "packed"),
    ("for-a-small-batch", (X.repeat(4, 1, 1, 1), GOOD), "packed"),
    ("for-one-image-not-lanes", (_ops.to_lanes(X), GOOD), "packed"),
    ("for-another-dtype", (X, pack(dtype=torch.float64)), "packed"),
    ("for-another-size", (X, GOOD, None, [5, 4, 3, 3]), "packed|bias"),
    ("for-another-kernel", (X, GOOD, None, [6, 4, 3, 1]), "packed"),
    ("for-other-groups", (X, GOOD, None, [6, 2, 3, 3], GROUPED), "packed"),
    ("empty", (X, GOOD[:0]), "packed"),
    ("short-header", (X, GOOD[:64]), "packed"),
    ("cut", (X, GOOD[:-1]), "packed"),
    ("extended", (X, torch.cat([GOOD, GOOD[:8]])), "packed"),
    ("zeros", (X, torch.zeros_like(GOOD)), "packed"),
    ("first-byte", (X, damaged(GOOD, 0, 7)), "packed"),
    ("planes", (X, damaged(GOOD, 16, 7)), "packed"),
    ("channels", (X, damaged(GOOD, 24, 5)), "packed"),
    ("floats", (X, GOOD.float()), "packed"),
    ("two-dims", (X, GOOD[None]), "packed"),
    ("every-second", (X, GOOD.repeat_interleave(2)[::2]), "packed"),
    ("meta-size", (X, GOOD, None, SIZE[1:]), "weight_size"),
    ("negative-size", (X, GOOD, None, [-6, 4, 3, 3]), "weight_size"),
    ("residual-batch", (X, GOOD, Y[:1]), "residual"),
    ("residual-map", (X, GOOD, Y[..., 1:]), "residual"),
    ("residual-filters", (X, GOOD, Y[:, :5]), "residual"),
    ("residual-dims", (X, GOOD, Y[0]), "residual"),
    ("residual-dtype", (X, GOOD, Y.double()), "residual"),
    ("residual-layout", (X, GOOD, _ops.to_lanes(Y)), "residual"),
    ("x-channels", (X[:, :3], GOOD), "x must have 4 channels"),
    ("x-dims", (X[0], GOOD), "x"),
    ("x-lanes", (torch.zeros(1, 4, 7, 9, 8), GOOD), "x"),
]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [fault[1:] for fault in PACKED_FAULTS],
    ids=[fault[0] for fault in PACKED_FAULTS],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Any, ...], word: str) -> None:
    with pytest.raises(RuntimeError, match=f"masked_conv2d_packed: ({word})"):
        run(*arguments)


# (kernel, stride, dilation); where tiles are one line high, some of them share their packed form
OTHER_CONVOLUTIONS = [
    ((3, 3), (2, 1), (1, 1)),
    ((3, 3), (1, 2), (1, 1)),
    ((3, 3), (1, 1), (2, 1)),
    ((3, 3), (1, 1), (1, 2)),
    ((3, 3), (2, 2), (2, 2)),
    ((1, 9), (1, 1), (1, 1)),
    ((9, 1), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), OTHER_CONVOLUTIONS)
def test_packed_for_another_convolution_is_refused_or_right(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], layout: str
) -> None:
    x = laid_out(torch.randn(17, 4, 14, 15, generator=torch.Generator().manual_seed(0)), layout)
    packed = _ops.masked_conv2d_pack(INPUTS.weight, INPUTS.mask, x.shape, *OPTIONS)
    options = (stride, (4, 4, 4, 4), dilation, 1)
    size = [6, 4, *kernel]
    try:
        y = _ops.masked_conv2d_packed(x, packed, size, None, None, False, *options)
    except RuntimeError:
        return
    weight, mask = INPUTS.weight.reshape(size), INPUTS.mask.reshape(size)
    assert torch.equal(y, _ops.masked_conv2d(x, weight, mask, None, *options))


PACK_FAULTS = {
    "x-size-3": (INPUTS.weight, INPUTS.mask, (4, 7, 9)),
    "x-size-lanes-8": (INPUTS.weight, INPUTS.mask, (1, 4, 7, 9, 8)),
    "x-size-negative": (INPUTS.weight, INPUTS.mask, (-1, 4, 7, 9)),
    "x-size-channels": (INPUTS.weight, INPUTS.mask, (2, 5, 7, 9)),
    "mask-shape": (INPUTS.weight, INPUTS.mask[:5], SHAPE.input_shape),
    "mask-dtype": (INPUTS.weight, INPUTS.mask.float(), SHAPE.input_shape),
    "weight-dims": (INPUTS.weight[0], None, SHAPE.input_shape),
    "weight-dtype": (INPUTS.weight.int(), None, SHAPE.input_shape),
}


@pytest.mark.parametrize("name", PACK_FAULTS)
def test_what_cannot_be_packed_is_refused(name: str) -> None:
    word = name.split("-")[0]
    with pytest.raises(RuntimeError, match=f"masked_conv2d_pack: {word}"):
        _ops.masked_conv2d_pack(*PACK_FAULTS[name], *OPTIONS)
