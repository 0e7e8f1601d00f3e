"""The rows of bench_topk_mask about one tensor; topk_lists has those about many.

An update is timed on two sets of scores in turn, so that each call changes the mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Contender
from benchmarks.topk_peers import (
    DENSITY,
    draw,
    normal,
    partition,
    score_pair,
    torch_bounded,
    torch_nm,
    torch_rigl,
    torch_update,
)
from supertickets_ext import (
    nm_mask,
    pack_mask,
    reference,
    rigl_update_,
    topk_mask,
    unpack_mask,
    update_topk_mask_,
)

PART = 300_000  # scores on which the reference is asked
HINT_MOVE = 1e-5  # of the spread of scores: a step with a small learning rate

Each = TypeVar("Each")


@dataclass
class Case:
    """One task: a check against the reference, and contenders of which one is ``ours``."""

    task: str
    size: int
    contenders: dict[str, Contender]
    check: Callable[[], None]
    dtype: str = "float32"
    calls: int = field(default=1)  # of the operator, in one call of a contender


def turns(call: Callable[[Each], object], first: Each, second: Each) -> Contender:
    """Call with one and the other in turn."""
    cycle = itertools.cycle((second, first))
    return lambda: call(next(cycle))


def expect_same(values: Sequence[Any], expected: Sequence[Any]) -> None:
    """End the run if tensors differ."""
    for value, right in zip(values, expected, strict=True):
        if not torch.equal(value, right):
            raise SystemExit("a mask or a count is wrong; nothing was timed")


def one_read(scores: Tensor) -> Contender:
    """Read all scores once, as fast as torch does: the yardstick of the machine."""
    return lambda: scores.sum()


def check_update(scores: Tensor, before: Tensor, keep: int, **options: float) -> None:
    """Compare a part with the reference, and the whole with torch's ranking."""
    few = min(len(scores), PART) // 10
    mine, twin = before[:PART].clone(), before[:PART].clone()
    update = update_topk_mask_(mine, scores[:PART], few, **options)  # type: ignore[arg-type]
    right = reference.update_topk_mask_(twin, scores[:PART], few, **options)  # type: ignore[arg-type]
    expect_same((*update, mine), (*right, twin))
    whole, chosen = before.clone(), before.clone()
    if options:
        update_topk_mask_(whole, scores, keep, **options)  # type: ignore[arg-type]
        torch_bounded(chosen, scores, keep, options["max_swap_fraction"])
    else:
        update_topk_mask_(whole, scores, keep)
        torch_update(chosen, scores, keep)
    same = torch.equal(scores.abs()[whole].sort().values, scores.abs()[chosen].sort().values)
    if not same or int(whole.sum()) != int(chosen.sum()):
        raise SystemExit("the whole mask is wrong; nothing was timed")


def update_case(name: str, size: int) -> Case:
    """Time full updates."""
    scores, later = score_pair(name, size)
    keep = int(size * DENSITY)
    start = topk_mask(scores, keep)
    mask, twin = start.clone(), start.clone()
    contenders: dict[str, Contender] = {
        "ours": turns(lambda s: update_topk_mask_(mask, s, keep), scores, later),
        "one read": one_read(scores),
    }
    if name == "normal":
        magnitudes = scores.abs(), later.abs()
        contenders |= {
            "torch.topk": turns(lambda s: torch_update(twin, s, keep), scores, later),
            "np.partition alone": turns(lambda m: partition(m, keep), *magnitudes),
        }
    return Case(f"update: {name}", size, contenders, partial(check_update, later, start, keep))


def mask_case(size: int) -> Case:
    """Time a fresh mask."""
    scores, keep = normal(size), int(size * DENSITY)
    contenders: dict[str, Contender] = {
        "ours": lambda: topk_mask(scores, keep),
        "torch.topk": lambda: torch.zeros_like(scores, dtype=torch.bool).scatter_(
            0, scores.abs().topk(keep, sorted=False).indices, True
        ),
        "torch.kthvalue": lambda: scores.abs() >= scores.abs().kthvalue(size - keep + 1).values,
        "one read": one_read(scores),
    }
    nothing = torch.zeros(size, dtype=torch.bool)
    return Case("mask", size, contenders, partial(check_update, scores, nothing, keep))


