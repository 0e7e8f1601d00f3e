"""What bench_topk_mask times: data, our calls, and what a user would take instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Contender
from benchmarks.networks import resnet50
from supertickets_ext import (
    global_update_topk_mask_,
    nm_mask,
    pack_mask,
    reference,
    rigl_update_,
    topk_mask,
    update_topk_mask_,
    update_topk_masks_,
)

DENSITY = 0.1
SMALL, SMALL_CALLS = 1000, 1000
MOVE = 0.05  # of the spread of scores, between two updates


@dataclass
class Case:
    """One task: a check against the reference, and contenders of which one is ``ours``."""

    task: str
    size: int
    contenders: dict[str, Contender]
    check: Callable[[], None]
    dtype: str = "float32"
    calls: int = field(default=1)  # of the operator, in one call of a contender


def cases(size: int, wanted: str = "") -> Iterator[Callable[[], Case]]:
    """Give builders of the cases whose task the pattern finds; they make the data."""
    builders: dict[str, Callable[[], Case]] = {
        f"update: {name}": partial(update_case, name, size) for name in DATA
    }
    builders |= {
        "mask": partial(mask_case, size),
        "hint": partial(hint_case, size),
        "bounded, few": partial(bounded_case, "bounded, few", size, 0.002),
        "bounded, a fifth moves": partial(bounded_case, "bounded, a fifth moves", size, 3.0),
        "rigl": partial(rigl_case, size),
        "2:4": partial(nm_case, size),
        "pack": partial(pack_case, size),
        "small, one by one": small_case,
        "small, in one call": small_list_case,
        "161 layers": layers_case,
        "jackpot step": jackpot_case,
        "prune event": event_case,
    }
    return (build for task, build in builders.items() if re.search(wanted, task))


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(size: int) -> Tensor:
    return torch.randn(size, generator=_draw())


DATA: dict[str, Callable[[int], Tensor]] = {
    "normal": _normal,
    "uniform": lambda size: torch.rand(size, generator=_draw()),
    "tied": lambda size: (_normal(size) * 2).round(),
    "sorted": lambda size: _normal(size).sort().values,
    "constant": lambda size: torch.full((size,), 0.5),
    "denormal": lambda size: _normal(size) * 1e-39,
}


def _moved(scores: Tensor, by: float = MOVE) -> Tensor:
    noise = torch.randn(scores.shape, generator=_draw(1))
    return scores + by * scores.std() * noise


def torch_update(mask: Tensor, scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Do an update as pruning libraries do: topk, scatter, and counts of what changed."""
    flat = scores.abs().view(-1)
    new = torch.zeros_like(mask).view(-1)
    new = new.scatter_(0, flat.topk(keep, sorted=False).indices, True).view(mask.shape)
    grown, pruned = (new & ~mask).sum(), (mask & ~new).sum()
    mask.copy_(new)
    return grown, pruned


def torch_bounded(mask: Tensor, scores: Tensor, keep: int, swaps: int) -> None:
    """Do a bounded update: topk, then the best of what it would grow and prune."""
    magnitude, flat = scores.abs().view(-1), mask.view(-1)
    new = torch.zeros_like(flat)
    new.scatter_(0, magnitude.topk(keep, sorted=False).indices, True)
    missing, surplus = (new & ~flat).nonzero().view(-1), (flat & ~new).nonzero().view(-1)
    count = min(swaps, len(missing))
    flat[missing[magnitude[missing].topk(count, sorted=False).indices]] = True
    worst = magnitude[surplus].topk(count, largest=False, sorted=False).indices
    flat[surplus[worst]] = False


def torch_rigl(mask: Tensor, weight: Tensor, grad: Tensor, swaps: int) -> None:
    """Do RigL's update as its torch ports do."""
    dropped = torch.where(mask, weight.abs(), torch.inf).topk(swaps, largest=False, sorted=False)
    grown = torch.where(mask, -1.0, grad.abs()).topk(swaps, sorted=False)
    mask[dropped.indices] = False
    mask[grown.indices] = True


def _partition(scores: Tensor, keep: int) -> object:
    return np.partition(scores.numpy(), len(scores) - keep)


