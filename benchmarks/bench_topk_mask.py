"""Masks and mask updates beside the ways to do the same in torch and numpy, one row per task.

    python -m benchmarks.bench_topk_mask --out benchmarks/results/topk_mask.json

Every row is timed with 1 thread and with 2, and checked first. The peers do no tie handling where
they cannot: kthvalue and partition may keep one too many.
"""

from __future__ import annotations

import json
import re
from typing import Any

import torch

from benchmarks.harness import (
    QUICK_REPEATS,
    Timing,
    compare,
    geometric_mean,
    parser,
    write_results,
)
from benchmarks.topk_cases import Case, cases

REPEATS = 5  # of long calls, several contenders, two numbers of threads
THREADS = (1, 2)


def time_case(case: Case, threads: int, repeats: int) -> dict[str, Any]:
    """Time one case and print its line."""
    torch.set_num_threads(threads)
    case.check()
    timings = compare(case.contenders, repeats=repeats)
    mine = timings["ours"]
    ratios = {name: t.median_us / mine.median_us for name, t in timings.items() if name != "ours"}
    others = "  ".join(f"{name} x{ratio:.2f}" for name, ratio in ratios.items())
    print(
        f"{case.task:<26}{threads} thread{'s' if threads > 1 else ' '}{case.size:>14,}"
        f"{_per_call(mine, case):>14} spread {mine.spread:>4.0%}   {others}",
        flush=True,
    )
    return {
        "task": case.task, "size": case.size, "dtype": case.dtype, "threads": threads,
        "calls": case.calls, "timings": timings, "ratios": ratios,
    }  # fmt: skip


def _per_call(timing: Timing, case: Case) -> str:
    each = timing.median_us / case.calls
    return f"{each:.1f} us" if each < 1000 else f"{each / 1e3:.2f} ms"


def _median(row: dict[str, Any], name: str) -> float:
    timing = row["timings"][name]
    return float(timing.median_us if isinstance(timing, Timing) else timing["median_us"])


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the figures that the goals are about."""
    figures: dict[str, Any] = {}
    for threads in sorted({row["threads"] for row in rows}):
        own = {row["task"]: row for row in rows if row["threads"] == threads}
        key = f"_{threads}_threads"
        updates = {t: _median(r, "ours") for t, r in own.items() if "update: " in t}
        if "update: normal" in updates:
            normal = updates["update: normal"]
            row = own["update: normal"]["ratios"]
            figures["update_over_torch" + key] = row["torch.topk"]
            figures["update_over_partition_alone" + key] = row["np.partition alone"]
            alone = normal - _median(own["update: normal"], "restoring the mask")
            read = _median(own["update: normal"], "one read")
            figures["update_in_two_reads" + key] = alone / (2 * read)
            figures["worst_data_over_normal" + key] = max(updates.values()) / normal
        if "hint" in own:
            figures["hint_in_one_read" + key] = 1 / own["hint"]["ratios"]["one read"]
    speedups = [
        min(value for name, value in row["ratios"].items() if name.startswith(("torch", "np")))
        for row in rows
        if any(name.startswith(("torch", "np")) for name in row["ratios"])
    ]
    figures["speedup_mean"] = geometric_mean(speedups)
    return figures


def main() -> None:
    """Time all cases, or those whose task contains --task."""
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--size", type=int, default=25_000_000, help="scores in the large cases")
    options.add_argument("--task", default="", help="only tasks that this pattern finds")
    arguments = options.parse_args()
    size = 2_500_000 if arguments.quick else arguments.size
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    rows: list[dict[str, Any]] = []
    if arguments.task and arguments.out and arguments.out.exists():  # the others stay as stored
        stored = json.loads(arguments.out.read_text())["rows"]
        rows = [row for row in stored if not re.search(arguments.task, row["task"])]
    for build in cases(size, arguments.task):
        case = build()
        rows += [time_case(case, threads, repeats) for threads in THREADS]
    summary = summary_of(rows)
    for name, value in summary.items():
        print(f"{name}: {value:.2f}")
    if arguments.out:
        write_results(arguments.out, "topk_mask", rows, summary)


if __name__ == "__main__":
    main()
