"""The goals that masked_conv2d is measured by: speed-ups over torch's dense convolution.

The dense side runs in channels_last; for a single image, in whichever of channels_last and plain
NCHW is faster. "lanes" means that input and output stay in the batch-inner layout; in the other
cases they are plain tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from benchmarks.conv_cases import (
    Contender,
    Layer,
    check,
    dense_forward,
    dense_train,
    forward_lanes,
    forward_plain,
    masked_module,
    sparse_module,
    train_lanes,
    train_lanes_scores,
    train_lanes_scores_bf16,
)
from benchmarks.harness import QUICK_REPEATS, REPEATS, Timing, compare, geometric_mean
from benchmarks.shapes import RESNET50_1X1, RESNET50_3X3, ConvShape

BATCH = 32
QUICK_SHAPE = slice(2, 3)
CROSSOVER_DENSITIES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Goal:
    """A speed-up to reach, as the geometric mean over some layers; or a sparsity to start at."""

    name: str
    case: str
    target: float
    ours: Callable[[Layer], Contender] = forward_lanes
    dense: Callable[[Layer, torch.memory_format], Callable[[], Any]] = dense_forward
    shapes: tuple[ConvShape, ...] = RESNET50_3X3
    batch: int = BATCH
    density: float = 0.1
    dtype: torch.dtype = torch.float32
    passes: tuple[int, int] = (1, 0)  # on kept weights, on all weights


GOALS = (
    Goal("forward-90", "forward, 90 %, batch 32, lanes", 6.0),
    Goal("forward-95", "forward, 95 %, batch 32, lanes", 9.0, density=0.05),
    Goal("forward-90-batch1", "forward, 90 %, batch 1, NCHW", 5.0, forward_plain, batch=1),
    Goal("module", "MaskedConv2d alone, 90 %, batch 32", 4.0, masked_module),
    Goal("module-inference", "SparseConv2d alone, 90 %, batch 32", 4.0, sparse_module),
    Goal("train", "forward and backward, 90 %, batch 32, lanes", 5.5, train_lanes, dense_train,
         passes=(3, 0)),
    Goal("train-scores", "the same with scores (dense weight gradient)", 2.3, train_lanes_scores,
         dense_train, passes=(2, 1)),
    Goal("train-scores-bf16", "the same with that gradient in bfloat16", 2.3,
         train_lanes_scores_bf16, dense_train, passes=(2, 1)),
    Goal("1x1-batch1", "1x1, forward, 90 %, batch 1, NCHW", 4.0, forward_plain,
         shapes=RESNET50_1X1, batch=1),
    Goal("1x1", "1x1, forward, 90 %, batch 32, lanes", 3.2, shapes=RESNET50_1X1),
    Goal("bf16-90", "bf16 lanes against dense bf16, 90 %, batch 32", 1.8, dtype=torch.bfloat16),
    Goal("bf16-95", "bf16 lanes against dense bf16, 95 %, batch 32", 3.0, dtype=torch.bfloat16,
         density=0.05),
    Goal("fp16-90", "fp16 lanes against dense bf16, 90 %, batch 32", 1.8, dtype=torch.float16),
    Goal("fp16-95", "fp16 lanes against dense bf16, 95 %, batch 32", 3.0, dtype=torch.float16,
         density=0.05),
)  # fmt: skip


# The sparsity from which on sparse is faster than dense; the density of these varies.
CROSSOVERS = (
    Goal("crossover", "crossover sparsity, forward, batch 32, lanes", 0.35),
    Goal("crossover-batch1", "crossover sparsity, forward, batch 1, NCHW", 0.40, forward_plain,
         batch=1),
)  # fmt: skip


class Verdict(NamedTuple):
    """A goal and what was measured for it, by number of threads."""

    goal: Goal
    kind: Literal["speedup", "sparsity"]
    measured: dict[int, float | None]

    def stored(self) -> dict[str, Any]:
        """Give what a result file holds."""
        return {
            "goal": self.goal.name,
            "case": self.goal.case,
            "kind": self.kind,
            "target": self.goal.target,
            "measured": self.measured,
        }

    def __str__(self) -> str:
        values = "  ".join(f"{self._figure(v):>8}" for v in self.measured.values())
        return f"{self.goal.case:<52}goal {self._figure(self.goal.target):>6}  {values}"

    def _figure(self, value: float | None) -> str:
        if value is None:
            return "none"
        return f"x{value:.2f}" if self.kind == "speedup" else f"{value:.0%}"


def measure(goal: Goal, shape: ConvShape, repeats: int) -> dict[str, Any]:
    """Check and time one layer of a goal, and print a line."""
    shape = replace(shape, batch=goal.batch)
    layer = Layer(shape, goal.density, goal.dtype)
    ours = goal.ours(layer)
    check(layer, ours)
    # half precision competes with bfloat16, for which processors have matrix units
    rival = layer if goal.dtype != torch.float16 else Layer(shape, goal.density, torch.bfloat16)
    dense = {"channels_last": goal.dense(rival, torch.channels_last)}
    if goal.batch == 1:
        dense["NCHW"] = goal.dense(rival, torch.contiguous_format)
    timing = compare({"ours": ours.call, **dense}, repeats=repeats)
    setting = min(dense, key=lambda name: timing[name].median_us)
    mine, theirs = timing["ours"], timing[setting]
    row = {
        "goal": goal.name, "threads": torch.get_num_threads(), "shape": shape.name,
        "batch": goal.batch, "dtype": str(goal.dtype), "density": goal.density, "ours": mine,
        "dense": theirs, "dense_setting": setting, "speedup": theirs.median_us / mine.median_us,
        "useful_gfs": _gfs(layer.flops(*goal.passes), mine),
        "dense_gfs": _gfs(layer.flops(0, sum(goal.passes)), theirs),
    }  # fmt: skip
    print(
        f"{goal.name:<18}{shape.name:<22}{goal.density:>5.2f}{mine.median_us:>10.0f} us"
        f"{row['useful_gfs']:>7.1f} GF/s  dense {theirs.median_us:>8.0f} us"
        f"{row['dense_gfs']:>7.1f} GF/s  x{row['speedup']:<6.2f}"
        f"spread {mine.spread:>4.0%} / {theirs.spread:.0%}",
        flush=True,
    )
    return row


def _gfs(flops: int, time: Timing) -> float:
    return flops / time.median_us / 1e3


def crossing(sparsities: Sequence[float], speedups: Sequence[float]) -> float | None:
    """Interpolate where the speed-up passes 1.

    Args:
        sparsities: Rising.
        speedups: At these sparsities.

    Returns:
        The lowest sparsity from which on the speed-up stays above 1: the first one given if it is
        above 1 everywhere, None if it is below 1 at the last.
    """
    if speedups[-1] < 1:
        return None
    last = next((i for i in range(len(speedups) - 1, -1, -1) if speedups[i] < 1), None)
    if last is None:
        return sparsities[0]
    low, high = math.log(speedups[last]), math.log(speedups[last + 1])
    step = sparsities[last + 1] - sparsities[last]
    return sparsities[last] - low / (high - low) * step


def measure_speedup(goal: Goal, *, quick: bool) -> tuple[list[dict[str, Any]], float]:
    """Measure the layers of a goal; give their rows and the geometric mean of the speed-ups."""
    shapes = goal.shapes[QUICK_SHAPE] if quick else goal.shapes
    rows = [measure(goal, shape, QUICK_REPEATS if quick else REPEATS) for shape in shapes]
    mean = geometric_mean(row["speedup"] for row in rows)
    print(f"{goal.case}, density {goal.density}: geometric mean x{mean:.2f}", flush=True)
    return rows, mean


def measure_crossover(goal: Goal, *, quick: bool) -> tuple[list[dict[str, Any]], float | None]:
    """Measure the layers of a goal over the densities; give the rows and the crossover sparsity."""
    rows, speedups = [], []
    for density in CROSSOVER_DENSITIES:
        found, mean = measure_speedup(replace(goal, density=density), quick=quick)
        rows += found
        speedups.append(mean)
    return rows, crossing([1 - density for density in CROSSOVER_DENSITIES], speedups)


def run_goals(threads: Sequence[int], *, quick: bool) -> tuple[list[dict[str, Any]], list[Verdict]]:
    """Measure every goal with each number of threads.

    Args:
        threads: Numbers of threads.
        quick: One layer of each goal and few samples.

    Returns:
        One row per layer and number of threads, and one verdict per goal.
    """
    rows: list[dict[str, Any]] = []
    verdicts = [Verdict(goal, "speedup", {}) for goal in GOALS]
    verdicts += [Verdict(goal, "sparsity", {}) for goal in CROSSOVERS]
    for count in threads:
        torch.set_num_threads(count)
        print(f"\n{count} thread(s)")
        for verdict in verdicts:
            value: float | None
            if verdict.kind == "speedup":
                found, value = measure_speedup(verdict.goal, quick=quick)
            else:
                found, value = measure_crossover(verdict.goal, quick=quick)
            rows += found
            verdict.measured[count] = value
    return rows, verdicts