def _same(values: object, expected: object) -> None:
    for value, right in zip(values, expected, strict=True):  # type: ignore[call-overload]
        if not torch.equal(value, right):
            raise SystemExit("a mask or a count is wrong; nothing was timed")


def _one_read(scores: Tensor) -> Callable[[], object]:
    return lambda: scores.sum()


def update_case(name: str, size: int) -> Case:
    """Time a full update of one tensor; the mask is that of scores moved a little."""
    scores = DATA[name](size)
    keep = int(size * DENSITY)
    before = topk_mask(_moved(scores) if name != "denormal" else _moved(scores * 1e30), keep)
    work, magnitude = before.clone(), scores.abs()
    contenders: dict[str, Contender] = {
        "ours": lambda: update_topk_mask_(work.copy_(before), scores, keep),
        "restoring the mask": lambda: work.copy_(before),
        "one read": _one_read(scores),
    }
    if name == "normal":
        contenders |= {
            "torch.topk": lambda: torch_update(work.copy_(before), scores, keep),
            "np.partition alone": lambda: _partition(magnitude, keep),
        }
    return Case(f"update: {name}", size, contenders, partial(_check_update, scores, before, keep))


def _check_update(scores: Tensor, before: Tensor, keep: int, **options: int) -> None:
    part, few = min(len(scores), 300_000), min(len(scores), 300_000) // 10
    mine, twin = before[:part].clone(), before[:part].clone()
    update = update_topk_mask_(mine, scores[:part], few, **options)
    right = reference.update_topk_mask_(twin, scores[:part], few, **options)
    _same((*update, mine), (*right, twin))
    whole = before.clone()
    if options:
        return
    update_topk_mask_(whole, scores, keep)
    chosen = torch.zeros_like(whole)
    torch_update(chosen, scores, keep)
    same = torch.equal(scores.abs()[whole].sort().values, scores.abs()[chosen].sort().values)
    if not same or int(whole.sum()) != keep:
        raise SystemExit("the whole mask is wrong; nothing was timed")


def mask_case(size: int) -> Case:
    """Time a fresh mask."""
    scores, keep = _normal(size), int(size * DENSITY)
    contenders: dict[str, Contender] = {
        "ours": lambda: topk_mask(scores, keep),
        "torch.topk": lambda: torch.zeros_like(scores, dtype=torch.bool).scatter_(
            0, scores.abs().topk(keep, sorted=False).indices, True
        ),
        "torch.kthvalue": lambda: scores.abs() >= scores.abs().kthvalue(size - keep + 1).values,
        "one read": _one_read(scores),
    }
    before = torch.zeros(size, dtype=torch.bool)
    return Case("mask", size, contenders, partial(_check_update, scores, before, keep))


def hint_case(size: int) -> Case:
    """Time an update that changes little, with the last threshold at hand."""
    old, keep = _normal(size), int(size * DENSITY)
    mask = topk_mask(old, keep)
    turns = [_moved(old, 1e-5), old]
    state = {"turn": 0, "hint": update_topk_mask_(mask, old, keep).threshold}

    def ours() -> None:
        state["turn"] = 1 - int(state["turn"])
        scores = turns[int(state["turn"])]
        state["hint"] = update_topk_mask_(mask, scores, keep, hint=state["hint"]).threshold

    def without() -> None:
        state["turn"] = 1 - int(state["turn"])
        update_topk_mask_(mask, turns[int(state["turn"])], keep)

    contenders: dict[str, Contender] = {
        "ours": ours, "without a hint": without, "one read": _one_read(old),
    }  # fmt: skip
    return Case("hint", size, contenders, partial(_check_update, old, mask.clone(), keep))


def bounded_case(task: str, size: int, move: float) -> Case:
    """Time an update that may do half of the swaps it wants."""
    scores, keep = _normal(size), int(size * DENSITY)
    if move > 1:
        keep = size // 2
    before = topk_mask(_moved(scores, move), keep)
    work = before.clone()
    swaps = int((topk_mask(scores, keep) & ~before).sum()) // 2
    contenders: dict[str, Contender] = {
        "ours": lambda: update_topk_mask_(work.copy_(before), scores, keep, max_swaps=swaps),
        "torch": lambda: torch_bounded(work.copy_(before), scores, keep, swaps),
        "one read": _one_read(scores),
    }
    check = partial(_check_update, scores, before, keep, max_swaps=1000)
    return Case(task, size, contenders, check)


