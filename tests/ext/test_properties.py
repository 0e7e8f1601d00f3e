"""Properties that must hold for every input hypothesis can think of."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, assume, given, settings
from torch import Tensor

from benchmarks.shapes import ConvShape
from supertickets_ext import (
    global_topk_mask,
    masked_conv2d,
    reference,
    topk_mask,
    update_topk_mask_,
)
from tests.ext.cases import (
    DTYPES,
    LAYOUTS,
    assert_within,
    cotangent_for,
    dense,
    exact_and_bound,
    forward_and_gradients,
    in_lanes,
    laid_out,
    options_of,
    packed_convolution,
)

quick = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
few_values = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 2.0, torch.inf, -torch.inf, torch.nan, 5e-324, 1e-45, 6e-8, -1e-40]
)
values = st.one_of(few_values, st.floats(width=16), st.floats(width=32))


@st.composite
def score_tensors(draw: st.DrawFn, max_dims: int = 3) -> Tensor:
    """Scores of any floating type, any small shape, any order of strides, many ties."""
    shape = draw(st.lists(st.integers(0, 6), max_size=max_dims))
    count = int(torch.Size(shape).numel())
    flat = draw(st.lists(values, min_size=count, max_size=count))
    dtype = draw(st.sampled_from(DTYPES))
    scores = torch.tensor(flat, dtype=torch.float64).to(dtype).reshape(shape)
    order = draw(st.permutations(range(len(shape))))
    inverse = [order.index(axis) for axis in range(len(shape))]
    return scores.permute(order).contiguous().permute(inverse)


def ranks(scores: Tensor, by_magnitude: bool) -> list[tuple[bool, float]]:
    """Sortable keys, smallest first, in flat order; written without torch's sort."""
    flat = [float(value) for value in scores.flatten().tolist()]
    keys = [abs(value) if by_magnitude else value for value in flat]
    return [(key == key, key if key == key else 0.0) for key in keys]


@quick
@given(st.data(), score_tensors(), st.booleans())
def test_topk_mask_is_a_stable_sort(
    data: st.DataObject, scores: Tensor, by_magnitude: bool
) -> None:
    keep = data.draw(st.integers(0, scores.numel()))
    mask = topk_mask(scores, keep, by_magnitude=by_magnitude)
    keys = ranks(scores, by_magnitude)
    order = sorted(range(len(keys)), key=lambda i: keys[i], reverse=True)  # stable, also reversed
    chosen = set(order[:keep])
    assert mask.shape == scores.shape
    assert mask.flatten().tolist() == [i in chosen for i in range(len(keys))]
    assert torch.equal(mask, reference.topk_mask(scores, keep, by_magnitude=by_magnitude))


@quick
@given(st.data(), score_tensors(), st.booleans())
def test_dim_is_topk_mask_of_every_slice(
    data: st.DataObject, scores: Tensor, by_magnitude: bool
) -> None:
    assume(scores.dim() > 0 and scores.numel() > 0)
    dim = data.draw(st.integers(-scores.dim(), scores.dim() - 1))
    keep = data.draw(st.integers(0, scores.shape[dim]))
    mask = topk_mask(scores, keep, by_magnitude=by_magnitude, dim=dim)
    rows = scores.movedim(dim, -1).reshape(-1, scores.shape[dim])
    for row, marked in zip(rows, mask.movedim(dim, -1).reshape(rows.shape), strict=True):
        assert torch.equal(topk_mask(row, keep, by_magnitude=by_magnitude), marked)


@quick
@given(st.data(), st.lists(score_tensors(max_dims=2), min_size=1, max_size=4), st.booleans())
def test_global_is_topk_mask_of_the_concatenation(
    data: st.DataObject, tensors: list[Tensor], by_magnitude: bool
) -> None:
    scores = [tensor.to(torch.float32) for tensor in tensors]
    total = sum(s.numel() for s in scores)
    keep = data.draw(st.integers(0, total))
    masks = global_topk_mask(scores, keep, by_magnitude=by_magnitude)
    flat = torch.cat([s.flatten() for s in scores])
    joined = torch.cat([mask.flatten() for mask in masks])
    assert torch.equal(joined, topk_mask(flat, keep, by_magnitude=by_magnitude))
    assert [mask.shape for mask in masks] == [s.shape for s in scores]


