"""What only a GPU can show: public functions on CUDA tensors, streams, graphs, determinism."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import supertickets_ext as ext
from benchmarks.shapes import EDGE_SHAPES, ConvInputs, ConvShape
from supertickets_ext import masked_conv2d, topk_mask
from supertickets_ext._library import has_cuda_kernel
from supertickets_ext.nn import MaskedConv2d
from tests.ext.cases import (
    assert_within,
    cotangent_for,
    exact_and_bound,
    forward_and_gradients,
    in_lanes,
)
from tests.ext.jacobian_nets import NETS, build, close

pytestmark = pytest.mark.gpu
BY_NAME = {shape.name: shape for shape in EDGE_SHAPES}
OPERATORS = (
    "count_patterns",
    "from_lanes",
    "global_topk_mask",
    "global_update_topk_mask_",
    "hamming_gram",
    "jacobian_conv2d_rows",
    "jacobian_gram_",
    "masked_conv2d",
    "masked_conv2d_grad_input",
    "masked_conv2d_grad_weight",
    "masked_conv2d_pack",
    "masked_conv2d_packed",
    "masked_weight",
    "masked_weight_grad",
    "nm_mask",
    "pack_mask",
    "pack_signs_",
    "region_patterns",
    "rigl_update_",
    "to_lanes",
    "topk_mask",
    "unpack_mask",
    "update_topk_mask_",
    "update_topk_masks_",
)


@pytest.fixture(autouse=True)
def _on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    monkeypatch.setenv("SUPERTICKETS_ROUTE_CACHE", "")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on_card(inputs: ConvInputs) -> ConvInputs:
    return ConvInputs(*(None if t is None else t.cuda() for t in inputs))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_in_the_build(name: str) -> None:
    assert has_cuda_kernel(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("shape", EDGE_SHAPES, ids=lambda shape: shape.name)
def test_masked_conv2d(shape: ConvShape, channels_last: bool, dtype: torch.dtype) -> None:
    inputs = shape.inputs(dtype=dtype, channels_last=channels_last)
    cotangent = cotangent_for(shape, inputs)
    expected = exact_and_bound(shape, inputs, cotangent)
    for function in (masked_conv2d, in_lanes):
        actual = forward_and_gradients(function, shape, on_card(inputs), cotangent.cuda())
        assert_within({name: value.cpu() for name, value in actual.items()}, *expected)


@pytest.mark.parametrize("training", [False, True])
def test_routes_are_measured_on_the_card(training: bool) -> None:
    layer = MaskedConv2d(16, 32, 3, padding=1).cuda()
    layer.mask.copy_(torch.rand_like(layer.weight) < 0.1)
    x = torch.randn(4, 16, 14, 14, device="cuda")
    (row,) = ext.explain(layer, x, training=training).rows
    assert set(row.route.times_us) >= {"dense", "sparse"}
    expected = nn.functional.conv2d(x, layer.weight * layer.mask, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_a_captured_graph_follows_masks_and_weights() -> None:
    x = torch.randn(4, 8, 9, 9, device="cuda")
    weight, scores = (torch.randn(6, 8, 3, 3, device="cuda") for _ in range(2))
    mask = topk_mask(scores, 100)

    def step() -> Tensor:
        torch.ops.supertickets.update_topk_mask_(mask, scores, 100, None, None, True, None)
        with torch.no_grad():
            return masked_conv2d(x, weight, mask, padding=1)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # type: ignore[no-untyped-call]
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    for seed in range(3):
        generator = torch.Generator("cuda").manual_seed(seed)
        for tensor in (x, weight, scores):
            tensor.normal_(generator=generator)
        graph.replay()
        assert torch.equal(mask, topk_mask(scores, 100))
        expected = nn.functional.conv2d(x, weight * mask, padding=1)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_runs_repeat_bit_for_bit() -> None:
    shape = BY_NAME["batch-17"]
    inputs = on_card(shape.inputs())
    cotangent = cotangent_for(shape, shape.inputs()).cuda()
    torch.use_deterministic_algorithms(True)
    try:
        runs = [forward_and_gradients(masked_conv2d, shape, inputs, cotangent) for _ in range(5)]
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(run[name], value) for name, value in runs[0].items())


def test_the_current_stream_is_used() -> None:
    inputs = on_card(BY_NAME["batch-17"].inputs())
    x = torch.empty_like(inputs.x)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # type: ignore[no-untyped-call]
        torch.cuda._sleep(10_000_000)  # type: ignore[no-untyped-call]
        x.copy_(inputs.x)
        y = masked_conv2d(x, inputs.weight, inputs.mask, inputs.bias, padding=1)
    stream.synchronize()
    assert torch.equal(y, masked_conv2d(*inputs, padding=1))


@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("name", NETS)
def test_gram_matrices(name: str, mode: str) -> None:
    net, x = build(name)
    expected = ext.reference.ntk_gram(net, x, mode=mode)
    gram = ext.ntk_gram(net.cuda(), x.cuda(), mode=mode)
    assert gram.is_cuda
    close(gram.cpu(), expected)


def test_maps_beyond_32_bit_offsets() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 24 << 30:
        pytest.skip("needs 24 GiB of free memory")
    x = torch.zeros(2, 40, 6000, 6000, dtype=torch.float16, device="cuda")  # 2.9e9 numbers
    x[-1, -1, -1, -1] = 3
    weight = torch.full((1, 40, 1, 1), 2.0, dtype=torch.float16, device="cuda")
    y = masked_conv2d(x, weight, torch.ones_like(weight, dtype=torch.bool))
    assert y[-1, 0, -1, -1] == 6
    assert y.count_nonzero() == 1
