"""update_topk_mask_: threshold, counts, bounded swaps."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from supertickets_ext import MaskUpdate, reference, topk_mask, update_topk_mask_
from tests.ext.cases import DTYPES

INF, NAN = math.inf, math.nan
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

pytestmark = pytest.mark.usefixtures("backend")


def random_mask(shape: tuple[int, ...], density: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def assert_same(mine: MaskUpdate, twin: MaskUpdate) -> None:
    for name, value, expected in zip(MaskUpdate._fields, mine, twin, strict=True):
        assert value.shape == (), name
        assert value.dtype == expected.dtype, name
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True, msg=name)


def test_by_hand() -> None:
    scores = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0, 0.0])
    mask = torch.tensor([False, False, True, True, True, True])
    update = update_topk_mask_(mask, scores, 4)
    assert mask.tolist() == [True, True, True, True, False, False]
    assert update.threshold.item() == 2.0
    assert (update.grown.item(), update.pruned.item()) == (2, 2)
    again = update_topk_mask_(mask, scores, 4)
    assert (again.grown.item(), again.pruned.item()) == (0, 0)


def test_bounded_swaps_by_hand() -> None:
    scores = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0, 0.0])
    mask = torch.tensor([False, False, True, True, True, True])
    update = update_topk_mask_(mask, scores, 4, max_swaps=1)
    assert mask.tolist() == [True, False, True, True, True, False]  # best in, worst out
    assert update.threshold.item() == 2.0  # of the exact top-k, which this call did not reach
    assert (update.grown.item(), update.pruned.item()) == (1, 1)


@pytest.mark.parametrize(("keep", "expected"), [(2, [0]), (4, [0, 1, 2]), (5, [0, 1, 2, 3])])
def test_a_change_of_size_is_carried_out_in_full(keep: int, expected: list[int]) -> None:
    scores = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    mask = torch.tensor([False, False, False, True, True, True])
    update = update_topk_mask_(mask, scores, keep, max_swaps=0)
    assert int(mask.sum()) == keep
    assert int(update.grown - update.pruned) == keep - 3
    twin = torch.tensor([False, False, False, True, True, True])
    assert_same(update, reference.update_topk_mask_(twin, scores, keep, max_swaps=0))
    assert torch.equal(mask, twin)


@dtypes
@pytest.mark.parametrize("by_magnitude", [True, False])
@pytest.mark.parametrize("max_swaps", [None, 0, 1, 100, 10**9])
@pytest.mark.parametrize("count", [1, 65, 4097, 20_011])
def test_random(count: int, max_swaps: int | None, by_magnitude: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    scores = torch.randn(count, generator=generator).to(dtype)
    keywords = {"max_swaps": max_swaps, "by_magnitude": by_magnitude}
    for density in (0.0, 0.3, 1.0):
        for keep in {0, count // 4, count // 3, count}:
            mask = random_mask((count,), density, seed=count)
            twin = mask.clone()
            update = update_topk_mask_(mask, scores, keep, **keywords)
            assert_same(update, reference.update_topk_mask_(twin, scores, keep, **keywords))
            assert torch.equal(mask, twin)


@dtypes
@pytest.mark.parametrize("steps", [0, 4096])  # of scores: none, or such that some are equal
@pytest.mark.parametrize("fraction", [None, 0.0, 0.3, 1.0])
def test_a_step_that_changes_little(fraction: float | None, steps: int, dtype: torch.dtype) -> None:
    count = 60_011
    generator = torch.Generator().manual_seed(steps)
    scores, noise = torch.randn(2, count, generator=generator).unbind()
    later = scores + 0.02 * noise
    if steps:
        scores, later = (scores * steps).round() / steps, (later * steps).round() / steps
    scores, later = scores.to(dtype), later.to(dtype)
    keep = count // 10
    mask = topk_mask(scores, keep)
    twin = mask.clone()
    for target, moved in ((later, keep), (scores, keep - 300), (later, keep + 40)):
        update = update_topk_mask_(mask, target, moved, max_swap_fraction=fraction)
        expected = reference.update_topk_mask_(twin, target, moved, max_swap_fraction=fraction)
        assert_same(update, expected)
        assert torch.equal(mask, twin)


def test_ties_nan_and_zero_signs() -> None:
    nan, inf = torch.nan, torch.inf
    scores = torch.tensor([nan, 0.0, -0.0, 1.0, -1.0, inf, nan, -inf, 1.0, 0.0])
    for keep in range(11):
        for max_swaps in (None, 0, 1, 2):
            for seed in range(8):
                mask = random_mask((10,), 0.5, seed)
                twin = mask.clone()
                update = update_topk_mask_(mask, scores, keep, max_swaps=max_swaps)
                expected = reference.update_topk_mask_(twin, scores, keep, max_swaps=max_swaps)
                assert torch.equal(mask, twin), (keep, max_swaps, seed)
                assert_same(update, expected)


def test_threshold_of_nothing_is_infinity() -> None:
    for dtype in DTYPES:
        scores = torch.ones(3, dtype=dtype)
        update = update_topk_mask_(torch.ones(3, dtype=torch.bool), scores, 0)
        assert update.threshold.dtype == dtype
        assert update.threshold.item() == torch.inf
        assert update.pruned.item() == 3
    empty = update_topk_mask_(torch.ones(0, dtype=torch.bool), torch.ones(0), 0)
    assert empty.threshold.item() == torch.inf
    assert (empty.grown.item(), empty.pruned.item()) == (0, 0)


@dtypes
def test_threshold_is_the_keepth_largest(dtype: torch.dtype) -> None:
    scores = torch.randn(501, generator=torch.Generator().manual_seed(1)).to(dtype)
    ordered = scores.abs().sort(descending=True).values
    for keep in (1, 50, 500, 501):
        mask = torch.zeros(501, dtype=torch.bool)
        assert update_topk_mask_(mask, scores, keep).threshold == ordered[keep - 1]


def test_signed_threshold_keeps_its_sign() -> None:
    scores = torch.tensor([-3.0, -1.0, -2.0])
    mask = torch.zeros(3, dtype=torch.bool)
    assert update_topk_mask_(mask, scores, 2, by_magnitude=False).threshold.item() == -2.0
    assert mask.tolist() == [False, True, True]


def margin(scores: Tensor, before: Tensor, after: Tensor) -> float:
    """Sum of the magnitudes won by a change of mask."""
    return float(scores.abs()[after & ~before].sum() - scores.abs()[before & ~after].sum())


@pytest.mark.parametrize("max_swaps", [1, 2, 3])
def test_swaps_have_the_largest_margin_of_all_choices(max_swaps: int) -> None:
    scores = torch.randn(9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    before = random_mask((9,), 0.5, seed=9)
    keep = int(before.sum())
    after = before.clone()
    update_topk_mask_(after, scores, keep, max_swaps=max_swaps)
    best = 0.0
    for chosen in combinations(range(9), keep):
        candidate = torch.zeros(9, dtype=torch.bool)
        candidate[list(chosen)] = True
        if int((candidate & ~before).sum()) <= max_swaps:
            best = max(best, margin(scores, before, candidate))
    assert margin(scores, before, after) == pytest.approx(best)


def test_repeated_bounded_updates_arrive_at_the_exact_mask() -> None:
    scores = torch.randn(400, generator=torch.Generator().manual_seed(5))
    mask = random_mask((400,), 0.5, seed=5)
    keep = int(mask.sum())
    target = topk_mask(scores, keep)
    distance = int((target & ~mask).sum())
    steps = 0
    while not torch.equal(mask, target):
        update = update_topk_mask_(mask, scores, keep, max_swaps=7)
        steps += 1
        assert 0 < update.grown == update.pruned <= 7
    assert steps == -(-distance // 7)


@dtypes
@pytest.mark.parametrize("max_swaps", [None, 3])
def test_strided_mask_is_changed_in_place(dtype: torch.dtype, max_swaps: int | None) -> None:
    scores = torch.randn(6, 8, generator=torch.Generator().manual_seed(6)).to(dtype)
    storage = random_mask((8, 12), 0.4, seed=6)
    outside = storage[:, 1::2].clone()
    mask = storage[:, ::2].t()
    twin = mask.clone()
    update = update_topk_mask_(mask, scores, 20, max_swaps=max_swaps)
    assert_same(update, reference.update_topk_mask_(twin, scores, 20, max_swaps=max_swaps))
    assert torch.equal(mask, twin)
    assert torch.equal(storage[:, 1::2], outside)


def test_strided_scores() -> None:
    scores = torch.randn(6, 8, generator=torch.Generator().manual_seed(7)).t()
    mask = random_mask((8, 6), 0.4, seed=7)
    twin = mask.clone()
    assert_same(
        update_topk_mask_(mask, scores, 20, max_swaps=2),
        reference.update_topk_mask_(twin, scores, 20, max_swaps=2),
    )
    assert torch.equal(mask, twin)


def test_update_is_seen_by_the_version_counter() -> None:
    mask = torch.zeros(8, dtype=torch.bool)
    before = mask._version
    update_topk_mask_(mask, torch.arange(8.0), 3)
    assert mask._version > before


LARGE = 70_001  # ranked by a sample, in several threads


def large_scores(name: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(LARGE, generator=generator)
    return {
        "normal": normal,
        "uniform": torch.rand(LARGE, generator=generator),
        "tied": (normal * 2).round(),
        "sorted": normal.sort().values,
        "constant": torch.full((LARGE,), 0.25),
        "two": (normal > 1).float(),
        "nan": torch.where(normal > 1.2, normal, torch.nan),
        "zeros": torch.where(normal.abs() > 2, normal, 0.0),
        "runs": torch.repeat_interleave(normal[: LARGE // 50 + 1], 50)[:LARGE],
    }[name].to(dtype)


@dtypes
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "name", ["normal", "uniform", "tied", "sorted", "constant", "two", "nan", "zeros", "runs"]
)
def test_large(name: str, threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    scores = large_scores(name, dtype)
    for keep, density in [(7_000, 0.1), (7_000, 0.3), (35_000, 0.5), (69_990, 0.9), (3, 0.0)]:
        before = random_mask((LARGE,), density, seed=keep)
        for options in ({}, {"max_swaps": 500}, {"max_swap_fraction": 0.2}, {"max_swaps": 0}):
            mask, twin = before.clone(), before.clone()
            update = update_topk_mask_(mask, scores, keep, **options)
            assert_same(update, reference.update_topk_mask_(twin, scores, keep, **options))
            assert torch.equal(mask, twin), (keep, options)


@dtypes
@pytest.mark.parametrize("by_magnitude", [True, False])
def test_any_hint_gives_the_same_result(by_magnitude: bool, dtype: torch.dtype) -> None:
    scores = large_scores("normal", dtype)
    before = random_mask((LARGE,), 0.1, seed=1)
    twin = before.clone()
    expected = reference.update_topk_mask_(twin, scores, 7_000, by_magnitude=by_magnitude)
    right = float(expected.threshold)
    # near the right one, far from it, of nothing, and none at all
    for hint in (right, 1.001 * right, 1.03 * right, 0.5 * right, -right, 0.0, 1e3, INF, -INF, NAN):
        mask = before.clone()
        guess = scores.new_tensor(hint)
        update = update_topk_mask_(mask, scores, 7_000, by_magnitude=by_magnitude, hint=guess)
        assert_same(update, expected)
        assert torch.equal(mask, twin), hint


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1 / 3, 1.0])
def test_a_fraction_of_the_wanted_swaps_is_rounded_up(fraction: float) -> None:
    scores = large_scores("normal", torch.float32)
    mask = random_mask((LARGE,), 0.5, seed=2)
    keep = int(mask.sum())
    update = update_topk_mask_(mask, scores, keep, max_swap_fraction=fraction)
    assert int(update.grown) == int(update.pruned) == math.ceil(int(update.wanted) * fraction)
    assert int(mask.sum()) == keep


def test_a_mask_that_is_not_contiguous_is_updated_in_place() -> None:
    scores = large_scores("normal", torch.float32)[:70_000].view(100, 700)
    mask = random_mask((700, 100), 0.1, seed=3).t()
    twin = mask.contiguous()
    update_topk_mask_(mask, scores, 7_000, max_swaps=100)
    reference.update_topk_mask_(twin, scores, 7_000, max_swaps=100)
    assert torch.equal(mask, twin)
