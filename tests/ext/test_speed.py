"""Guards: where the kernels are several times faster than torch, they must never be slower.

Where the dispatcher leaves a layer to torch, it must not cost time either.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.harness import compare
from benchmarks.shapes import NETWORK_SHAPES, RESNET50_3X3, ConvShape
from supertickets_ext import _C, masked_conv2d, topk_mask
from supertickets_ext.nn import MaskedConv2d, SparseConv2d
from supertickets_ext.sparsify import sparsify

ROUNDS = 11
ATTEMPTS = 4  # a busy machine may spoil one comparison, hardly all of them
LAYER = RESNET50_3X3[2]

Call = Callable[[], object]


@pytest.fixture(autouse=True)
def _one_thread_and_vectors() -> None:
    if _C.facts()["instruction_set"] == "baseline":
        pytest.skip("without vector instructions nothing is promised")
    torch.set_num_threads(1)  # two contenders with several threads disturb each other


def assert_not_slower(benchmark: Any, ours: Call, theirs: Call, least: float = 1.0) -> None:
    """Compare medians of alternating samples; most guards expect a factor of 3 and ask for 1."""
    speedup = 0.0
    for _ in range(ATTEMPTS):
        timing = compare({"ours": ours, "theirs": theirs}, repeats=ROUNDS)
        speedup = max(speedup, timing["theirs"].median_us / timing["ours"].median_us)
        if speedup >= least:
            break
    benchmark.extra_info["speedup"] = speedup
    benchmark.pedantic(ours, rounds=ROUNDS, warmup_rounds=1)
    assert speedup >= least, f"{1 / speedup:.2f} times as slow as torch"


def dense_call(shape: ConvShape, x: torch.Tensor, weight: torch.Tensor) -> Call:
    last = weight.contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, last, **shape.keywords)


@torch.inference_mode()
def test_conv2d_of_a_batch(benchmark: Any) -> None:
    shape = replace(LAYER, batch=32)
    x, weight, mask, _ = shape.inputs(density=0.1, channels_last=True)
    assert_not_slower(
        benchmark,
        lambda: masked_conv2d(x, weight, mask, **shape.keywords),
        dense_call(shape, x, weight * mask),
    )


@torch.inference_mode()
def test_sparse_conv2d_of_one_image(benchmark: Any) -> None:
    x, weight, mask, _ = LAYER.inputs(density=0.1)
    sizes = (LAYER.channels, LAYER.outputs, LAYER.kernel)
    conv = nn.utils.skip_init(nn.Conv2d, *sizes, bias=False, **LAYER.keywords)
    conv.weight = nn.Parameter(weight)
    layer = SparseConv2d.from_dense(conv, mask)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_not_slower(benchmark, lambda: layer(x), dense_call(LAYER, last, weight * mask))


# The dispatcher takes a route that measured 5 % faster than dense, or dense: so the ratio is 1 or
# more, less the noise of two measurements on a machine that is not idle.
LEAST_ROUTED = 0.85
SMALL = [s for s in NETWORK_SHAPES if s.name in ("resnet20-stage3", "resnet50-c4-1x1")]


@pytest.mark.parametrize("density", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
@torch.no_grad()
def test_a_layer_of_any_density_by_its_route(
    benchmark: Any, shape: ConvShape, density: float
) -> None:
    x, _, mask, _ = shape.inputs(density=density, channels_last=True)
    dense = nn.Conv2d(shape.channels, shape.outputs, shape.kernel, bias=False, **shape.keywords)
    dense.weight.mul_(mask)
    dense = dense.to(memory_format=torch.channels_last)
    layer = MaskedConv2d.from_dense(copy.deepcopy(dense), mask).eval()
    assert_not_slower(benchmark, lambda: layer(x), lambda: dense(x), LEAST_ROUTED)


@pytest.mark.parametrize("density", [0.9, 0.1])
@torch.no_grad()
def test_a_sparsified_network(benchmark: Any, density: float) -> None:
    torch.manual_seed(0)
    widths = (3, 32, 64, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    dense = nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)
    for conv in dense[::3]:
        conv.weight.mul_(torch.rand(conv.weight.shape) < density)
    x = torch.randn(1, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    sparse = sparsify(dense, x, verbose=False)
    assert_not_slower(benchmark, lambda: sparse(x), lambda: dense(x), LEAST_ROUTED)


def test_topk_mask(benchmark: Any) -> None:
    scores = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    keep = len(scores) // 10

    def by_torch() -> torch.Tensor:
        kept = scores.abs().topk(keep, sorted=False).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, kept, True)

    assert torch.equal(topk_mask(scores, keep), by_torch())
    assert_not_slower(benchmark, lambda: topk_mask(scores, keep), by_torch)
