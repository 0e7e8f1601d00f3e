"""The dense route's kernels, which only CUDA has: values, gradients, memory orders, messages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from supertickets_ext import _masked_weight as masked_weight
from supertickets_ext import pack_mask
from tests.ext.cases import DTYPES

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(autouse=True)
def _not_on_the_cpu(backend: str) -> None:
    if backend == "cpu":
        pytest.skip("the dense route of the CPU is made of torch's operators")


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Weight, mask, and a gradient; pruned weights and gradients may be infinite."""
    generator = torch.Generator().manual_seed(0)
    weight, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    mask = torch.rand(shape, generator=generator) < 0.3
    return weight.masked_fill(~mask & (weight > 1), torch.inf), mask, grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 2048, 2049, 5001])
def test_values(count: int, dtype: torch.dtype) -> None:
    weight, mask, grad = draw((count,), dtype)
    weight = weight.nan_to_num(posinf=3)
    bits = pack_mask(mask)
    for form in (mask, bits):
        assert torch.equal(masked_weight._ops.masked_weight(weight, form), weight.where(mask, 0))
        both = masked_weight._ops.masked_weight_grad(grad, weight, form, True, True)
        assert torch.equal(both[0], grad.where(mask, 0))
        assert torch.equal(both[1], grad * weight)  # one rounding each
        for wanted in (True, False):
            one = masked_weight._ops.masked_weight_grad(grad, weight, form, wanted, not wanted)
            assert one[0].shape == (grad.shape if wanted else (0,))
            assert torch.equal(one[0 if wanted else 1], both[0 if wanted else 1])


@pytest.mark.parametrize("of_mask", [False, True], ids=["mask-nchw", "mask-channels_last"])
@pytest.mark.parametrize("of_weight", [False, True], ids=["nchw", "channels_last"])
def test_memory_orders(of_weight: bool, of_mask: bool) -> None:
    weight, mask, grad = draw((5, 6, 3, 2))
    last, first = torch.channels_last, torch.contiguous_format
    weight = weight.contiguous(memory_format=last if of_weight else first)
    mask = mask.contiguous(memory_format=last if of_mask else first)
    kept = masked_weight.apply_masked_weight(weight, mask, None)
    assert torch.equal(kept, weight.where(mask, 0))
    assert kept.stride() == weight.stride()
    own, scores = masked_weight._ops.masked_weight_grad(grad, weight, mask, True, True)
    assert torch.equal(own, grad.where(mask, 0))
    torch.testing.assert_close(scores, grad * weight, rtol=0, atol=0, equal_nan=True)


def test_unaligned_views() -> None:
    weight, mask, _ = draw((1003,))
    for start in range(1, 9):
        kept = masked_weight._ops.masked_weight(weight[start:], mask[start:])
        assert torch.equal(kept, weight[start:].where(mask[start:], 0))


def test_gradients_of_both_orders() -> None:
    weight, mask, _ = draw((3, 4), torch.float64)
    leaves = (weight.nan_to_num(posinf=2).requires_grad_(), torch.ones_like(weight))
    scores = leaves[1].requires_grad_()

    def kept(weight: Tensor) -> Tensor:
        return masked_weight.apply_masked_weight(weight, mask, None)

    assert torch.autograd.gradcheck(kept, leaves[:1])
    assert torch.autograd.gradgradcheck(kept, leaves[:1])
    out = masked_weight.apply_masked_weight(leaves[0], mask, scores)
    to_weight, to_scores = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    dense = 2 * leaves[0] * mask
    torch.testing.assert_close(to_weight, dense, rtol=0, atol=0)
    torch.testing.assert_close(to_scores, dense * leaves[0], rtol=0, atol=0)
    (second,) = torch.autograd.grad(to_scores.sum(), leaves[:1])
    torch.testing.assert_close(second, 4 * leaves[0] * mask)  # of 2 m w w


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(5, dtype=torch.bool), r"shape \(6,\), or \(1,\) as uint8, got \(5,\)"),
        (torch.ones(2, dtype=torch.uint8), r"got \(2,\)"),
        (torch.ones(6), "bool, or the uint8"),
    ],
)
def test_bad_masks(mask: Tensor, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        masked_weight._ops.masked_weight(torch.ones(6), mask)
