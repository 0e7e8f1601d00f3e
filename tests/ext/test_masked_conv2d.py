"""masked_conv2d: values, gradients, masks and layouts against the float64 twin."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.shapes import EDGE_SHAPES, NETWORK_SHAPES, ConvInputs, ConvShape
from supertickets_ext import masked_conv2d, reference
from supertickets_ext.lanes import LaneTensor, to_lanes
from tests.ext.cases import (
    DTYPES,
    ConvFunction,
    assert_within,
    cotangent_for,
    exact_and_bound,
    forward_and_gradients,
    in_lanes,
)

# torch's own convolution, behind the float64 twin, warns that an even kernel costs it a copy
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("backend"),
]

BY_NAME = {shape.name: shape for shape in EDGE_SHAPES}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])


def check(
    shape: ConvShape,
    inputs: ConvInputs,
    scores: Tensor | None = None,
    function: ConvFunction = masked_conv2d,
) -> dict[str, Tensor]:
    """Compare forward and all gradients with float64."""
    cotangent = cotangent_for(shape, inputs)
    actual = forward_and_gradients(function, shape, inputs, cotangent, scores)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent, scores))
    assert all(value.dtype == inputs.weight.dtype for value in actual.values())
    return actual


@layouts
@dtypes
@pytest.mark.parametrize("shape", EDGE_SHAPES, ids=lambda shape: shape.name)
def test_edge_shapes(shape: ConvShape, dtype: torch.dtype, channels_last: bool) -> None:
    inputs = shape.inputs(dtype=dtype, channels_last=channels_last)
    scores = torch.randn(shape.weight_shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    output = check(shape, inputs, scores)["output"]
    if output.numel() > 0:  # torch counts an empty tensor as contiguous whatever its strides
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert output.is_contiguous(memory_format=layout)


@dtypes
@pytest.mark.parametrize("shape", EDGE_SHAPES, ids=lambda shape: shape.name)
def test_edge_shapes_in_lanes(shape: ConvShape, dtype: torch.dtype) -> None:
    scores = torch.randn(shape.weight_shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    check(shape, shape.inputs(dtype=dtype), scores, in_lanes)


@dtypes
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "lanes"])
@pytest.mark.parametrize("batch", [7, 8, 16, 19, 33])
def test_batches(batch: int, layout: str, dtype: torch.dtype) -> None:
    shape = ConvShape("batch", batch, 35, 18, (5, 6), stride=(1, 2), padding=1)
    inputs = shape.inputs(dtype=dtype, channels_last=layout == "channels_last")
    check(shape, inputs, function=in_lanes if layout == "lanes" else masked_conv2d)


@layouts
@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("shape", NETWORK_SHAPES, ids=lambda shape: shape.name)
def test_network_shapes(
    shape: ConvShape, density: float, channels_last: bool, backend: str
) -> None:
    if backend == "cuda_on_cpu" and math.prod(shape.weight_shape) > 40_000:
        pytest.skip("takes minutes where a fibre stands for each CUDA thread")
    check(shape, shape.inputs(density=density, channels_last=channels_last))


@dtypes
def test_network_shape_in_every_dtype(dtype: torch.dtype) -> None:
    shape = NETWORK_SHAPES[2]
    check(shape, shape.inputs(density=0.1, dtype=dtype, channels_last=True))


def keep_nothing(mask: Tensor) -> Tensor:
    return torch.zeros_like(mask)


def keep_everything(mask: Tensor) -> Tensor:
    return torch.ones_like(mask)


def without_some_filters(mask: Tensor) -> Tensor:
    mask = mask.clone()
    mask[::2] = False
    return mask


def without_some_channels(mask: Tensor) -> Tensor:
    mask = mask.clone()
    mask[:, 1::2] = False
    return mask


def one_of_two_channels(mask: Tensor) -> Tensor:
    pattern = torch.arange(mask.shape[1]) % 2 == 0
    return pattern.view(1, -1, 1, 1).expand_as(mask).contiguous()


def only_the_last_weight(mask: Tensor) -> Tensor:
    mask = torch.zeros_like(mask)
    mask.view(-1)[-1] = True
    return mask


MASKS = (
    keep_nothing,
    keep_everything,
    without_some_filters,
    without_some_channels,
    one_of_two_channels,
    only_the_last_weight,
)


@layouts
@pytest.mark.parametrize("change", MASKS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["plain-3x3", "1x1", "groups-2", "depthwise", "7x7-stride-2"])
def test_masks(name: str, change: Callable[[Tensor], Tensor], channels_last: bool) -> None:
    shape = BY_NAME[name]
    inputs = shape.inputs(channels_last=channels_last)
    check(shape, inputs._replace(mask=change(inputs.mask)))


def test_lanes_give_lanes() -> None:
    shape = BY_NAME["batch-17"]
    x, weight, mask, bias = shape.inputs(channels_last=True)
    y = masked_conv2d(to_lanes(x), weight, mask, bias, **shape.keywords)
    assert isinstance(y, LaneTensor)
    assert y.shape == (17, 7, 6, 5)
    assert y.dense().is_contiguous(memory_format=torch.channels_last)


def test_lanes_without_an_image_do_not_matter() -> None:
    shape = ConvShape("absent", 5, 4, 6, (7, 9), padding=1)
    inputs = shape.inputs()
    cotangent = cotangent_for(shape, inputs)

    def spoiled(x: Tensor, *arguments: Tensor | None, **keywords: Any) -> Tensor:
        present = to_lanes(torch.ones_like(x)).lanes.bool()
        lanes = to_lanes(x)
        lanes = lanes.with_lanes(lanes.lanes.where(present, 1e4))
        return masked_conv2d(lanes, *arguments, **keywords).dense()

    clean = forward_and_gradients(in_lanes, shape, inputs, cotangent)
    dirty = forward_and_gradients(spoiled, shape, inputs, cotangent)
    for name, value in clean.items():
        assert torch.equal(value, dirty[name]), name


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "lanes"])
@pytest.mark.parametrize("route", ["sparse", "dense", "auto"])
@pytest.mark.parametrize("name", ["plain-3x3", "batch-17", "groups-odd", "depthwise"])
def test_every_route_computes_the_same(
    name: str, route: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERTICKETS_ROUTE_CACHE", "")  # measured here, stored nowhere
    shape = BY_NAME[name]
    inputs = shape.inputs(channels_last=layout == "channels_last")
    function = in_lanes if layout == "lanes" else masked_conv2d
    for scores in (None, torch.ones_like(inputs.weight)):
        check(shape, inputs, scores, functools.partial(function, route=route))


def test_all_zero_mask_gives_the_bias() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    assert bias is not None
    output = masked_conv2d(x, weight, torch.zeros_like(mask), bias, **shape.keywords)
    assert torch.equal(output, bias.view(1, -1, 1, 1).expand_as(output))


def test_pruned_weight_values_do_not_matter() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    output = masked_conv2d(x, weight, mask, bias, **shape.keywords)
    other = masked_conv2d(x, torch.where(mask, weight, 1e6), mask, bias, **shape.keywords)
    assert torch.equal(output, other)


def test_special_values_pass_through_kept_weights() -> None:
    x = torch.tensor([1.0, torch.inf, torch.nan, -torch.inf]).view(1, 1, 1, 4)
    weight, mask = torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1, 1, 1, dtype=torch.bool)
    output = masked_conv2d(x, weight, mask).flatten()
    assert output.isnan().tolist() == [False, False, True, False]
    assert output[[0, 1, 3]].tolist() == [2.0, torch.inf, -torch.inf]


def sliced_rows(x: Tensor) -> Tensor:
    wide = torch.zeros(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def sliced_channels(x: Tensor) -> Tensor:
    return torch.cat([x, x, x], dim=1)[:, x.shape[1] : 2 * x.shape[1]]


def transposed_image(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def batch_last(x: Tensor) -> Tensor:
    return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def expanded_batch(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


def expanded_channels(x: Tensor) -> Tensor:
    return x[:, :1].expand_as(x)


def offset_storage(x: Tensor) -> Tensor:
    buffer = torch.zeros(x.numel() + 3, dtype=x.dtype)
    return buffer[3:].view(x.shape).copy_(x)


def channels_last_slice(x: Tensor) -> Tensor:
    wide = torch.cat([x, x], dim=1).contiguous(memory_format=torch.channels_last)
    return wide[:, x.shape[1] :]


VIEWS = (
    sliced_rows,
    sliced_channels,
    transposed_image,
    batch_last,
    expanded_batch,
    expanded_channels,
    offset_storage,
    channels_last_slice,
)


@dtypes
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
@pytest.mark.parametrize("name", ["plain-3x3", "groups-odd"])
def test_strided_input(name: str, view: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    shape = BY_NAME[name]
    inputs = shape.inputs(dtype=dtype)
    strided = view(inputs.x)
    assert strided.shape == inputs.x.shape
    check(shape, inputs._replace(x=strided))


@pytest.mark.parametrize("view", [transposed_image, sliced_rows, channels_last_slice, batch_last])
def test_strided_weight_mask_and_scores(view: Callable[[Tensor], Tensor]) -> None:
    shape = BY_NAME["plain-3x3"]
    inputs = shape.inputs()
    scores = view(torch.randn(shape.weight_shape, generator=torch.Generator().manual_seed(3)))
    check(shape, inputs._replace(weight=view(inputs.weight)), scores)
    check(shape, inputs._replace(mask=view(inputs.mask)), scores)


@pytest.mark.parametrize("layout", ["expanded", "transposed", "channels_last"])
def test_strided_output_gradient(layout: str) -> None:
    shape = BY_NAME["plain-3x3"]
    inputs = shape.inputs()
    cotangent = cotangent_for(shape, inputs)
    cotangent = {
        "expanded": cotangent[:, :, :1, :1].expand_as(cotangent),  # what output.sum() sends
        "transposed": transposed_image(cotangent),
        "channels_last": cotangent.contiguous(memory_format=torch.channels_last),
    }[layout]
    actual = forward_and_gradients(masked_conv2d, shape, inputs, cotangent)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent))


def test_unbatched_input() -> None:
    shape = BY_NAME["batch-1"]
    x, weight, mask, bias = shape.inputs()
    batched = masked_conv2d(x, weight, mask, bias, **shape.keywords)
    assert torch.equal(masked_conv2d(x[0], weight, mask, bias, **shape.keywords), batched[0])


def test_arguments_are_left_alone() -> None:
    shape = BY_NAME["plain-3x3"]
    inputs = shape.inputs()
    before = [None if t is None else t.clone() for t in inputs]
    check(shape, inputs)
    for now, then in zip(inputs, before, strict=True):
        assert now is not None
        assert then is not None
        assert torch.equal(now, then)


def test_int_pair_and_string_arguments_mean_what_conv2d_means() -> None:
    x, weight, mask, bias = BY_NAME["plain-3x3"].inputs()
    for keywords in ({"stride": 2}, {"padding": (1, 2)}, {"padding": "same"}, {"dilation": [2, 1]}):
        expected = reference.masked_conv2d(x, weight, mask, bias, **keywords)
        torch.testing.assert_close(masked_conv2d(x, weight, mask, bias, **keywords), expected)


def test_result_is_not_tied_to_a_later_change_of_the_mask() -> None:
    x, weight, mask, bias = BY_NAME["plain-3x3"].inputs()
    first = masked_conv2d(x, weight, mask, bias)
    mask.logical_not_()
    second = masked_conv2d(x, weight, mask, bias)
    torch.testing.assert_close(second, reference.masked_conv2d(x, weight, mask, bias))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("batch", [2, 17])
@pytest.mark.parametrize("name", ["x", "cotangent"])
def test_a_nan_reaches_only_what_reads_it(name: str, batch: int) -> None:
    shape = ConvShape("nan", batch, 3, 4, (7, 8), stride=2)  # padding * nan is anyone's guess
    x, weight, mask, bias = shape.inputs(density=1.0)
    cotangent = cotangent_for(shape, ConvInputs(x, weight, mask, bias))
    spoiled = {"x": x, "cotangent": cotangent}[name]
    spoiled[1, 1, -1, -1] = torch.nan
    inputs = ConvInputs(x, weight, mask, bias)
    actual = forward_and_gradients(masked_conv2d, shape, inputs, cotangent)
    expected = forward_and_gradients(reference.masked_conv2d, shape, inputs, cotangent)
    if name == "weight":  # grad_x meets it at the zeros around the cotangent
        del actual["x"]
    for key, value in actual.items():
        assert torch.equal(value.isnan(), expected[key].isnan()), key
