"""Results do not depend on the thread count, and every instruction set gives a sound result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import supertickets_ext
from benchmarks.shapes import EDGE_SHAPES, NETWORK_SHAPES, ConvInputs, ConvShape
from supertickets_ext import (
    global_topk_mask,
    global_update_topk_mask_,
    masked_conv2d,
    nm_mask,
    pack_mask,
    rigl_update_,
    topk_mask,
    update_topk_mask_,
)
from tests.ext.cases import (
    DTYPES,
    ConvFunction,
    cotangent_for,
    forward_and_gradients,
    in_lanes,
    packed_convolution,
)

ROOT = Path(__file__).resolve().parents[2]
THREADED_SHAPES = (*NETWORK_SHAPES, *(s for s in EDGE_SHAPES if s.name in {"batch-17", "groups-2"}))
BATCHED_SHAPES = (
    ConvShape("3x3", 33, 37, 41, (9, 10), padding=1),
    ConvShape("1x1", 33, 70, 35, (7, 5), kernel=(1, 1)),
    ConvShape("strided", 18, 8, 24, (15, 17), stride=2, padding=1),
    ConvShape("depthwise", 18, 40, 40, (7, 7), padding=1, groups=40),
)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("shape", THREADED_SHAPES, ids=lambda shape: shape.name)
def test_convolution_is_the_same_on_one_and_two_threads(
    shape: ConvShape, channels_last: bool
) -> None:
    check_threads(shape, shape.inputs(density=0.2, channels_last=channels_last), masked_conv2d)


def check_threads(shape: ConvShape, inputs: ConvInputs, function: ConvFunction) -> None:
    """Compare forward and all gradients of 1, 2 and 3 threads bit for bit."""
    cotangent = cotangent_for(shape, inputs)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(forward_and_gradients(function, shape, inputs, cotangent))
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "lanes"])
@pytest.mark.parametrize("shape", BATCHED_SHAPES, ids=lambda shape: shape.name)
def test_convolution_of_many_images_is_the_same_on_every_number_of_threads(
    shape: ConvShape, layout: str, dtype: torch.dtype
) -> None:
    inputs = shape.inputs(density=0.2, dtype=dtype, channels_last=layout == "channels_last")
    check_threads(shape, inputs, in_lanes if layout == "lanes" else masked_conv2d)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "lanes"])
@pytest.mark.parametrize("shape", BATCHED_SHAPES, ids=lambda shape: shape.name)
def test_packed_convolution_is_the_same_on_every_number_of_threads(
    shape: ConvShape, layout: str
) -> None:
    inputs = shape.inputs(density=0.2)
    residual = cotangent_for(shape, inputs)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(packed_convolution(shape, inputs, layout, residual, relu=True))
    assert all(torch.equal(y, results[0]) for y in results[1:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_are_the_same_on_one_and_two_threads(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, 2001, generator=generator).to(dtype)
    scores.view(-1)[::7] = 0.5  # ties that straddle the threads
    start = torch.rand(scores.shape, generator=generator) < 0.3

    def masks(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        results = [topk_mask(scores, 5, dim=1), *global_topk_mask([scores, scores.t()], 900_000)]
        for keep in (1, 80_000, 400_000):
            results.append(topk_mask(scores, keep))
            for max_swaps in (None, 1234):
                mask = start.clone()
                results += [*update_topk_mask_(mask, scores, keep, max_swaps=max_swaps), mask]
        mask = start.clone()
        results += [*rigl_update_(mask, scores, scores.flip(0), 12_345), mask, pack_mask(mask)]
        masks = [start[:150].clone(), start[150:].clone()]
        parts = [scores[:150], scores[150:]]
        results += [*global_update_topk_mask_(masks, parts, 90_000, max_swaps=999), *masks]
        results.append(nm_mask(scores[:, :2000], 2, 4))
        return results

    expected = masks(1)
    for threads in (2, 3):
        for value, single in zip(masks(threads), expected, strict=True):
            assert torch.equal(value, single)


def test_repeated_calls_give_the_same_bits() -> None:
    shape = NETWORK_SHAPES[1]
    inputs = shape.inputs()
    cotangent = cotangent_for(shape, inputs)
    first = forward_and_gradients(masked_conv2d, shape, inputs, cotangent)
    for _ in range(5):
        again = forward_and_gradients(masked_conv2d, shape, inputs, cotangent)
        assert all(torch.equal(again[name], value) for name, value in first.items())


def run_with_isa(isa: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SUPERTICKETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_passes_the_operator_tests(isa: str) -> None:
    available = supertickets_ext._C.facts()["usable_instruction_sets"]
    if isa not in available:
        pytest.skip(f"this machine has {', '.join(available)} only")
    if isa == supertickets_ext._C.facts()["instruction_set"]:
        pytest.skip("every other test runs on it")
    files = [
        "test_masked_conv2d.py",
        "test_packed.py",
        "test_topk_mask.py",
        "test_update_topk_mask.py",
        "test_mask_lists.py",
        "test_rigl_update.py",
        "test_nm_mask.py",
        "test_pack_mask.py",
    ]
    tests = [str(ROOT / "tests" / "ext" / name) for name in files]
    less = ["-k", "not route and not strided and not refused and not test_masks"]
    done = run_with_isa(isa, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *less, *tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_the_forced_instruction_set_is_the_one_in_use(isa: str) -> None:
    if isa not in supertickets_ext._C.facts()["usable_instruction_sets"]:
        pytest.skip(f"this machine lacks {isa}")
    code = "import supertickets_ext; print(supertickets_ext._C.facts()['instruction_set'])"
    assert run_with_isa(isa, "-c", code).stdout.strip() == isa


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    code = "import torch, supertickets_ext as s; s.topk_mask(torch.ones(3), 1)"
    done = run_with_isa("sse9", "-c", code)
    assert done.returncode != 0
    assert "SUPERTICKETS_ISA" in done.stderr
    assert "sse9" in done.stderr