def hint_case(size: int) -> Case:
    """Time updates that change little, with the last threshold at hand."""
    scores, later = score_pair("normal", size, HINT_MOVE)
    keep = int(size * DENSITY)
    mask = topk_mask(scores, keep)
    other = mask.clone()
    hint = update_topk_mask_(mask, scores, keep).threshold

    def hinted(scores: Tensor) -> None:
        nonlocal hint
        hint = update_topk_mask_(mask, scores, keep, hint=hint).threshold

    contenders: dict[str, Contender] = {
        "ours": turns(hinted, scores, later),
        "without a hint": turns(lambda s: update_topk_mask_(other, s, keep), scores, later),
        "one read": one_read(scores),
    }
    return Case("hint", size, contenders, partial(check_update, later, mask.clone(), keep))


def bounded_case(task: str, size: int, move: float, density: float) -> Case:
    """Time updates that do half of the swaps they want."""
    scores, later = score_pair("normal", size, move)
    keep = int(size * density)
    start = topk_mask(scores, keep)
    mask, twin = start.clone(), start.clone()
    contenders: dict[str, Contender] = {
        "ours": turns(
            lambda s: update_topk_mask_(mask, s, keep, max_swap_fraction=0.5), scores, later
        ),
        "torch": turns(lambda s: torch_bounded(twin, s, keep, 0.5), scores, later),
        "one read": one_read(scores),
    }
    check = partial(check_update, later, start, keep, max_swap_fraction=0.5)
    return Case(task, size, contenders, check)


def rigl_case(size: int) -> Case:
    """Time RigL's drop and grow, a thirtieth of the active weights, by two gradients in turn."""
    weight = normal(size)
    first, second = (torch.randn(size, generator=draw(seed)) for seed in (2, 3))
    start = topk_mask(weight, int(size * DENSITY))
    mask, twin, swaps = start.clone(), start.clone(), size // 300

    def check() -> None:
        mine, right = start[:PART].clone(), start[:PART].clone()
        update = rigl_update_(mine, weight[:PART], first[:PART], 1000)
        expected = reference.rigl_update_(right, weight[:PART], first[:PART], 1000)
        expect_same((*update, mine), (*expected, right))

    contenders: dict[str, Contender] = {
        "ours": turns(lambda grad: rigl_update_(mask, weight, grad, swaps), first, second),
        "torch": turns(lambda grad: torch_rigl(twin, weight, grad, swaps), first, second),
        "one read": one_read(weight),
    }
    return Case("rigl", size, contenders, check)


def nm_case(size: int) -> Case:
    """Time a 2:4 mask of 3x3 kernels."""
    weight = normal(size // 2304 * 2304).view(-1, 256, 3, 3)
    contenders: dict[str, Contender] = {
        "ours": lambda: nm_mask(weight, 2, 4),
        "torch.topk": lambda: torch_nm(weight, 2, 4),
        "one read": one_read(weight),
    }

    def check() -> None:
        part = weight[:64]
        expect_same([nm_mask(part, 2, 4)], [reference.nm_mask(part, 2, 4)])
        groups = weight.abs().unflatten(1, (-1, 4))  # torch's topk picks other ties
        kept = [
            torch.where(mask.unflatten(1, (-1, 4)), groups, 0).sort(2).values
            for mask in (nm_mask(weight, 2, 4), torch_nm(weight, 2, 4))
        ]
        expect_same(kept[:1], kept[1:])

    return Case("2:4", weight.numel(), contenders, check)


def pack_case(size: int) -> Case:
    """Time packing a mask into bits."""
    mask = topk_mask(normal(size), int(size * DENSITY))

    def by_numpy() -> Tensor:
        return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))

    contenders: dict[str, Contender] = {"ours": lambda: pack_mask(mask), "np.packbits": by_numpy}
    return Case(
        "pack", size, contenders, lambda: expect_same([pack_mask(mask)], [by_numpy()]), "bool"
    )


def unpack_case(size: int) -> Case:
    """Time unpacking it."""
    mask = topk_mask(normal(size), int(size * DENSITY))
    bits = pack_mask(mask)

    def by_numpy() -> Tensor:
        return torch.from_numpy(np.unpackbits(bits.numpy(), bitorder="little", count=size)).bool()

    contenders: dict[str, Contender] = {
        "ours": lambda: unpack_mask(bits, (size,)), "np.unpackbits": by_numpy,
    }  # fmt: skip
    return Case(
        "unpack", size, contenders,
        lambda: expect_same([unpack_mask(bits, (size,))], [mask]), "bool",
    )  # fmt: skip
