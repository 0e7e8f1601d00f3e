"""Updates of lists of masks: each tensor by itself, or all ranked together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from supertickets_ext import global_update_topk_mask_, reference, update_topk_masks_
from tests.ext.cases import DTYPES

SHAPES = [(16, 3, 3, 3), (0, 4), (), (1000,), (70, 1100), (64, 32, 3, 3), (7, 11), (90_000,)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_swaps": 5},
    {"max_swap_fraction": 0.3},
    {"max_swaps": 40, "max_swap_fraction": 0.01},
    {"by_magnitude": False},
]

pytestmark = pytest.mark.usefixtures("backend")


def lists(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(5)
    scores = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    scores[3] = scores[3].round()  # ties
    return scores, [torch.rand(shape, generator=generator) < 0.2 for shape in SHAPES]


def assert_equal(mine: Any, twin: Any) -> None:
    for value, expected in zip(mine, twin, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_each_by_itself(options: dict[str, Any], threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    scores, masks = lists(dtype)
    twins = [mask.clone() for mask in masks]
    keep = [s.numel() // 5 for s in scores]
    update = update_topk_masks_(masks, scores, keep, **options)
    expected = reference.update_topk_masks_(twins, scores, keep, **options)
    assert all(value.shape == (len(SHAPES),) for value in update)
    assert_equal(update, expected)
    assert_equal(masks, twins)
    again = update_topk_masks_(masks, scores, keep, hints=update.threshold, **options)
    assert_equal(again, reference.update_topk_masks_(twins, scores, keep, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_all_together(options: dict[str, Any], threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    scores, masks = lists(dtype)
    for keep in (0, 20_000, sum(s.numel() for s in scores)):
        mine, twins = [m.clone() for m in masks], [m.clone() for m in masks]
        update = global_update_topk_mask_(mine, scores, keep, **options)
        assert_equal(update, reference.global_update_topk_mask_(twins, scores, keep, **options))
        assert_equal(mine, twins)


def test_masks_that_are_not_contiguous_are_updated_in_place() -> None:
    generator = torch.Generator().manual_seed(6)
    scores = [torch.randn(8, 6, generator=generator).t(), torch.randn(30, generator=generator)[::2]]
    masks = [torch.zeros(8, 6, dtype=torch.bool).t(), torch.zeros(30, dtype=torch.bool)[::2]]
    twins = [mask.contiguous() for mask in masks]
    update_topk_masks_(masks, scores, [7, 3])
    reference.update_topk_masks_(twins, scores, [7, 3])
    assert_equal(masks, twins)


@pytest.mark.rules
def test_under_vmap() -> None:
    scores = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(7))
    masks, twins = torch.zeros(4, 3, 9, dtype=torch.bool), torch.zeros(4, 3, 9, dtype=torch.bool)
    update = torch.func.vmap(lambda m, s: tuple(update_topk_masks_([m], [s], [5])))(masks, scores)
    for i in range(4):
        expected = reference.update_topk_masks_([twins[i]], [scores[i]], [5])
        assert_equal([value[i] for value in update], expected)
    assert torch.equal(masks, twins)


def test_bad_lists_are_refused_by_name() -> None:
    scores, masks = [torch.ones(3), torch.ones(4)], [torch.zeros(3).bool(), torch.zeros(4).bool()]
    for operator, keep in ((update_topk_masks_, [1, 1]), (global_update_topk_mask_, 1)):
        name = operator.__name__
        with pytest.raises(ValueError, match=f"^{name}: masks must be one per scores, got 1"):
            operator(masks[:1], scores, keep)
        with pytest.raises(ValueError, match=f"^{name}: mask must have scores' shape"):
            operator(masks[::-1], scores, keep)
        with pytest.raises(ValueError, match=f"^{name}: scores must hold at least one"):
            operator([], [], keep)
        with pytest.raises(ValueError, match=f"^{name}: max_swap_fraction must be in"):
            operator(masks, scores, keep, max_swap_fraction=1.1)
    with pytest.raises(ValueError, match=r"^update_topk_masks_: keep must have 2 entries, got 1"):
        update_topk_masks_(masks, scores, [1])
    with pytest.raises(ValueError, match=r"^update_topk_masks_: hint must be .*\(2,\)"):
        update_topk_masks_(masks, scores, [1, 1], hints=torch.ones(3))
    assert not any(mask.any() for mask in masks)