@quick
@given(st.data(), score_tensors(), st.booleans(), st.one_of(st.none(), st.integers(0, 12)))
def test_update(
    data: st.DataObject, scores: Tensor, by_magnitude: bool, max_swaps: int | None
) -> None:
    hint = data.draw(st.none() | st.sampled_from([*scores.flatten().tolist(), 0.0, torch.nan]))
    count = scores.numel()
    bits = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    keep = data.draw(st.integers(0, count))
    before = torch.tensor(bits, dtype=torch.bool).reshape(scores.shape)
    after, twin = before.clone(), before.clone()
    keywords = {"max_swaps": max_swaps, "by_magnitude": by_magnitude}
    guess = None if hint is None else scores.new_tensor(hint)
    update = update_topk_mask_(after, scores, keep, hint=guess, **keywords)
    expected = reference.update_topk_mask_(twin, scores, keep, **keywords)

    assert torch.equal(after, twin)
    assert int(after.sum()) == keep
    assert int(update.grown) == int((after & ~before).sum())
    assert int(update.pruned) == int((before & ~after).sum())
    if max_swaps is not None:
        assert min(int(update.grown), int(update.pruned)) <= max_swaps
    else:
        assert torch.equal(after, topk_mask(scores, keep, by_magnitude=by_magnitude))
    assert torch.equal(update.threshold.nan_to_num(nan=-1), expected.threshold.nan_to_num(nan=-1))


@st.composite
def conv_shapes(draw: st.DrawFn) -> ConvShape:
    """Any small convolution with at least one output position."""
    small, pairs = st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups = draw(small)
    batch = draw(st.one_of(st.integers(0, 7), st.integers(8, 40)))
    side = st.integers(1, 19 if batch < 8 else 7)
    shape = ConvShape(
        "drawn",
        batch=batch,
        channels=groups * draw(st.integers(1, 5)),
        outputs=groups * draw(st.integers(1, 5)),
        image=draw(st.tuples(side, side)),
        kernel=draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        stride=draw(st.one_of(small, pairs)),
        padding=draw(st.tuples(st.integers(0, 4), st.integers(0, 4))),
        dilation=draw(st.one_of(small, pairs)),
        groups=groups,
        bias=draw(st.booleans()),
    )
    dilations = (shape.dilation,) * 2 if isinstance(shape.dilation, int) else shape.dilation
    assert isinstance(shape.padding, tuple)
    for axis in range(2):
        reach = dilations[axis] * (shape.kernel[axis] - 1) + 1
        assume(shape.image[axis] + 2 * shape.padding[axis] >= reach)
    return shape


@quick
@given(
    conv_shapes(),
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 99),
)
def test_convolution(
    shape: ConvShape,
    dtype: torch.dtype,
    layout: str,
    density: float,
    with_scores: bool,
    seed: int,
) -> None:
    channels_last = layout == "channels_last"
    inputs = shape.inputs(density=density, dtype=dtype, channels_last=channels_last, seed=seed)
    cotangent = cotangent_for(shape, inputs)
    scores = torch.zeros_like(inputs.weight) if with_scores else None
    function = in_lanes if layout == "lanes" else masked_conv2d
    actual = forward_and_gradients(function, shape, inputs, cotangent, scores)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent, scores))


@quick
@given(conv_shapes(), st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), st.booleans())
def test_packed_convolution(
    shape: ConvShape, dtype: torch.dtype, layout: str, with_residual: bool
) -> None:
    inputs = shape.inputs(density=0.3, dtype=dtype)
    x = laid_out(inputs.x, layout)
    y = torch.ops.supertickets.masked_conv2d(
        x, inputs.weight, inputs.mask, inputs.bias, *options_of(shape)
    )
    plain = dense(y, shape.batch)
    residual = torch.zeros_like(plain) if with_residual else None
    packed = dense(packed_convolution(shape, inputs, layout, residual, relu=True), shape.batch)
    assert torch.equal(packed, plain.relu())
