"""rigl_update_: pruned by weight, grown by gradient, in equal numbers."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from supertickets_ext import reference, rigl_update_
from tests.ext.cases import DTYPES

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, torch.inf, -torch.inf, torch.nan])

pytestmark = pytest.mark.usefixtures("backend")


def check(mask: Tensor, weight: Tensor, grad: Tensor, swaps: int) -> None:
    twin, before = mask.clone(), mask.clone()
    update = rigl_update_(mask, weight, grad, swaps)
    expected = reference.rigl_update_(twin, weight, grad, swaps)
    for value, right in zip(update, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(mask, twin)
    assert int((mask & ~before).sum()) == int((before & ~mask).sum()) == int(update.swaps) <= swaps


def test_by_hand() -> None:
    weight = torch.tensor([3.0, -1.0, 2.0, 9.0, 9.0])
    grad = torch.tensor([9.0, 9.0, 9.0, 1.0, -2.0])
    mask = torch.tensor([True, True, True, False, False])
    update = rigl_update_(mask, weight, grad, 1)
    assert mask.tolist() == [True, False, True, False, True]
    assert [value.item() for value in update] == [2.0, 2.0, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 65, 3000, 70_001])
def test_random(count: int, threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(count)
    weight, grad = torch.randn(2, count, generator=generator).to(dtype).unbind()
    for scores in (grad, (grad * 2).round()):
        for density in (0.0, 0.1, 0.6, 1.0):
            for swaps in (0, 1, count // 50, count):
                check(torch.rand(count, generator=generator) < density, weight, scores, swaps)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), VALUES, VALUES), max_size=40), st.integers(0, 12))
def test_any_values(entries: list[tuple[bool, float, float]], swaps: int) -> None:
    mask = torch.tensor([entry[0] for entry in entries], dtype=torch.bool)
    weight, grad = (torch.tensor([entry[i] for entry in entries]).float() for i in (1, 2))
    check(mask, weight, grad, swaps)


def test_strided() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, grad = torch.randn(2, 40, 30, generator=generator).unbind()
    mask = torch.rand(40, 30, generator=generator) < 0.3
    check(mask.t(), weight.t(), grad.reshape(30, 40), 50)


def test_bad_arguments() -> None:
    mask, weight = torch.zeros(3, dtype=torch.bool), torch.ones(3)
    with pytest.raises(ValueError, match=r"^rigl_update_: grad must have weight's shape \(3,\)"):
        rigl_update_(mask, weight, torch.ones(4), 1)
    with pytest.raises(TypeError, match=r"^rigl_update_: all scores must have the same dtype"):
        rigl_update_(mask, weight, weight.double(), 1)
    with pytest.raises(ValueError, match=r"^rigl_update_: swaps must not be negative, got -1"):
        rigl_update_(mask, weight, weight, -1)
