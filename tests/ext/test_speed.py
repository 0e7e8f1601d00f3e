"""Guards: where the kernels are several times faster than torch, they must never be slower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.harness import compare
from benchmarks.shapes import RESNET50_3X3, ConvShape
from supertickets_ext import _C, masked_conv2d, topk_mask
from supertickets_ext.nn import SparseConv2d

ROUNDS = 11
ATTEMPTS = 4  # a busy machine may spoil one comparison, hardly all of them
LAYER = RESNET50_3X3[2]

Call = Callable[[], object]


@pytest.fixture(autouse=True)
def _one_thread_and_vectors() -> None:
    if _C.facts()["instruction_set"] == "baseline":
        pytest.skip("without vector instructions nothing is promised")
    torch.set_num_threads(1)  # two contenders with several threads disturb each other


def assert_not_slower(benchmark: Any, ours: Call, theirs: Call) -> None:
    """Compare medians of alternating samples; each guard expects a factor of 3 and asks for 1."""
    speedup = 0.0
    for _ in range(ATTEMPTS):
        timing = compare({"ours": ours, "theirs": theirs}, repeats=ROUNDS)
        speedup = max(speedup, timing["theirs"].median_us / timing["ours"].median_us)
        if speedup >= 1:
            break
    benchmark.extra_info["speedup"] = speedup
    benchmark.pedantic(ours, rounds=ROUNDS, warmup_rounds=1)
    assert speedup >= 1, f"{1 / speedup:.2f} times as slow as torch"


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


def test_topk_mask(benchmark: Any) -> None:
    scores = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    keep = len(scores) // 10

    def by_torch() -> torch.Tensor:
        kept = scores.abs().topk(keep, sorted=False).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, kept, True)

    assert torch.equal(topk_mask(scores, keep), by_torch())
    assert_not_slower(benchmark, lambda: topk_mask(scores, keep), by_torch)
