"""Masks and mask updates beside the ways to do the same in torch and numpy, one row per task.

    python -m benchmarks.bench_topk_mask --out benchmarks/results/topk_mask.json

Every row is checked first, then timed with 1 thread and with 2. An update is timed on two sets of
scores in turn, ours and the peers', so that each call changes the mask. np.partition has one thread
in any case. The peers do no tie handling where they cannot: kthvalue and partition may keep one too
many.
"""

from __future__ import annotations

import json
import re
from typing import Any

import torch

from benchmarks.harness import (
    QUICK_REPEATS,
    REPEATS,
    Timing,
    compare,
    geometric_mean,
    parser,
    write_results,
)
from benchmarks.topk_cases import Case
from benchmarks.topk_lists import builders, cases

THREADS = (1, 2)
SLOW_S = 0.2  # a peer's call that is longer has its turn in every fifth round


def time_case(case: Case, threads: int, repeats: int) -> dict[str, Any]:
    """Time one case and print its line."""
    torch.set_num_threads(threads)
    case.check()
    timings = compare(case.contenders, repeats=repeats, slow_s=SLOW_S)
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
        figures |= {f"{name}_{threads}_threads": value for name, value in _goals(own).items()}
    for contender in ("ours", "one read"):
        medians = [_median(r, contender) for r in rows if r["task"] == "update: normal"]
        if len(medians) == len(THREADS):
            name = "update" if contender == "ours" else "one_read"
            figures[f"{name}_gain_of_2_threads"] = medians[0] / medians[1]
    speedups = [
        min(value for name, value in row["ratios"].items() if name.startswith(("torch", "np")))
        for row in rows
        if any(name.startswith(("torch", "np")) for name in row["ratios"])
    ]
    if speedups:
        figures["speedup_mean"] = geometric_mean(speedups)
    return figures


def _goals(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Figures of one number of threads; rows by task."""
    figures: dict[str, float] = {}
    updates = {task: _median(row, "ours") for task, row in rows.items() if "update: " in task}
    if "update: normal" in updates:
        ratios = rows["update: normal"]["ratios"]
        figures["update_over_torch"] = ratios["torch.topk"]
        figures["update_over_partition_alone"] = ratios["np.partition alone"]
        figures["update_in_two_reads"] = 1 / (2 * ratios["one read"])
        figures["worst_data_over_normal"] = max(updates.values()) / updates["update: normal"]
    if "hint" in rows:
        figures["hint_in_one_read"] = 1 / rows["hint"]["ratios"]["one read"]
    if "161 layers" in rows:
        ratios = rows["161 layers"]["ratios"]
        figures["layers_over_flat"] = 1 / ratios["flat tensor"]
        figures["layers_read_over_flat_read"] = (
            ratios["one read"] / ratios["one read of the flat tensor"]
        )
    for task in ("small, one by one", "small, in one call"):
        if task in rows:
            figures[f"{task.replace(', ', '_').replace(' ', '_')}_us_per_call"] = (
                _median(rows[task], "ours") / rows[task]["calls"]
            )
    for task in ("jackpot step", "prune event"):
        if task in rows:
            figures[f"{task.replace(' ', '_')}_over_torch"] = rows[task]["ratios"]["torch"]
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
    order = list(builders(size))
    rows.sort(key=lambda row: (order.index(row["task"]), row["threads"]))
    summary = summary_of(rows)
    for name, value in summary.items():
        print(f"{name}: {value:.2f}")
    if arguments.out:
        write_results(arguments.out, "topk_mask", rows, summary)


if __name__ == "__main__":
    main()