def rigl_case(size: int) -> Case:
    """Time RigL's drop and grow, a thirtieth of the active weights."""
    weight, grad = _normal(size), torch.randn(size, generator=_draw(2))
    before = topk_mask(weight, int(size * DENSITY))
    work, swaps = before.clone(), size // 300

    def check() -> None:
        part = slice(0, min(size, 300_000))
        mine, twin = before[part].clone(), before[part].clone()
        update = rigl_update_(mine, weight[part], grad[part], 1000)
        _same(
            (*update, mine), (*reference.rigl_update_(twin, weight[part], grad[part], 1000), twin)
        )

    contenders: dict[str, Contender] = {
        "ours": lambda: rigl_update_(work.copy_(before), weight, grad, swaps),
        "torch": lambda: torch_rigl(work.copy_(before), weight, grad, swaps),
        "one read": _one_read(weight),
    }
    return Case("rigl", size, contenders, check)


def nm_case(size: int) -> Case:
    """Time a 2:4 mask of 3x3 kernels."""
    weight = _normal(size // 2304 * 2304).view(-1, 256, 3, 3)

    def by_torch() -> Tensor:
        groups = weight.abs().unflatten(1, (-1, 4))
        best = groups.topk(2, dim=2, sorted=False).indices
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, True).flatten(1, 2)

    contenders: dict[str, Contender] = {
        "ours": lambda: nm_mask(weight, 2, 4), "torch": by_torch, "one read": _one_read(weight),
    }  # fmt: skip
    part = weight[:64]
    return Case("2:4", weight.numel(), contenders,
                lambda: _same([nm_mask(part, 2, 4)], [reference.nm_mask(part, 2, 4)]))  # fmt: skip


def pack_case(size: int) -> Case:
    """Time packing a mask into bits."""
    mask = topk_mask(_normal(size), int(size * DENSITY))

    def by_numpy() -> Tensor:
        return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))

    contenders: dict[str, Contender] = {
        "ours": lambda: pack_mask(mask), "np.packbits": by_numpy,
    }  # fmt: skip
    return Case("pack", size, contenders, lambda: _same([pack_mask(mask)], [by_numpy()]), "bool")


def _small() -> tuple[list[Tensor], list[Tensor], int]:
    scores = list(torch.randn(SMALL_CALLS, SMALL, generator=_draw()))
    keep = int(SMALL * DENSITY)
    return scores, [topk_mask(_moved(s), keep) for s in scores], keep


def small_case() -> Case:
    """Time many tiny updates, a call each."""
    scores, masks, keep = _small()

    def ours() -> None:
        for mask, score in zip(masks, scores, strict=True):
            update_topk_mask_(mask, score, keep)

    def by_torch() -> None:
        for mask, score in zip(masks, scores, strict=True):
            torch_update(mask, score, keep)

    check = partial(_check_update, scores[0], masks[0].clone(), keep)
    contenders: dict[str, Contender] = {"ours": ours, "torch.topk": by_torch}
    return Case("small, one by one", SMALL, contenders, check, calls=SMALL_CALLS)


def small_list_case() -> Case:
    """Time the same in one call."""
    scores, masks, keep = _small()

    def by_torch() -> None:
        for mask, score in zip(masks, scores, strict=True):
            torch_update(mask, score, keep)

    check = partial(_check_update, scores[0], masks[0].clone(), keep)
    contenders: dict[str, Contender] = {
        "ours": lambda: update_topk_masks_(masks, scores, [keep] * len(scores)),
        "torch.topk": by_torch,
    }
    return Case("small, in one call", SMALL, contenders, check, calls=SMALL_CALLS)


def _layers() -> tuple[list[Tensor], list[Tensor]]:
    """Scores of all 161 parameters of ResNet-50, and what they were a step before."""
    shapes = [parameter.shape for parameter in resnet50().parameters()]
    draw = _draw()
    old = [torch.randn(shape, generator=draw) for shape in shapes]
    return old, [score + MOVE * torch.randn(score.shape, generator=draw) for score in old]


