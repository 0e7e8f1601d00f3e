"""topk_mask and update_topk_mask_ against the ways to build a mask in torch and numpy.

    python -m benchmarks.bench_topk_mask --threads 2 --out benchmarks/results/topk_mask.json

The scores are those of a search step: last step's, slightly moved, with last step's mask at hand.
The baselines do no tie handling where they cannot: kthvalue and partition may keep one too many.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import (
    QUICK_REPEATS,
    REPEATS,
    compare,
    geometric_mean,
    parser,
    write_results,
)
from benchmarks.shapes import TOPK_SIZES
from supertickets_ext import reference, topk_mask, update_topk_mask_

DENSITY = 0.1
QUICK_SIZES = 2


def topk_scatter(scores: Tensor, keep: int) -> Tensor:
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(0, scores.abs().topk(keep, sorted=False).indices, True)


def kthvalue(scores: Tensor, keep: int) -> Tensor:
    magnitude = scores.abs()
    return magnitude >= magnitude.kthvalue(scores.numel() - keep + 1).values


def partition(scores: Tensor, keep: int) -> Tensor:
    magnitude = np.abs(scores.numpy())
    threshold = np.partition(magnitude, scores.numel() - keep)[scores.numel() - keep]
    return torch.from_numpy(magnitude >= threshold)


BASELINES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "torch.topk": topk_scatter,
    "torch.kthvalue": kthvalue,
    "np.partition": partition,
}


def as_update(
    build: Callable[[Tensor, int], Tensor], scores: Tensor, keep: int
) -> Callable[[Tensor], object]:
    """The same as an update: the old mask is overwritten, grown and pruned entries are counted."""

    def update(mask: Tensor) -> object:
        new = build(scores, keep)
        grown, pruned = (new & ~mask).sum(), (mask & ~new).sum()
        mask.copy_(new)
        return grown, pruned

    return update


def check(scores: Tensor, before: Tensor, keep: int) -> None:
    """Fail if a mask or a count is wrong; nothing wrong is ever timed."""
    if not torch.equal(topk_mask(scores, keep), reference.topk_mask(scores, keep)):
        raise SystemExit(f"topk_mask of {scores.numel()} scores is wrong")
    for max_swaps in (None, keep // 100):
        mine, twin = before.clone(), before.clone()
        update = update_topk_mask_(mine, scores, keep, max_swaps=max_swaps)
        right = reference.update_topk_mask_(twin, scores, keep, max_swaps=max_swaps)
        same = all(torch.equal(a, b) for a, b in zip(update, right, strict=True))
        if not (same and torch.equal(mine, twin)):
            raise SystemExit(f"update_topk_mask_ of {scores.numel()} scores is wrong")


def bench(size: int, dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    """Time mask, update and bounded update of one tensor."""
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(size, generator=generator).to(dtype)
    scores = (old + 0.05 * torch.randn(size, generator=generator).to(dtype)).to(dtype)
    keep = int(size * DENSITY)
    before = topk_mask(old, keep)
    check(scores, before, keep)

    # An update leaves its own result behind, so each call starts from the old mask again.
    work = before.clone()

    def restored(update: Callable[[Tensor], object]) -> Callable[[], object]:
        return lambda: update(work.copy_(before))

    usable = {
        name: build
        for name, build in BASELINES.items()
        if name != "np.partition" or dtype is torch.float32  # numpy has no bfloat16
    }
    updates = {name: as_update(build, scores, keep) for name, build in usable.items()}
    tasks: dict[str, dict[str, Callable[[], object]]] = {
        "mask": {
            "ours": lambda: topk_mask(scores, keep),
            **{n: partial(b, scores, keep) for n, b in usable.items()},
        },
        "update": {
            "ours": restored(lambda mask: update_topk_mask_(mask, scores, keep)),
            "ours, bounded": restored(
                lambda mask: update_topk_mask_(mask, scores, keep, max_swaps=keep // 100)
            ),
            **{n: restored(u) for n, u in updates.items()},
        },
    }
    return [time_task(task, size, dtype, run, repeats) for task, run in tasks.items()]


def time_task(
    task: str,
    size: int,
    dtype: torch.dtype,
    contenders: dict[str, Callable[[], object]],
    repeats: int,
) -> dict[str, Any]:
    """Time one task and print one line per baseline's rival."""
    timing = compare(contenders, repeats=repeats)
    mine = timing["ours"]
    best = min((name for name in timing if not name.startswith("ours")),
               key=lambda name: timing[name].median_us)  # fmt: skip
    speedup = timing[best].median_us / mine.median_us
    others = "  ".join(f"{n} {t.median_us:.0f}" for n, t in timing.items() if n != "ours")
    scores_per_us = size / mine.median_us
    print(
        f"{task:<7}{size:>10} {str(dtype).removeprefix('torch.'):<9}{mine.median_us:>10.0f} us"
        f"{scores_per_us:>8.0f} scores/us  x{speedup:<6.2f} of {best:<15} spread"
        f" {mine.spread:.0%}  (us: {others})",
        flush=True,
    )
    return {
        "task": task, "size": size, "dtype": str(dtype), "density": DENSITY, "timings": timing,
        "best_baseline": best, "speedup": speedup,
    }  # fmt: skip


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = TOPK_SIZES[:QUICK_SIZES] if arguments.quick else TOPK_SIZES
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    rows = [row for size in sizes for row in bench(size, getattr(torch, arguments.dtype), repeats)]
    summary = {}
    for task in ("mask", "update"):
        mean = geometric_mean(row["speedup"] for row in rows if row["task"] == task)
        summary[f"speedup_{task}"] = mean
        print(f"geometric mean, {task}: x{mean:.2f} of the best baseline")
    if arguments.out:
        write_results(arguments.out, "topk_mask", rows, summary)


if __name__ == "__main__":
    main()
