"""Memory that one mask update takes beyond its scores and its mask.

python -m benchmarks.bench_topk_memory --out benchmarks/results/topk_memory.json
"""

from __future__ import annotations

import resource
import time

import torch

from benchmarks.harness import parser, write_results
from supertickets_ext import update_topk_mask_

STEP = 1 << 24


def peak_bytes() -> int:
    """Give the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Update once, and compare the peak with what was held before."""
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--size", type=int, default=1_000_000_000)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    size = 20_000_000 if arguments.quick else arguments.size
    generator = torch.Generator().manual_seed(0)
    scores, mask = torch.empty(size), torch.zeros(size, dtype=torch.bool)
    for part in scores.split(STEP):
        part.uniform_(-1, 1, generator=generator)
    before = peak_bytes()
    start = time.perf_counter()
    update = update_topk_mask_(mask, scores, size // 10)
    seconds = time.perf_counter() - start
    extra = peak_bytes() - before
    ones = sum(int(part.sum()) for part in mask.split(STEP))
    if ones != size // 10 or int(update.grown) != ones:
        raise SystemExit(f"expected {size // 10} ones, got {ones}")
    share = extra / (4 * size)
    print(f"{size} scores: {seconds:.2f} s, {extra / 1e6:.0f} MB more, {share:.1%} of the scores")
    row = {"size": size, "seconds": seconds, "scores_bytes": 4 * size, "extra_bytes": extra}
    if arguments.out:
        write_results(arguments.out, "topk_memory", [row], {"extra_share": share})


if __name__ == "__main__":
    main()
