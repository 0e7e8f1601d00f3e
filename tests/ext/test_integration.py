"""torch.compile, torch.export, autocast and the FLOP counter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.shapes import EDGE_SHAPES, ConvShape
from supertickets_ext import (
    global_topk_mask,
    global_update_topk_mask_,
    masked_conv2d,
    nm_mask,
    pack_mask,
    rigl_update_,
    topk_mask,
    unpack_mask,
    update_topk_mask_,
    update_topk_masks_,
)
from supertickets_ext.nn import MaskedConv2d

BY_NAME = {shape.name: shape for shape in EDGE_SHAPES}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setenv("SUPERTICKETS_ROUTE_CACHE", "")  # routes are measured, and stored nowhere


# "aot_eager" traces through Dynamo and AOTAutograd without the C++ compiler; one test uses it all.
@pytest.mark.parametrize("with_scores", [False, True])
@pytest.mark.parametrize("name", ["plain-3x3", "groups-odd", "same", "no-bias", "1x1-stride-2"])
def test_compiled_forward_and_backward(name: str, with_scores: bool) -> None:
    shape = BY_NAME[name]
    inputs = shape.inputs()

    def loss_and_gradients(function: object) -> tuple[Tensor, ...]:
        x, weight, mask, bias = (None if t is None else t.clone() for t in inputs)
        leaves = [x, weight] if bias is None else [x, weight, bias]
        scores = torch.ones_like(weight) if with_scores else None
        leaves += [] if scores is None else [scores]
        for leaf in leaves:
            leaf.requires_grad_()
        loss = function(x, weight, mask, bias, scores)  # type: ignore[operator]
        return (loss.detach(), *torch.autograd.grad(loss, leaves))

    def network(
        x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, scores: Tensor | None
    ) -> Tensor:
        return masked_conv2d(x, weight, mask, bias, scores=scores, **shape.keywords).relu().sum()

    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for mine, eager in zip(loss_and_gradients(compiled), loss_and_gradients(network), strict=True):
        torch.testing.assert_close(mine, eager)


def test_compiled_by_inductor() -> None:
    x, weight, mask, bias = BY_NAME["plain-3x3"].inputs()
    weight.requires_grad_()

    def network(x: Tensor) -> Tensor:
        return masked_conv2d(x.sin(), weight, mask, bias, padding=1).relu() * 2

    compiled = torch.compile(network, fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))
    (mine,) = torch.autograd.grad(compiled(x).sum(), weight)
    (eager,) = torch.autograd.grad(network(x).sum(), weight)
    torch.testing.assert_close(mine, eager)


@pytest.mark.parametrize("batch", [2, 17])
@pytest.mark.parametrize("route", ["auto", "sparse", "dense"])
def test_compiled_layer_in_inference(route: str, batch: int) -> None:
    layer = MaskedConv2d(4, 6, 3, padding=1)
    layer.route = route
    layer.mask.copy_(torch.rand(layer.mask.shape) < 0.3)
    network = torch.nn.Sequential(layer, torch.nn.ReLU()).eval()
    x = torch.randn(batch, 4, 7, 9, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), network(x))
        layer.mask.logical_not_()
        torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.parametrize("in_lanes", [False, True])
def test_compiled_packed_convolution(in_lanes: bool) -> None:
    shape = BY_NAME["batch-17"]
    x, weight, mask, bias = shape.inputs()
    options = ([1, 1], [1, 1, 1, 1], [1, 1], 1)
    ops = torch.ops.supertickets

    def network(x: Tensor) -> Tensor:
        images = ops.to_lanes(x) if in_lanes else x
        packed = ops.masked_conv2d_pack(weight, mask, images.shape, *options)
        y = ops.masked_conv2d_packed(images, packed, weight.shape, bias, None, True, *options)
        return (ops.from_lanes(y, x.shape[0], True) if in_lanes else y) * 2

    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x))
    expected = F.conv2d(x, weight * mask, bias, padding=1).relu() * 2
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_dynamic_batch_compiles_once(channels_last: bool) -> None:
    shape = BY_NAME["plain-3x3"]
    _, weight, mask, bias = shape.inputs()
    compilations = 0

    def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal compilations
        compilations += 1
        return graph

    def network(x: Tensor) -> Tensor:
        return masked_conv2d(x, weight, mask, bias, **shape.keywords)

    compiled = torch.compile(network, fullgraph=True, backend=counting, dynamic=True)
    for batch in (2, 5, 3, 9, 17):
        x = torch.randn(batch, 4, 7, 9, generator=torch.Generator().manual_seed(batch))
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(compiled(x), network(x))
    assert compilations == 1


def test_compiled_masks() -> None:
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))

    def masks(scores: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        update = update_topk_mask_(mask, scores, 60, max_swaps=5)
        again = update_topk_masks_([mask], [scores], [70], hints=update.threshold[None])
        both = global_topk_mask([scores, scores * 2], 70)
        joint = global_update_topk_mask_([mask], [scores * 3], 60, max_swap_fraction=0.5)
        grown = rigl_update_(mask, scores, scores.flip(0), 7)
        bits = pack_mask(mask)
        one = (topk_mask(scores.abs(), 20), topk_mask(scores, 2, dim=1), nm_mask(scores, 2, 4))
        return (*one, *both, *update, *again, *joint, *grown, bits, unpack_mask(bits, (50, 4)))

    compiled = torch.compile(masks, fullgraph=True, backend="aot_eager")
    mine, eager = torch.zeros(50, 4, dtype=torch.bool), torch.zeros(50, 4, dtype=torch.bool)
    mine[:10] = eager[:10] = True
    for value, expected in zip(compiled(scores, mine), masks(scores, eager), strict=True):
        assert torch.equal(value, expected)
    assert torch.equal(mine, eager)


def test_export_keeps_one_graph_with_a_dynamic_batch() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return masked_conv2d(x, weight, mask, bias, **shape.keywords)

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Layer(), (x,), dynamic_shapes=({0: batch},))
    larger = torch.cat([x, x, x])
    torch.testing.assert_close(program.module()(larger), Layer()(larger))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_the_autocast_type_as_conv2d_does(dtype: torch.dtype) -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    weight.requires_grad_()
    scores = torch.ones_like(weight, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        output = masked_conv2d(x, weight, mask, bias, scores=scores, **shape.keywords)
        dense = F.conv2d(x, weight * mask, bias, **shape.keywords)
    assert output.dtype == dense.dtype == dtype
    assert bias is not None
    expected = masked_conv2d(
        x.to(dtype), weight.detach().to(dtype), mask, bias.to(dtype), **shape.keywords
    )
    assert torch.equal(output, expected)
    gradients = torch.autograd.grad(output.float().square().sum(), [weight, scores])
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][~mask].any()


def test_autocast_leaves_float64_alone_as_conv2d_does() -> None:
    x, weight, mask, bias = BY_NAME["plain-3x3"].inputs(dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = F.conv2d(x, weight * mask, bias)
        assert masked_conv2d(x, weight, mask, bias).dtype == dense.dtype


@pytest.mark.parametrize("shape", EDGE_SHAPES, ids=lambda shape: shape.name)
def test_flop_counter_counts_the_dense_convolution(shape: ConvShape) -> None:
    x, weight, mask, bias = shape.inputs()

    def count(operator: Callable[..., Tensor]) -> tuple[int, int]:
        """FLOPs of the forward pass, and of forward and backward together."""
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        with FlopCounterMode(display=False) as counter:
            output = operator(*leaves, bias, **shape.keywords)
            forward = counter.get_total_flops()
            output.sum().backward()
        return forward, counter.get_total_flops()

    mine = count(
        lambda x, weight, *rest, **keywords: masked_conv2d(x, weight, mask, *rest, **keywords)
    )
    dense = count(F.conv2d)
    assert mine[0] == dense[0]
    assert mine[1] == 3 * mine[0], "each gradient takes as many multiplications as the forward pass"
    if shape.groups == 1:  # torch's own formula for the backward pass ignores groups
        assert mine[1] == dense[1]


def test_flop_counter_by_hand() -> None:
    x, weight = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    mask = torch.zeros(5, 3, 3, 3, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        masked_conv2d(x, weight, mask, padding=1)
    macs = 2 * 5 * 8 * 8 * 3 * 3 * 3
    assert counter.get_total_flops() == 2 * macs  # masks are data: a dense convolution is counted


@pytest.mark.parametrize("name", ["plain-3x3", "same", "groups-odd", "1x1-stride-2"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fake_tensors_give_the_real_shape_strides_and_dtype(name: str, channels_last: bool) -> None:
    shape = BY_NAME[name]
    x, weight, mask, bias = shape.inputs(channels_last=channels_last, dtype=torch.bfloat16)
    real = masked_conv2d(x, weight, mask, bias, **shape.keywords)
    fake_mode = torch._subclasses.FakeTensorMode()
    with fake_mode:
        fakes = [None if t is None else fake_mode.from_tensor(t) for t in (x, weight, mask, bias)]
        fake = masked_conv2d(*fakes, **shape.keywords)
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)
