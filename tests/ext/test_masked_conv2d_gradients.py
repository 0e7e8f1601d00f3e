"""masked_conv2d: first and second derivatives, and the torch.func transforms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from benchmarks.shapes import EDGE_SHAPES, ConvShape
from supertickets_ext import masked_conv2d, reference
from supertickets_ext._dense import summing_dtype
from tests.ext.cases import ConvFunction, in_lanes

BY_NAME = {shape.name: shape for shape in EDGE_SHAPES}
SHAPES = (
    ConvShape("plain", 2, 3, 2, (4, 5), padding=1),
    ConvShape("no-bias", 2, 2, 3, (4, 4), bias=False),
    ConvShape("stride-dilation", 1, 2, 3, (7, 6), stride=2, padding=(2, 1), dilation=2),
    ConvShape("groups", 2, 4, 2, (4, 4), padding=1, groups=2),
    ConvShape("depthwise", 1, 3, 3, (4, 4), padding=1, groups=3),
    ConvShape("1x1", 2, 4, 3, (3, 2), kernel=(1, 1)),
    ConvShape("same", 1, 2, 2, (4, 5), kernel=(3, 2), padding="same"),
    ConvShape("unused-input", 1, 2, 2, (6, 6), kernel=(2, 2), stride=4),
)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("backend"),
]


def double_inputs(shape: ConvShape) -> tuple[list[Tensor], Tensor]:
    """Leaves (x, weight, and bias if any) in float64, and the mask."""
    x, weight, mask, bias = shape.inputs(dtype=torch.float64, density=0.5)
    leaves = [x, weight] if bias is None else [x, weight, bias]
    return [leaf.requires_grad_() for leaf in leaves], mask


def bound_to(function: ConvFunction, shape: ConvShape, mask: Tensor) -> Callable[..., Tensor]:
    """Bind everything but the leaves."""

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return function(x, weight, mask, bias, **shape.keywords)

    return convolve


@shapes
def test_gradcheck(shape: ConvShape) -> None:
    leaves, mask = double_inputs(shape)
    assert gradcheck(bound_to(masked_conv2d, shape, mask), leaves)


@shapes
def test_gradgradcheck(shape: ConvShape) -> None:
    leaves, mask = double_inputs(shape)
    assert gradgradcheck(bound_to(masked_conv2d, shape, mask), leaves)


@shapes
def test_gradcheck_in_lanes(shape: ConvShape) -> None:
    leaves, mask = double_inputs(shape)
    assert gradcheck(bound_to(in_lanes, shape, mask), leaves)


@shapes
def test_gradgradcheck_in_lanes(shape: ConvShape) -> None:
    leaves, mask = double_inputs(shape)
    assert gradgradcheck(bound_to(in_lanes, shape, mask), leaves)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("function", [masked_conv2d, in_lanes], ids=["4-D", "lanes"])
def test_gradcheck_of_a_larger_batch(function: ConvFunction, channels_last: bool) -> None:
    shape = ConvShape("batch", 17, 2, 2, (3, 2), kernel=(2, 1))
    x, weight, mask, bias = shape.inputs(dtype=torch.float64, channels_last=channels_last)
    assert bias is not None
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    assert gradcheck(bound_to(function, shape, mask), leaves)


@shapes
def test_weight_gradient_is_exactly_zero_outside_the_mask(shape: ConvShape) -> None:
    leaves, mask = double_inputs(shape)
    output = bound_to(masked_conv2d, shape, mask)(*leaves)
    (gradient,) = torch.autograd.grad(output.square().sum(), leaves[1:2])
    assert not gradient[~mask].any()
    assert gradient[mask].any()


def score_results(
    function: ConvFunction, shape: ConvShape, *, second_order: bool
) -> tuple[Tensor, ...]:
    """Gradients to every input, scores last; with ``second_order`` those of their squared norm."""
    leaves, mask = double_inputs(shape)
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(mask.shape, dtype=torch.float64, generator=generator).requires_grad_()
    bias = leaves[2] if shape.bias else None
    output = function(leaves[0], leaves[1], mask, bias, scores=scores, **shape.keywords)
    inputs = [*leaves, scores]
    loss = output.square().sum()
    first = torch.autograd.grad(loss, inputs, create_graph=second_order)
    if not second_order:
        return first
    norm = torch.stack([gradient.square().sum() for gradient in first]).sum()
    return torch.autograd.grad(norm, inputs[:-1])


@shapes
@pytest.mark.parametrize("second_order", [False, True], ids=["first", "second"])
def test_straight_through_gradient_matches_the_twin(shape: ConvShape, second_order: bool) -> None:
    actual = score_results(masked_conv2d, shape, second_order=second_order)
    expected = score_results(reference.masked_conv2d, shape, second_order=second_order)
    for mine, twin in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, twin, rtol=1e-10, atol=1e-10)  # float64, < 100 terms


def test_straight_through_gradient_by_hand() -> None:
    x = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    weight = torch.tensor([7.0, 11.0]).view(1, 2, 1, 1).requires_grad_()
    mask = torch.tensor([True, False]).view(1, 2, 1, 1)
    scores = torch.tensor([0.25, -4.0]).view(1, 2, 1, 1).requires_grad_()
    output = masked_conv2d(x, weight, mask, scores=scores)
    assert output.item() == 21.0
    output.sum().backward()
    assert scores.grad is not None
    assert weight.grad is not None
    assert scores.grad.flatten().tolist() == [3 * 7.0, 5 * 11.0]  # dense: pruned entries too
    assert weight.grad.flatten().tolist() == [3.0, 0.0]


def test_scores_do_not_change_the_output() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    plain = masked_conv2d(x, weight, mask, bias, **shape.keywords)
    scored = masked_conv2d(x, weight, mask, bias, scores=torch.full_like(weight, 9.0), padding=1)
    assert torch.equal(plain, scored)


@pytest.mark.parametrize("function", [masked_conv2d, in_lanes], ids=["4-D", "lanes"])
@pytest.mark.parametrize("name", ["plain-3x3", "batch-17", "groups-odd"])
def test_score_gradient_in_another_type(name: str, function: ConvFunction) -> None:
    shape = BY_NAME[name]
    x, weight, mask, bias = shape.inputs()
    scores = torch.ones_like(weight, requires_grad=True)

    def gradient(score_dtype: torch.dtype | None) -> Tensor:
        output = function(
            x, weight, mask, bias, scores=scores, score_dtype=score_dtype, **shape.keywords
        )
        return torch.autograd.grad(output.square().sum(), scores)[0]

    narrow, wide = gradient(torch.bfloat16), gradient(torch.float32)
    assert narrow.dtype == torch.float32
    assert torch.equal(wide, gradient(None))
    as_asked = summing_dtype(x, torch.bfloat16) == torch.bfloat16
    assert torch.equal(narrow, wide) != as_asked
    error = (narrow - wide).norm() / wide.norm()
    assert error < 0.01  # bfloat16 keeps 8 bits: each factor is off by 0.2 % on average


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "scores"])
def test_each_gradient_alone_equals_the_one_computed_with_the_others(wanted: str) -> None:
    shape = BY_NAME["groups-odd"]
    x, weight, mask, bias = shape.inputs()
    assert bias is not None
    tensors = {"x": x, "weight": weight, "bias": bias, "scores": torch.ones_like(weight)}

    def gradient(needed: set[str]) -> Tensor:
        leaves = {k: t.clone().requires_grad_(k in needed) for k, t in tensors.items()}
        output = masked_conv2d(
            leaves["x"], leaves["weight"], mask, leaves["bias"], scores=leaves["scores"],
            **shape.keywords,
        )  # fmt: skip
        return torch.autograd.grad(output.sum(), leaves[wanted])[0]

    # float32, about thirty terms: with scores the weight gradient comes from the dense kernel
    torch.testing.assert_close(gradient({wanted}), gradient(set(tensors)), rtol=1e-5, atol=1e-5)


def test_frozen_inputs_give_an_output_without_graph() -> None:
    x, weight, mask, bias = BY_NAME["plain-3x3"].inputs()
    assert not masked_conv2d(x, weight, mask, bias).requires_grad
    with torch.no_grad():
        assert not masked_conv2d(x, weight.requires_grad_(), mask, bias).requires_grad
    with torch.inference_mode():
        assert masked_conv2d(x, weight, mask, bias).is_inference()


FUNC_SHAPE = SHAPES[0]


def both(compute: Callable[[ConvFunction], object]) -> None:
    """Compare a computation on the operator with the same on its twin."""
    torch.testing.assert_close(
        compute(masked_conv2d), compute(reference.masked_conv2d), rtol=1e-10, atol=1e-10
    )


def func_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weight, mask, bias = FUNC_SHAPE.inputs(dtype=torch.float64)
    assert bias is not None
    return x, weight, mask, bias


@pytest.mark.rules
@pytest.mark.parametrize("argnums", [0, 1, 2], ids=["x", "weight", "bias"])
@pytest.mark.parametrize("transform", ["grad", "jacrev", "vjp", "hessian"])
def test_reverse_transforms(transform: str, argnums: int) -> None:
    x, weight, mask, bias = func_inputs()

    def compute(function: ConvFunction) -> object:
        def output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return function(x, weight, mask, bias, padding=1)

        def loss(*arguments: Tensor) -> Tensor:
            return output(*arguments).sin().sum()

        arguments = (x, weight, bias)
        if transform == "grad":
            return torch.func.grad(loss, argnums)(*arguments)
        if transform == "jacrev":
            return torch.func.jacrev(output, argnums)(*arguments)
        if transform == "hessian":
            return torch.func.jacrev(torch.func.grad(loss, argnums), argnums)(*arguments)
        value, pull = torch.func.vjp(output, *arguments)
        return pull(value)[argnums]

    both(compute)


@pytest.mark.parametrize("argnums", [0, 1, 2], ids=["x", "weight", "bias"])
def test_forward_mode(argnums: int) -> None:
    x, weight, mask, bias = func_inputs()

    def compute(function: ConvFunction) -> object:
        def output(argument: Tensor) -> Tensor:
            arguments = [x, weight, bias]
            arguments[argnums] = argument
            return function(arguments[0], arguments[1], mask, arguments[2], padding=1)

        primal = (x, weight, bias)[argnums]
        return torch.func.jvp(output, (primal,), (primal.cos(),))

    value, tangent = compute(masked_conv2d)  # type: ignore[misc]
    assert tangent.abs().sum() > 0, "a silently zero tangent"
    assert value.shape == tangent.shape
    both(compute)


@pytest.mark.rules
def test_jacfwd() -> None:
    x, weight, mask, bias = func_inputs()
    both(lambda function: torch.func.jacfwd(lambda w: function(x, w, mask, bias))(weight))


VMAP_AXES = {
    "x": (0, None, None, None),
    "x-axis-1": (1, None, None, None),
    "weight": (None, 0, None, None),
    "mask": (None, None, 0, None),
    "weight-mask-bias": (None, 0, 0, 0),
    "everything": (0, 0, 0, 0),
}


@pytest.mark.rules
@pytest.mark.parametrize("axes", VMAP_AXES.values(), ids=VMAP_AXES.keys())
def test_vmap(axes: tuple[int | None, ...]) -> None:
    arguments = func_inputs()
    batched = [
        t if axis is None else torch.stack([t, t.roll(1, 0), t.roll(1, -1)], dim=axis)
        for t, axis in zip(arguments, axes, strict=True)
    ]
    both(
        lambda function: torch.func.vmap(
            lambda x, weight, mask, bias: function(x, weight, mask, bias, padding=1), axes
        )(*batched)
    )


@pytest.mark.rules
def test_nested_vmap() -> None:
    x, weight, mask, bias = func_inputs()
    images = torch.stack([x, -x])
    weights = torch.stack([weight, weight.flip(0), weight.flip(1)])

    def compute(function: ConvFunction) -> Tensor:
        inner = torch.func.vmap(lambda x, w: function(x, w, mask, bias), (None, 0))
        return torch.func.vmap(inner, (0, None))(images, weights)

    both(compute)


@pytest.mark.rules
def test_per_sample_gradients() -> None:
    x, weight, mask, bias = func_inputs()

    def compute(function: ConvFunction) -> Tensor:
        def loss(weight: Tensor, sample: Tensor) -> Tensor:
            return function(sample.unsqueeze(0), weight, mask, bias).square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)

    both(compute)


@pytest.mark.rules
def test_per_sample_straight_through_gradients() -> None:
    x, weight, mask, bias = func_inputs()

    def compute(function: ConvFunction) -> Tensor:
        def loss(scores: Tensor, sample: Tensor) -> Tensor:
            output = function(sample.unsqueeze(0), weight, mask, bias, scores=scores)
            return output.square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(torch.ones_like(weight), x)

    both(compute)