def layers_case() -> Case:
    """Time one global update of all layers, beside that of one flat tensor."""
    old, scores = _layers()
    total = sum(s.numel() for s in scores)
    keep = int(total * DENSITY)
    flat = torch.cat([s.view(-1) for s in scores])
    before = topk_mask(torch.cat([s.view(-1) for s in old]), keep)
    whole, masks = before.clone(), [m.view(s.shape).clone() for m, s in zip(
        before.split([s.numel() for s in scores]), scores, strict=True)]  # fmt: skip
    starts = [mask.clone() for mask in masks]

    def restored() -> list[Tensor]:
        for mask, start in zip(masks, starts, strict=True):
            mask.copy_(start)
        return masks

    def check() -> None:
        update = global_update_topk_mask_(restored(), scores, keep)
        single = update_topk_mask_(whole.copy_(before), flat, keep)
        _same((*update, torch.cat([m.view(-1) for m in masks])), (*single, whole))

    contenders: dict[str, Contender] = {
        "ours": lambda: global_update_topk_mask_(restored(), scores, keep),
        "flat tensor": lambda: update_topk_mask_(whole.copy_(before), flat, keep),
    }
    return Case(f"{len(scores)} layers", total, contenders, check)


def jackpot_case() -> Case:
    """Time a restricted step: each layer's top-k, half of the wanted swaps."""
    old, scores = _layers()
    pairs = [(o, s) for o, s in zip(old, scores, strict=True) if s.dim() > 1]
    scores = [s.view(-1) for _, s in pairs]
    keep = [int(s.numel() * DENSITY) for s in scores]
    starts = [topk_mask(o.view(-1), k) for (o, _), k in zip(pairs, keep, strict=True)]
    masks = [start.clone() for start in starts]
    wanted = [
        int((topk_mask(s, k) & ~m).sum()) for s, k, m in zip(scores, keep, starts, strict=True)
    ]

    def restored() -> list[Tensor]:
        for mask, start in zip(masks, starts, strict=True):
            mask.copy_(start)
        return masks

    def by_torch() -> None:
        for mask, score, count, swaps in zip(restored(), scores, keep, wanted, strict=True):
            torch_bounded(mask, score, count, (swaps + 1) // 2)

    def check() -> None:
        update_topk_masks_(restored(), scores, keep, max_swap_fraction=0.5)
        mine = [mask.clone() for mask in masks]
        by_torch()
        _same(mine, masks)

    contenders: dict[str, Contender] = {
        "ours": lambda: update_topk_masks_(restored(), scores, keep, max_swap_fraction=0.5),
        "torch": by_torch,
    }
    return Case("jackpot step", sum(s.numel() for s in scores), contenders, check)


def event_case() -> Case:
    """Time a prune event: one ranking of all layers, from 12 % to 10 % kept."""
    _, scores = _layers()
    total = sum(s.numel() for s in scores)
    keep = int(total * DENSITY)
    sizes = [s.numel() for s in scores]
    start = topk_mask(torch.cat([s.view(-1) for s in scores]), int(total * 0.12)).split(sizes)
    starts = [mask.view(s.shape).clone() for mask, s in zip(start, scores, strict=True)]
    masks = [mask.clone() for mask in starts]

    def restored() -> list[Tensor]:
        for mask, before in zip(masks, starts, strict=True):
            mask.copy_(before)
        return masks

    def by_torch() -> None:
        flat = torch.cat([s.view(-1) for s in scores])
        joined = torch.cat([mask.view(-1) for mask in restored()])
        torch_update(joined, flat, keep)
        for mask, part in zip(masks, joined.split(sizes), strict=True):
            mask.copy_(part.view(mask.shape))

    def check() -> None:
        global_update_topk_mask_(restored(), scores, keep)
        mine = [mask.clone() for mask in masks]
        by_torch()
        _same(mine, masks)

    contenders: dict[str, Contender] = {
        "ours": lambda: global_update_topk_mask_(restored(), scores, keep), "torch": by_torch,
    }  # fmt: skip
    return Case("prune event", total, contenders, check)
