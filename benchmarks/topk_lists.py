"""The rows of bench_topk_mask about lists of tensors, and the list of all rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Contender
from benchmarks.topk_cases import (
    Case,
    bounded_case,
    check_update,
    expect_same,
    hint_case,
    mask_case,
    nm_case,
    one_read,
    pack_case,
    rigl_case,
    turns,
    unpack_case,
    update_case,
)
from benchmarks.topk_peers import (
    DENSITY,
    SHAPES,
    draw,
    moved,
    network_pair,
    torch_bounded,
    torch_event,
    torch_update,
)
from supertickets_ext import (
    global_topk_mask,
    global_update_topk_mask_,
    reference,
    topk_mask,
    update_topk_mask_,
    update_topk_masks_,
)

SMALL, SMALL_CALLS = 1000, 1000


def builders(size: int) -> dict[str, Callable[[], Case]]:
    """Give what builds each case, in the order of the table; building makes the data."""
    table: dict[str, Callable[[], Case]] = {
        f"update: {name}": partial(update_case, name, size) for name in SHAPES
    }
    return table | {
        "hint": partial(hint_case, size),
        "mask": partial(mask_case, size),
        "bounded, few": partial(bounded_case, "bounded, few", size, 0.05, DENSITY),
        "bounded, a fifth moves": partial(bounded_case, "bounded, a fifth moves", size, 3, 0.5),
        "rigl": partial(rigl_case, size),
        "2:4": partial(nm_case, size),
        "pack": partial(pack_case, size),
        "unpack": partial(unpack_case, size),
        "small, one by one": partial(small_case, False),
        "small, in one call": partial(small_case, True),
        "161 layers": layers_case,
        "jackpot step": jackpot_case,
        "prune event": event_case,
    }


def cases(size: int, wanted: str = "") -> Iterator[Callable[[], Case]]:
    """Give builders of the cases whose task the pattern finds."""
    return (build for task, build in builders(size).items() if re.search(wanted, task))


def small_case(together: bool) -> Case:
    """Time many tiny updates, a call each or all in one."""
    scores = list(torch.randn(SMALL_CALLS, SMALL, generator=draw()))
    later = [moved(s) for s in scores]
    keep = int(SMALL * DENSITY)
    masks = [topk_mask(s, keep) for s in scores]
    twins = [mask.clone() for mask in masks]

    def one_by_one(scores: list[Tensor]) -> None:
        for mask, score in zip(masks, scores, strict=True):
            update_topk_mask_(mask, score, keep)

    def at_once(scores: list[Tensor]) -> None:
        update_topk_masks_(masks, scores, [keep] * len(scores))

    def by_torch(scores: list[Tensor]) -> None:
        for mask, score in zip(twins, scores, strict=True):
            torch_update(mask, score, keep)

    contenders: dict[str, Contender] = {
        "ours": turns(at_once if together else one_by_one, scores, later),
        "torch.topk": turns(by_torch, scores, later),
    }
    check = partial(check_update, later[0], masks[0].clone(), keep)
    task = "small, in one call" if together else "small, one by one"
    return Case(task, SMALL, contenders, check, calls=SMALL_CALLS)


def layers_case() -> Case:
    """Time one global update of all layers, beside that of one flat tensor."""
    scores, later = network_pair()
    total = sum(s.numel() for s in scores)
    keep = int(total * DENSITY)
    flat, flat_later = (torch.cat([s.view(-1) for s in turn]) for turn in (scores, later))
    masks = global_topk_mask(scores, keep)
    mask = topk_mask(flat, keep)

    def check() -> None:
        start = [m.clone() for m in masks]
        update = global_update_topk_mask_(start, later, keep)
        single = mask.clone()
        right = update_topk_mask_(single, flat_later, keep)
        expect_same((*update, torch.cat([m.view(-1) for m in start])), (*right, single))

    contenders: dict[str, Contender] = {
        "ours": turns(lambda s: global_update_topk_mask_(masks, s, keep), scores, later),
        "flat tensor": turns(lambda s: update_topk_mask_(mask, s, keep), flat, flat_later),
        "one read": lambda: [s.sum() for s in scores],
        "one read of the flat tensor": one_read(flat),
    }
    return Case(f"{len(scores)} layers", total, contenders, check)


def jackpot_case() -> Case:
    """Time restricted steps: each layer's top-k, half of the wanted swaps."""
    scores, later = ([s.view(-1) for s in turn if s.dim() > 1] for turn in network_pair())
    keep = [int(s.numel() * DENSITY) for s in scores]
    start = [topk_mask(s, count) for s, count in zip(scores, keep, strict=True)]
    masks, twins = ([mask.clone() for mask in start] for _ in range(2))

    def by_torch(scores: list[Tensor]) -> None:
        for mask, score, count in zip(twins, scores, keep, strict=True):
            torch_bounded(mask, score, count, 0.5)

    def ours(scores: list[Tensor]) -> None:
        update_topk_masks_(masks, scores, keep, max_swap_fraction=0.5)

    def check() -> None:  # torch's topk picks other ties
        right = [mask.clone() for mask in start]
        for mask, first in zip(masks, start, strict=True):
            mask.copy_(first)
        for turn in (later, scores):
            ours(turn)
            reference.update_topk_masks_(right, turn, keep, max_swap_fraction=0.5)
            expect_same(masks, right)

    contenders: dict[str, Contender] = {
        "ours": turns(ours, scores, later), "torch": turns(by_torch, scores, later),
    }  # fmt: skip
    return Case("jackpot step", sum(s.numel() for s in scores), contenders, check)


def event_case() -> Case:
    """Time prune events: one ranking of all layers, from 12 % to 10 % kept, and back."""
    scores, _ = network_pair()
    total = sum(s.numel() for s in scores)
    more, fewer = int(total * 0.12), int(total * DENSITY)
    masks = global_topk_mask(scores, more)
    twins = [mask.clone() for mask in masks]

    def check() -> None:
        mine, right = ([mask.clone() for mask in masks] for _ in range(2))
        global_update_topk_mask_(mine, scores, fewer)
        torch_event(right, scores, fewer)
        expect_same(mine, right)

    contenders: dict[str, Contender] = {
        "ours": turns(lambda k: global_update_topk_mask_(masks, scores, k), more, fewer),
        "torch": turns(lambda k: torch_event(twins, scores, k), more, fewer),
    }
    return Case("prune event", total, contenders, check)
