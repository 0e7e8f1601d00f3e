"""Every registered operator: opcheck on sample arguments, and checks that Python cannot bypass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import supertickets_ext  # noqa: F401  registers the operators

NAMESPACE = "supertickets"


def registered() -> list[str]:
    """Names of all operators in the namespace that have a kernel for the CPU."""
    names = torch._C._dispatch_get_all_op_names()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    own = (n for n in names if n.startswith(f"{NAMESPACE}::") and has_kernel(n, "CPU"))
    return sorted(n.split("::")[1] for n in own)


def operator(name: str) -> Callable[..., Any]:
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


GEOMETRY = ([2, 1], [1, 1, 0, 2], [1, 2], 2)  # stride, padding, dilation, groups
X, GRAD = (3, 4, 7, 6), (3, 6, 4, 4)
WEIGHT = (6, 2, 3, 3)


def convolutions() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments of the convolution operators in every type and layout."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = random(*X, dtype=dtype).contiguous(memory_format=layout)
            grad = random(*GRAD, dtype=dtype).contiguous(memory_format=layout)
            weight, bias = random(*WEIGHT, dtype=dtype), random(6, dtype=dtype)
            mask = weight > 0
            yield "masked_conv2d", (x, weight, mask, bias, *GEOMETRY)
            yield "masked_conv2d", (x, weight, None, None, *GEOMETRY)
            yield "masked_conv2d_grad_input", (grad, weight, mask, X, *GEOMETRY)
            yield "masked_conv2d_grad_weight", (grad, x, mask, WEIGHT, *GEOMETRY)
            yield "masked_conv2d_grad_weight", (grad, x, None, WEIGHT, *GEOMETRY)
    x, weight = random(*X)[..., ::2], random(*WEIGHT).transpose(2, 3)
    yield "masked_conv2d", (x, weight, weight > 0, None, [1, 1], [2] * 4, [1, 1], 2)
    yield "masked_conv2d", (random(*X)[:0], random(*WEIGHT), None, None, *GEOMETRY)


def in_lanes() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments of the convolution operators in lanes, and of the ways there and back."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        x, grad = random(2, *X[1:], 16, dtype=dtype), random(2, *GRAD[1:], 16, dtype=dtype)
        weight, bias = random(*WEIGHT, dtype=dtype), random(6, dtype=dtype)
        mask = weight > 0
        yield "masked_conv2d", (x, weight, mask, bias, *GEOMETRY)
        yield "masked_conv2d_grad_input", (grad, weight, mask, (2, *X[1:], 16), *GEOMETRY)
        yield "masked_conv2d_grad_weight", (grad, x, mask, WEIGHT, *GEOMETRY)
        yield "to_lanes", (random(*X, dtype=dtype),)
        yield "from_lanes", (x, 17, True)
    yield "to_lanes", (random(17, *X[1:]).contiguous(memory_format=torch.channels_last),)
    yield "to_lanes", (random(*X)[:0],)
    yield "from_lanes", (random(1, *X[1:], 16), 16, False)
    yield "from_lanes", (random(0, *X[1:], 16), 0, False)


def packed_convolutions() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments of the operators of packed weights: every type, kind of batch and form."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        weight, bias = random(*WEIGHT, dtype=dtype), random(6, dtype=dtype)
        mask = weight > 0
        for size, grad_size in ((X, GRAD), ((2, *X[1:], 16), (2, *GRAD[1:], 16))):
            x, residual = random(*size, dtype=dtype), random(*grad_size, dtype=dtype)
            packed = pack(weight, mask, size)
            yield "masked_conv2d_pack", (weight, mask, size, *GEOMETRY)
            yield "masked_conv2d_packed", (x, packed, WEIGHT, bias, residual, True, *GEOMETRY)
            yield "masked_conv2d_packed", (x, packed, WEIGHT, None, None, False, *GEOMETRY)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, grad, weight = random(*X, dtype=dtype), random(*GRAD, dtype=dtype), random(*WEIGHT)
        mask, weight = weight > 0, weight.to(dtype)
        for grad_input in (False, True):
            yield "masked_conv2d_pattern", (weight, mask, X, *GEOMETRY, grad_input)
        ours, theirs = (
            torch.ops.supertickets.masked_conv2d_pattern(weight, mask, X, *GEOMETRY, transposed)
            for transposed in (False, True)
        )
        yield "masked_conv2d", (x, weight, mask, None, *GEOMETRY, ours)
        yield "masked_conv2d_grad_input", (grad, weight, mask, X, *GEOMETRY, theirs)
        yield "masked_conv2d_grad_weight", (grad, x, mask, WEIGHT, *GEOMETRY, ours)
    x = random(*X).contiguous(memory_format=torch.channels_last)
    packed = pack(random(*WEIGHT), None, X)
    yield "masked_conv2d_pack", (random(*WEIGHT), None, (9, *X[1:]), *GEOMETRY)
    yield "masked_conv2d_packed", (x, packed, WEIGHT, None, None, True, *GEOMETRY)


def pack(weight: Tensor, mask: Tensor | None, size: tuple[int, ...]) -> Tensor:
    return torch.ops.supertickets.masked_conv2d_pack(weight, mask, size, *GEOMETRY)


def selections() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments of the top-k operators in every type."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        scores = random(5, 8, dtype=dtype)
        yield "topk_mask", (scores, 3, True)
        yield "global_topk_mask", ([scores, scores.t(), scores[0]], 30, False)
        hint = scores.new_full((), 0.5)
        yield "update_topk_mask_", (scores > 0, scores, 11, None, None, True, None)
        yield "update_topk_mask_", ((scores > 0).t(), scores.t(), 11, 2, 0.5, False, hint)
        pair = ([scores > 0, scores[0] > 0], [scores, scores[0]])
        yield "update_topk_masks_", (*pair, [11, 2], 1, None, True, hint.expand(2))
        yield "global_update_topk_mask_", (*pair, 11, None, 0.5, False, hint)
        yield "rigl_update_", (scores > 0, scores, scores.flip(0), 3)
        yield "nm_mask", (scores, 2, 4, 1, True)
    yield "topk_mask", (random(8, 5).t(), 3, False)
    yield "topk_mask", (random(0, 5), 3, True)
    yield "nm_mask", (random(8, 5, 3).transpose(0, 2), 1, 4, 2, False)
    yield "pack_mask", (random(5, 7) > 0,)
    yield "unpack_mask", (torch.arange(5, dtype=torch.uint8), (5, 7))


def jacobians() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments of the Jacobian operators in both types, with and without what is optional."""
    for dtype in (torch.float32, torch.float64):
        x, grad, weight = (random(*size, dtype=dtype) for size in (X, GRAD, WEIGHT))
        scale, options = random(6, dtype=dtype), (list(WEIGHT), 1, *GEOMETRY)
        yield "jacobian_conv2d_rows", (grad, x, weight > 0, scale, weight, *options)
        together = (list(WEIGHT), 3, *GEOMETRY)
        yield "jacobian_conv2d_rows", (torch.cat([grad, grad]), x, None, None, None, *together)
        one, two = random(3, 7, dtype=dtype), random(2, 7, dtype=dtype)
        yield "jacobian_gram_", (random(3, 3).double(), one, None)
        yield "jacobian_gram_", (random(3, 2).double(), one, two)
    yield "ntk_lanes_gram", tuple(lane_table())


