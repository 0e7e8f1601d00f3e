"""nm_mask: n of every m neighbours along a dimension."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from supertickets_ext import nm_mask, reference
from tests.ext.cases import DTYPES

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("by_magnitude", [True, False])
@pytest.mark.parametrize("m", [1, 2, 4, 8, 16, 64, 80])
@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (5, 7), (2, 1, 3)], ids=str)
def test_convolutions_and_linear_layers(
    kernel: tuple[int, ...], m: int, by_magnitude: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(m)
    for values in (
        torch.randn(5, 3 * m, *kernel, generator=generator),
        torch.randint(-2, 3, (5, 3 * m, *kernel), generator=generator),
    ):
        weight = values.to(dtype)
        for n in {0, 1, m // 2, m}:
            mask = nm_mask(weight, n, m, by_magnitude=by_magnitude)
            expected = reference.nm_mask(weight, n, m, by_magnitude=by_magnitude)
            assert torch.equal(mask, expected)
            assert (mask.unflatten(1, (-1, m)).sum(2) == n).all()


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_any_dimension_and_layout(dim: int) -> None:
    weight = torch.randn(16, 24, 8, generator=torch.Generator().manual_seed(0))
    for laid in (weight, weight.transpose(0, 1).contiguous().transpose(0, 1), weight.flip(1)):
        assert torch.equal(nm_mask(laid, 2, 4, dim=dim), reference.nm_mask(laid, 2, 4, dim=dim))


@settings(deadline=None, derandomize=True)
@given(st.data())
def test_any_values(data: st.DataObject) -> None:
    m, inner = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, torch.inf, -torch.inf, torch.nan])
    flat = data.draw(st.lists(values, min_size=2 * m * inner, max_size=2 * m * inner))
    weight = torch.tensor(flat).to(data.draw(st.sampled_from(DTYPES))).reshape(2, m, inner)
    n, by_magnitude = data.draw(st.integers(0, m)), data.draw(st.booleans())
    mask = nm_mask(weight, n, m, by_magnitude=by_magnitude)
    assert torch.equal(mask, reference.nm_mask(weight, n, m, by_magnitude=by_magnitude))


def test_empty_and_vmap() -> None:
    assert nm_mask(torch.zeros(0, 8), 2, 4).shape == (0, 8)
    assert nm_mask(torch.zeros(8, 0), 2, 4).shape == (8, 0)
    weight = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))
    masks = torch.func.vmap(lambda w: nm_mask(w, 2, 4))(weight)
    assert torch.equal(masks, torch.stack([reference.nm_mask(w, 2, 4) for w in weight]))


def test_bad_arguments() -> None:
    weight = torch.ones(4, 6)
    for error, words, arguments in [
        (ValueError, "m must divide weight's size 6, got 4", (weight, 2, 4)),
        (ValueError, "n must be in .0, 3., got 4", (weight, 4, 3)),
        (ValueError, "dim must be in .-1, 0., got 1", (weight[0], 2, 3)),
        (TypeError, "weight must be float32", (weight.int(), 2, 3)),
    ]:
        with pytest.raises(error, match=f"^nm_mask: {words}"):
            nm_mask(*arguments)
