"""The comparer itself: it passes torch's own convolution and fails on small faults."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.shapes import EDGE_SHAPES
from supertickets_ext import reference
from tests.ext.cases import (
    DTYPES,
    assert_within,
    cotangent_for,
    exact_and_bound,
    forward_and_gradients,
)

SHAPE = EDGE_SHAPES[0]
SMALL = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.0, torch.float16: 0.0}


def test_bound_accepts_torch_in_float32() -> None:
    inputs = SHAPE.inputs()
    cotangent = cotangent_for(SHAPE, inputs)
    actual = forward_and_gradients(reference.masked_conv2d, SHAPE, inputs, cotangent)
    assert_within(actual, *exact_and_bound(SHAPE, inputs, cotangent))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["output", "x", "weight", "bias"])
def test_bound_refuses_a_small_error(name: str, dtype: torch.dtype) -> None:
    inputs = SHAPE.inputs(dtype=dtype)
    cotangent = cotangent_for(SHAPE, inputs)
    exact, bound = exact_and_bound(SHAPE, inputs, cotangent)
    wrong = {key: value.clone() for key, value in exact.items()}
    largest = int(wrong[name].abs().argmax())
    wrong[name].view(-1)[largest] *= 1 + max(4 * torch.finfo(dtype).eps, SMALL[dtype])
    with pytest.raises(AssertionError, match=f"{name}: 1 of"):
        assert_within(wrong, exact, bound)


def test_bound_refuses_nan_and_values_outside_the_mask() -> None:
    inputs = SHAPE.inputs()
    cotangent = cotangent_for(SHAPE, inputs)
    exact, bound = exact_and_bound(SHAPE, inputs, cotangent)
    pruned = int((~inputs.mask).flatten().nonzero()[0])

    def spoiled(value: float) -> dict[str, Tensor]:
        wrong = {key: tensor.clone() for key, tensor in exact.items()}
        wrong["weight"].view(-1)[pruned] = value
        return wrong

    for value in (torch.nan, 1e-30):
        with pytest.raises(AssertionError, match="weight: 1 of"):
            assert_within(spoiled(value), exact, bound)