def lane_table() -> list[Any]:
    """Arguments of ``ntk_lanes_gram``: a batch of two, a 3x3 convolution, a mean over pixels."""
    none = [-1] * 7
    nodes = torch.tensor([
        [0, 0, 0, 2, 4, 4, 0, *none, -1, -1, -1, -1, 0],
        [1, 0, 1, 3, 4, 4, 1, 2, -1, -1, -1, -1, 0, 3, 1, 1, 1, 1, 0],
        [9, 1, 1, 3, 4, 4, -1, 3, *none, -1, -1, -1, 0],
    ])  # fmt: skip
    x, weight = random(2, 2, 4, 4), random(3, 2, 3, 3)
    tensors = [x, torch.nn.functional.conv2d(x, weight, padding=1), weight, random(3)]
    return [nodes, torch.tensor([0, 1]), torch.ones(3), tensors, 2, 54]


def lane_table_with(position: int, value: Any) -> tuple[Any, ...]:
    """The same with another argument, or another number in the row of the convolution."""
    arguments = lane_table()
    if position < 0:
        arguments[0][1, -position] = value
    else:
        arguments[position] = value
    return tuple(arguments)


def patterns() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments of the activation pattern operators in every type."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        yield "pack_signs_", (torch.zeros(5, 3, dtype=torch.int64), random(5, 70, dtype=dtype), 60)
    yield "count_patterns", (random(9, 3).long(),)
    yield "hamming_gram", (random(9, 3).long(),)
    rows = [[0, 0, 0, 2, 3, 3, 1, 1, 1, 0, 0, 1, 1, 0, -1, -1],
            [3, 0, 1, 2, 3, 3, 1, 1, 1, 0, 0, 1, 1, 0, -1, -1]]  # fmt: skip
    yield (
        "region_patterns",
        (torch.tensor(rows), torch.tensor([0]), torch.ones(2), [], random(6, 2, 3, 3), 4),
    )


