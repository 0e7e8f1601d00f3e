"""Structures of masks, and the values and gradients of the dense and the compact route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.shapes import EDGE_SHAPES, ConvShape
from supertickets_ext._conv_options import ConvOptions, conv_options
from supertickets_ext.lanes import LaneTensor, to_lanes
from supertickets_ext.routes import ROUTES, Route, mask_structure, run_route
from tests.ext.cases import assert_within, cotangent_for, exact_and_bound, forward_and_gradients

# torch's own convolution warns that an even kernel costs it a copy
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

BY_NAME = {shape.name: shape for shape in EDGE_SHAPES}
CASES = [shape for shape in EDGE_SHAPES if shape.batch > 0]


def options_of(shape: ConvShape) -> ConvOptions:
    return conv_options(
        "test", shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups
    )


def by(route: Route) -> Callable[..., Tensor]:
    """The route with the signature of masked_conv2d."""

    def convolve(
        x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, *, scores: Any, **rest: Any
    ) -> Tensor:
        options = conv_options("test", (weight.shape[2], weight.shape[3]), **rest)
        return run_route(route, x, weight, mask, bias, options, scores)

    return convolve


def random_mask(*size: int, density: float = 0.5, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < density


# --- structure ----------------------------------------------------------------------------------


def structured(kind: str) -> Tensor:
    mask = torch.ones(16, 8, 3, 3, dtype=torch.bool)
    if "filters" in kind:
        mask[[0, 3, 9, 15]] = False
    if "channels" in kind:
        mask[:, [1, 6]] = False
    if kind == "blocks":
        mask[:8, 4:] = False
        mask[8:, :4] = False
    if kind == "n:m":
        mask = torch.zeros_like(mask)
        place = torch.randint(4, (16, 2, 1, 3, 3), generator=torch.Generator().manual_seed(0))
        mask.unflatten(1, (2, 4)).scatter_(2, place, True)
    if kind == "unstructured":
        mask = random_mask(16, 8, 3, 3)
    return mask


KINDS = ("none", "filters", "channels", "filters+channels", "blocks", "n:m", "unstructured")


@pytest.mark.parametrize("kind", KINDS)
def test_structure_is_recognised(kind: str) -> None:
    structure = mask_structure(structured(kind))
    assert structure.kind == kind
    assert structure.density == pytest.approx(float(structured(kind).float().mean()))


def test_structure_counts() -> None:
    structure = mask_structure(structured("filters+channels"))
    assert (structure.filters, structure.channels) == (12, 6)
    n_of_m = mask_structure(structured("n:m"))
    assert (n_of_m.n, n_of_m.m, str(n_of_m)) == (1, 4, "1:4")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_cover_exactly_the_kept_weights(kind: str) -> None:
    mask = structured(kind)
    parts = mask_structure(mask).parts
    covered = torch.zeros_like(mask)
    for part in parts or ():
        covered[part.filters[:, None], part.channels[None]] = True
    if parts is None:
        assert kind in ("none", "n:m", "unstructured")
    else:
        assert not (mask & ~covered).any()
        assert covered.float().mean() < 0.95


def test_structure_of_groups_leaves_out_whole_groups() -> None:
    mask = torch.ones(12, 1, 3, 3, dtype=torch.bool)
    mask[[1, 4, 8, 9]] = False
    (part,) = mask_structure(mask, groups=12).parts or ()
    assert part.groups == 8
    assert part.channels.tolist() == part.filters.tolist() == [0, 2, 3, 5, 6, 7, 10, 11]


def test_structure_refuses_wrong_masks() -> None:
    with pytest.raises(TypeError, match=r"mask must be bool, got torch\.float32"):
        mask_structure(torch.ones(2, 2, 1, 1))
    with pytest.raises(ValueError, match="mask must have 4 dimensions"):
        mask_structure(torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="groups must divide mask's 3 filters, got 2"):
        mask_structure(torch.ones(3, 1, 1, 1, dtype=torch.bool), groups=2)


# --- values and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", CASES, ids=lambda shape: shape.name)
def test_dense_route(shape: ConvShape, dtype: torch.dtype) -> None:
    inputs = shape.inputs(dtype=dtype, channels_last=True)
    cotangent = cotangent_for(shape, inputs)
    actual = forward_and_gradients(by(ROUTES["dense"]), shape, inputs, cotangent)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent))


def test_dense_route_with_scores() -> None:
    shape = BY_NAME["groups-2"]
    inputs = shape.inputs(dtype=torch.float64)
    scores = torch.rand(shape.weight_shape, dtype=torch.float64)
    cotangent = cotangent_for(shape, inputs)
    dense = forward_and_gradients(by(ROUTES["dense"]), shape, inputs, cotangent, scores)
    sparse = forward_and_gradients(by(ROUTES["sparse"]), shape, inputs, cotangent, scores)
    torch.testing.assert_close(dense, sparse)


def test_dense_route_skips_pruned_weights_that_are_not_finite() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    broken = torch.where(mask, weight, torch.nan)
    y = run_route(ROUTES["dense"], x, broken, mask, bias, options_of(shape))
    assert torch.equal(y, run_route(ROUTES["dense"], x, weight, mask, bias, options_of(shape)))


def prune(mask: Tensor, kind: str, groups: int) -> Tensor:
    mask = mask.clone()
    outputs, channels = mask.shape[0], mask.shape[1]
    if "filters" in kind:
        mask[: -(-outputs // 2)] = False
    if "channels" in kind and groups == 1:
        mask[:, 1::2] = False
    if kind == "blocks" and groups == 1:
        mask[: outputs // 2, : channels // 2] = False
        mask[outputs // 2 :, channels // 2 :] = False
    return mask


PLAIN = (
    "plain-3x3",
    "no-bias",
    "many-channels",
    "1x1-stride-2",
    "same-even-kernel",
    "dilation-pair",
)
COMPACT = [(n, k) for n in PLAIN for k in ("filters", "channels", "filters+channels", "blocks")]
COMPACT += [("groups-odd", "filters"), ("depthwise", "filters")]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("name", "kind"), COMPACT)
def test_compact_route(name: str, kind: str, channels_last: bool) -> None:
    shape = BY_NAME[name]
    inputs = shape.inputs(dtype=torch.float32, density=1.0, channels_last=channels_last)
    inputs = inputs._replace(mask=prune(inputs.mask, kind, shape.groups))
    parts = mask_structure(inputs.mask, shape.groups).parts
    assert parts is not None
    cotangent = cotangent_for(shape, inputs)
    actual = forward_and_gradients(by(Route("compact", "", parts=parts)), shape, inputs, cotangent)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent))
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert actual["output"].is_contiguous(memory_format=wanted)


def test_compact_route_of_an_empty_mask_gives_the_bias() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    assert bias is not None
    empty = torch.zeros_like(mask)
    route = Route("compact", "", parts=mask_structure(empty).parts)
    y = run_route(route, x, weight, empty, bias, options_of(shape))
    assert torch.equal(y, bias[:, None, None].expand_as(y))


@pytest.mark.parametrize("kind", ["sparse", "dense", "compact"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_routes_in_lanes(memory_format: torch.memory_format, kind: str) -> None:
    shape = BY_NAME["batch-17"]
    inputs = shape.inputs(density=1.0)
    inputs = inputs._replace(
        mask=prune(inputs.mask, "filters", 1), x=inputs.x.contiguous(memory_format=memory_format)
    )
    parts = mask_structure(inputs.mask).parts
    cotangent = cotangent_for(shape, inputs)

    def in_lanes(x: Tensor, *rest: Any, **keywords: Any) -> Tensor:
        y = by(Route(kind, "", parts=parts))(to_lanes(x), *rest, **keywords)
        assert isinstance(y, LaneTensor)
        assert y.memory_format == memory_format
        return y.dense()

    actual = forward_and_gradients(in_lanes, shape, inputs, cotangent)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent))
