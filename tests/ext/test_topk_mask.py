"""topk_mask and global_topk_mask: exact count, tie rule, special values, layouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from supertickets_ext import global_topk_mask, reference, topk_mask
from tests.ext.cases import DTYPES

NAN, INF = torch.nan, torch.inf
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

pytestmark = pytest.mark.usefixtures("backend")


def ones(mask: Tensor) -> list[int]:
    """Flat indices of the ones."""
    return mask.flatten().nonzero().flatten().tolist()


@dtypes
def test_by_hand(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.5, -3.0, 2.0, 3.0, -0.5, 1.0], dtype=dtype)
    assert ones(topk_mask(scores, 3)) == [1, 2, 3]
    assert ones(topk_mask(scores, 3, by_magnitude=False)) == [2, 3, 5]
    assert ones(topk_mask(scores, 0)) == []
    assert ones(topk_mask(scores, 6)) == [0, 1, 2, 3, 4, 5]
    assert topk_mask(scores, 3).dtype == torch.bool


@dtypes
def test_ties_go_to_the_lowest_index(dtype: torch.dtype) -> None:
    assert ones(topk_mask(torch.ones(100_003, dtype=dtype), 70_001)) == list(range(70_001))
    scores = torch.tensor([1.0, -2.0, 2.0, 1.0, -1.0, 2.0], dtype=dtype)
    assert ones(topk_mask(scores, 2)) == [1, 2]
    assert ones(topk_mask(scores, 4)) == [0, 1, 2, 5]
    assert ones(topk_mask(scores, 4, by_magnitude=False)) == [0, 2, 3, 5]


@dtypes
def test_nan_ranks_lowest_and_infinity_highest(dtype: torch.dtype) -> None:
    scores = torch.tensor([NAN, 0.0, -INF, NAN, INF, 1.0], dtype=dtype)
    for keep, expected in enumerate([[], [2], [2, 4], [2, 4, 5], [1, 2, 4, 5], [0, 1, 2, 4, 5]]):
        assert ones(topk_mask(scores, keep)) == expected
    signed = [[], [4], [4, 5], [1, 4, 5], [1, 2, 4, 5], [0, 1, 2, 4, 5]]
    for keep, expected in enumerate(signed):
        assert ones(topk_mask(scores, keep, by_magnitude=False)) == expected


@dtypes
@pytest.mark.parametrize("by_magnitude", [True, False])
def test_negative_and_odd_nan_rank_like_any_nan(dtype: torch.dtype, by_magnitude: bool) -> None:
    nans = torch.tensor([NAN, -NAN, 0.0, -INF], dtype=dtype)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[nans.element_size()]
    nans.view(bits)[0] |= 1  # another payload
    assert ones(topk_mask(nans, 2, by_magnitude=by_magnitude)) == [2, 3]
    assert ones(topk_mask(nans, 3, by_magnitude=by_magnitude)) == [0, 2, 3]


@dtypes
def test_negative_zero_equals_zero(dtype: torch.dtype) -> None:
    scores = torch.tensor([-0.0, 0.0, -0.0, 0.0], dtype=dtype)
    for by_magnitude in (True, False):
        assert ones(topk_mask(scores, 1, by_magnitude=by_magnitude)) == [0]
        assert ones(topk_mask(scores.neg(), 3, by_magnitude=by_magnitude)) == [0, 1, 2]


@dtypes
def test_denormals_are_not_flushed(dtype: torch.dtype) -> None:
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    scores = torch.tensor([0.0, 1.0, 3.0, -2.0], dtype=torch.float64).mul(smallest).to(dtype)
    assert scores.count_nonzero() == 3
    assert ones(topk_mask(scores, 1)) == [2]
    assert ones(topk_mask(scores, 2)) == [2, 3]
    assert ones(topk_mask(scores, 3, by_magnitude=False)) == [0, 1, 2]


@dtypes
@pytest.mark.parametrize("by_magnitude", [True, False])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, 65_537, 300_001])
def test_random_scores(count: int, by_magnitude: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    scores = torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)
    for keep in sorted({0, 1, count // 10, count // 2, count - 1, count}):
        expected = reference.topk_mask(scores, keep, by_magnitude=by_magnitude)
        assert torch.equal(topk_mask(scores, keep, by_magnitude=by_magnitude), expected)


def adversarial(name: str, count: int) -> Tensor:
    """Scores that defeat a sampled pivot: sorted, clustered, few values, one outlier."""
    ramp = torch.arange(count, dtype=torch.float32)
    return {
        "ascending": ramp,
        "descending": -ramp + count,
        "two-values": (ramp % 3 == 0).float(),
        "cluster": 1 + ramp.fmod(7) * torch.finfo(torch.float32).eps,
        "outlier": torch.where(ramp == count // 2, 1e30, 1e-30),
        "mostly-zero": torch.where(ramp % 1000 == 7, ramp, 0.0),
        "mostly-nan": torch.where(ramp % 1000 == 7, ramp, NAN),
        "sample-stride": torch.where(ramp % 64 == 0, ramp, -0.5),
        "exponents": torch.exp2(ramp.fmod(200) - 100),
    }[name]


@pytest.mark.parametrize("by_magnitude", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "ascending", "descending", "two-values", "cluster", "outlier",
        "mostly-zero", "mostly-nan", "sample-stride", "exponents",
    ],
)  # fmt: skip
def test_adversarial_scores(name: str, by_magnitude: bool) -> None:
    scores = adversarial(name, 200_003)
    for keep in (1, 200, 201, 3125, 66_668, 100_000, 200_002):
        expected = reference.topk_mask(scores, keep, by_magnitude=by_magnitude)
        assert torch.equal(topk_mask(scores, keep, by_magnitude=by_magnitude), expected)


@dtypes
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1, 1), (5, 7, 3)], ids=str)
def test_shapes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for keep in {0, scores.numel() // 2, scores.numel()}:
        mask = topk_mask(scores, keep)
        assert mask.shape == scores.shape
        assert int(mask.sum()) == keep
        assert torch.equal(mask, reference.topk_mask(scores, keep))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(0, 1),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: t[:, ::2],
    "expanded": lambda t: t[:1].expand_as(t),
    "offset": lambda t: t.flatten()[1:],
    "permuted": lambda t: t.permute(3, 1, 0, 2),
}


@dtypes
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_strided_scores_rank_by_logical_index(
    view: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = view(torch.randint(-3, 4, (6, 8, 3, 5), generator=generator).to(dtype))  # many ties
    for keep in (1, scores.numel() // 3, scores.numel() - 1):
        assert torch.equal(topk_mask(scores, keep), reference.topk_mask(scores, keep))
        for dim in range(scores.dim()):
            size = min(keep, scores.shape[dim] - 1)
            expected = reference.topk_mask(scores, size, dim=dim)
            assert torch.equal(topk_mask(scores, size, dim=dim), expected)


@dtypes
@pytest.mark.parametrize("by_magnitude", [True, False])
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_dim(dim: int, by_magnitude: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(9, 33, 70, generator=generator).to(dtype)
    for keep in (0, 1, scores.shape[dim] // 2, scores.shape[dim]):
        mask = topk_mask(scores, keep, by_magnitude=by_magnitude, dim=dim)
        assert torch.equal(
            mask, reference.topk_mask(scores, keep, by_magnitude=by_magnitude, dim=dim)
        )
        assert (mask.sum(dim) == keep).all()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("dim", [0, 1])
def test_dim_of_empty_scores(shape: tuple[int, int], dim: int) -> None:
    mask = topk_mask(torch.zeros(shape), 0, dim=dim)
    assert mask.shape == shape


def test_scores_are_left_alone_and_the_mask_has_no_gradient() -> None:
    scores = torch.randn(100, generator=torch.Generator().manual_seed(3), requires_grad=True)
    before = scores.detach().clone()
    mask = topk_mask(scores, 10)
    assert not mask.requires_grad
    assert torch.equal(scores, before)


def test_vmap_ranks_each_batch_entry() -> None:
    scores = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(4))
    masks = torch.func.vmap(lambda s: topk_mask(s, 4))(scores)
    assert torch.equal(masks, torch.stack([reference.topk_mask(s, 4) for s in scores]))
    masks = torch.func.vmap(lambda s: topk_mask(s, 2, dim=0), in_dims=1, out_dims=1)(scores)
    expected = [reference.topk_mask(s, 2, dim=0) for s in scores.unbind(1)]
    assert torch.equal(masks, torch.stack(expected, dim=1))


@dtypes
@pytest.mark.parametrize("by_magnitude", [True, False])
def test_global(dtype: torch.dtype, by_magnitude: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    shapes = [(16, 3, 3, 3), (0, 4), (), (1000,), (7, 11), (64, 32, 3, 3)]
    scores = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    total = sum(s.numel() for s in scores)
    for keep in (0, 1, total // 20, total // 2, total):
        masks = global_topk_mask(scores, keep, by_magnitude=by_magnitude)
        expected = reference.global_topk_mask(scores, keep, by_magnitude=by_magnitude)
        assert sum(int(mask.sum()) for mask in masks) == keep
        for mask, twin in zip(masks, expected, strict=True):
            assert torch.equal(mask, twin)


def test_global_ties_go_to_the_earlier_tensor() -> None:
    masks = global_topk_mask([torch.ones(4), torch.full((3,), -1.0), torch.ones(5)], 6)
    assert [ones(mask) for mask in masks] == [[0, 1, 2, 3], [0, 1], []]


def test_global_of_strided_tensors() -> None:
    generator = torch.Generator().manual_seed(6)
    scores = [
        torch.randn(8, 6, generator=generator).t(),
        torch.randn(4, 4, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last),
        torch.randn(20, generator=generator)[::2],
    ]
    expected = reference.global_topk_mask(scores, 77)
    for mask, twin in zip(global_topk_mask(scores, 77), expected, strict=True):
        assert torch.equal(mask, twin)


def test_global_of_one_tensor_is_topk_mask() -> None:
    scores = torch.randn(999, generator=torch.Generator().manual_seed(7))
    (mask,) = global_topk_mask([scores], 123)
    assert torch.equal(mask, topk_mask(scores, 123))