SAMPLES = [
    *convolutions(), *in_lanes(), *packed_convolutions(), *selections(), *jacobians(), *patterns(),
]  # fmt: skip


def test_every_operator_has_a_sample() -> None:
    assert {name for name, _ in SAMPLES} == set(registered())


@pytest.mark.parametrize(
    ("name", "arguments"), SAMPLES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(SAMPLES)]
)
def test_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(operator(name), arguments)


x, weight, grad = random(*X), random(*WEIGHT), random(*GRAD)
mask = weight > 0
lanes, lanes_grad = random(2, *X[1:], 16), random(2, *GRAD[1:], 16)
LANES_X = (2, *X[1:], 16)
# The library itself refuses what would read or write out of bounds, whoever calls it.
UNSAFE: list[tuple[str, str, tuple[Any, ...], str]] = [
    ("mask-shape", "masked_conv2d", (x, weight, mask[:5], None, *GEOMETRY), "mask"),
    ("mask-dtype", "masked_conv2d", (x, weight, mask.float(), None, *GEOMETRY), "mask"),
    ("bias-shape", "masked_conv2d", (x, weight, mask, random(5), *GEOMETRY), "bias"),
    ("x-channels", "masked_conv2d", (x[:, :3], weight, mask, None, *GEOMETRY), "channels"),
    ("weight-dtype", "masked_conv2d", (x, weight.double(), mask, None, *GEOMETRY), "weight"),
    ("x-int", "masked_conv2d", (x.int(), weight.int(), mask, None, *GEOMETRY), "x"),
    ("stride-0", "masked_conv2d", (x, weight, mask, None, [0, 1], *GEOMETRY[1:]), "stride"),
    ("stride-one", "masked_conv2d", (x, weight, mask, None, [1], *GEOMETRY[1:]), "stride"),
    ("groups-0", "masked_conv2d", (x, weight, mask, None, *GEOMETRY[:3], 0), "groups"),
    ("grad-shape", "masked_conv2d_grad_input", (grad[:2], weight, mask, X, *GEOMETRY), "grad"),
    ("input-size", "masked_conv2d_grad_input", (grad, weight, mask, X[1:], *GEOMETRY), "input"),
    ("grad-x", "masked_conv2d_grad_weight", (grad, x[:2], mask, WEIGHT, *GEOMETRY), "grad"),
    ("weight-size", "masked_conv2d_grad_weight", (grad, x, mask, (6, 2), *GEOMETRY), "weight"),
    ("narrow-lanes", "masked_conv2d", (lanes[..., :8], weight, mask, None, *GEOMETRY), "16"),
    ("pattern", "masked_conv2d",
     (x, weight, mask, None, *GEOMETRY, torch.zeros(64, dtype=torch.uint8)), "pattern"),
    ("pattern-dtype", "masked_conv2d_pattern",
     (weight.double(), mask, X, *GEOMETRY, False), "weight must be float32"),
    ("pattern-mask", "masked_conv2d_pattern", (weight, mask[:5], X, *GEOMETRY, False), "mask"),
    ("x-dims", "masked_conv2d", (x[0], weight, mask, None, *GEOMETRY), "x"),
    ("lanes-size", "masked_conv2d_grad_input", (grad, weight, mask, LANES_X, *GEOMETRY), "grad"),
    ("size-of-lanes", "masked_conv2d_grad_input", (lanes_grad, weight, mask, X, *GEOMETRY), "grad"),
    ("size-8", "masked_conv2d_grad_input",
     (lanes_grad, weight, mask, (*LANES_X[:4], 8), *GEOMETRY), "input_size"),
    ("lanes-grad", "masked_conv2d_grad_weight", (lanes_grad, x, mask, WEIGHT, *GEOMETRY), "grad"),
    ("grad-of-lanes", "masked_conv2d_grad_weight", (grad, lanes, mask, WEIGHT, *GEOMETRY), "grad"),
    ("lane-groups", "masked_conv2d_grad_weight",
     (lanes_grad[:1], lanes, mask, WEIGHT, *GEOMETRY), "grad"),
    ("to-dims", "to_lanes", (lanes,), "x"),
    ("to-int", "to_lanes", (x.int(),), "x"),
    ("from-dims", "from_lanes", (x, 3, True), "lanes"),
    ("from-narrow", "from_lanes", (lanes[..., :8], 3, True), "lanes"),
    ("from-int", "from_lanes", (lanes.int(), 17, True), "lanes"),
    ("batch-low", "from_lanes", (lanes, 16, True), "batch"),
    ("batch-high", "from_lanes", (lanes, 33, True), "batch"),
    ("batch-negative", "from_lanes", (lanes[:0], -1, True), "batch"),
    ("rows-grad", "jacobian_conv2d_rows",
     (grad[:, :5], x, None, None, None, WEIGHT, 1, *GEOMETRY), "grad_output"),
    ("rows-images", "jacobian_conv2d_rows",
     (grad, x, None, None, None, WEIGHT, 2, *GEOMETRY), "images_per_row"),
    ("rows-x", "jacobian_conv2d_rows",
     (grad, x[:2], None, None, None, WEIGHT, 1, *GEOMETRY), "x must have images"),
    ("rows-mask", "jacobian_conv2d_rows",
     (grad, x, mask[:5], None, None, WEIGHT, 1, *GEOMETRY), "mask"),
    ("rows-scale", "jacobian_conv2d_rows",
     (grad, x, None, random(5), None, WEIGHT, 1, *GEOMETRY), "scale"),
    ("rows-weight", "jacobian_conv2d_rows",
     (grad, x, None, None, weight[:5], WEIGHT, 1, *GEOMETRY), "weight"),
    ("rows-half", "jacobian_conv2d_rows",
     (grad.half(), x.half(), None, None, None, WEIGHT, 1, *GEOMETRY), "float32 or float64"),
    ("gram-type", "jacobian_gram_", (random(3, 3), random(3, 7), None), "gram must be float64"),
    ("gram-shape", "jacobian_gram_", (random(3, 2).double(), random(3, 7), None), "gram"),
    ("gram-columns", "jacobian_gram_",
     (random(3, 2).double(), random(3, 7), random(2, 6)), "columns"),
    ("lanes-nodes", "ntk_lanes_gram", lane_table_with(0, torch.zeros(3, 18).long()), "nodes"),
    ("lanes-links", "ntk_lanes_gram", lane_table_with(1, torch.zeros(2)), "links"),
    ("lanes-scales", "ntk_lanes_gram", lane_table_with(2, torch.ones(2)), "scales"),
    ("lanes-tensors", "ntk_lanes_gram", lane_table_with(3, []), "value of node 0"),
    ("lanes-images", "ntk_lanes_gram", lane_table_with(4, 0), "images"),
    ("lanes-batch", "ntk_lanes_gram", lane_table_with(4, 3), "value of node 0"),
    ("lanes-columns", "ntk_lanes_gram", lane_table_with(5, -1), "columns"),
    ("lanes-narrow", "ntk_lanes_gram", lane_table_with(5, 53), "columns within"),
    ("lanes-link", "ntk_lanes_gram", lane_table_with(1, torch.tensor([1, 1])), "before it"),
    ("lanes-first", "ntk_lanes_gram", lane_table_with(-1, 2), "inputs within links"),
    ("lanes-channels", "ntk_lanes_gram", lane_table_with(-3, 4), "value of node 1"),
    ("lanes-weight", "ntk_lanes_gram", lane_table_with(-7, 9), "weight of node 1"),
    ("lanes-stride", "ntk_lanes_gram", lane_table_with(-14, 0), "kernel and stride"),
    ("keep-high", "topk_mask", (random(5, 8), 9, True), "keep"),
    ("keep-low", "topk_mask", (random(5, 8), -1, True), "keep"),
    ("dims", "topk_mask", (random(40), 3, True), "scores"),
    ("int", "topk_mask", (random(5, 8).int(), 3, True), "scores"),
    ("keep-global", "global_topk_mask", ([random(5), random(8)], 14, True), "keep"),
    ("mixed", "global_topk_mask", ([random(5), random(8).double()], 3, True), "scores"),
    ("mask", "update_topk_mask_", (mask[:5].clone(), weight, 3, None, None, True, None), "mask"),
    ("mask-float", "update_topk_mask_", (mask.float(), weight, 3, None, None, True, None), "mask"),
    ("keep-update", "update_topk_mask_",
     (mask.clone(), weight, 109, None, None, True, None), "keep"),
    ("swaps", "update_topk_mask_", (mask.clone(), weight, 3, -1, None, True, None), "max_swaps"),
    ("fraction", "update_topk_mask_",
     (mask.clone(), weight, 3, None, 1.5, True, None), "max_swap_fraction"),
    ("hint", "update_topk_mask_",
     (mask.clone(), weight, 3, None, None, True, random(2)), "hint"),
    ("hint-dtype", "update_topk_mask_",
     (mask.clone(), weight, 3, None, None, True, random(1).double()), "hint"),
    ("masks", "update_topk_masks_",
     ([mask.clone()], [weight, weight], [3, 3], None, None, True, None), "mask"),
    ("keeps", "update_topk_masks_", ([mask.clone()], [weight], [3, 3], None, None, True, None),
     "keep"),
    ("hints", "update_topk_masks_",
     ([mask.clone()], [weight], [3], None, None, True, random(2)), "hint"),
    ("global-mask", "global_update_topk_mask_",
     ([mask[:5].clone()], [weight], 3, None, None, True, None), "mask"),
    ("global-keep", "global_update_topk_mask_",
     ([mask.clone()], [weight], 109, None, None, True, None), "keep"),
    ("rigl-grad", "rigl_update_", (mask.clone(), weight, weight[:5], 3), "grad"),
    ("rigl-dtype", "rigl_update_", (mask.clone(), weight, weight.double(), 3), "dtype"),
    ("rigl-swaps", "rigl_update_", (mask.clone(), weight, weight, -1), "swaps"),
    ("nm-n", "nm_mask", (random(8, 8), 5, 4, 1, True), "n must"),
    ("nm-m", "nm_mask", (random(8, 8), 1, 0, 1, True), "m must"),
    ("nm-large", "nm_mask", (random(8, 130), 1, 65, 1, True), "m must"),
    ("nm-divides", "nm_mask", (random(8, 9), 1, 4, 1, True), "divide"),
    ("nm-dim", "nm_mask", (random(8, 8), 1, 4, 2, True), "dim"),
    ("pack", "pack_mask", (random(8),), "mask"),
    ("unpack", "unpack_mask", (torch.zeros(3, dtype=torch.uint8), (25,)), "bytes"),
    ("unpack-dtype", "unpack_mask", (torch.zeros(3), (24,)), "packed"),
    ("bit", "pack_signs_", (torch.zeros(5, 1, dtype=torch.int64), random(5, 60), 5), "bit"),
    ("rows", "pack_signs_", (torch.zeros(4, 1, dtype=torch.int64), random(5, 60), 0), "values"),
    ("float", "hamming_gram", (random(5, 8),), "patterns"),
    ("flat", "count_patterns", (random(5).long(),), "patterns"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arguments", "word"), [case[1:] for case in UNSAFE], ids=[case[0] for case in UNSAFE]
)
def test_unsafe_arguments_are_refused(name: str, arguments: tuple[Any, ...], word: str) -> None:
    with pytest.raises(RuntimeError, match=f"{name}: .*{word}"):
        operator(name)(*arguments)
