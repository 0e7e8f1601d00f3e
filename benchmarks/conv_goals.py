"""The goals that masked_conv2d is measured by: speed-ups over torch's dense convolution.

The dense side runs in channels_last; for a single image, in whichever of channels_last and plain
NCHW is faster. "lanes" means that input and output stay in the batch-inner layout; in the other
cases they are plain tensors.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
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
KEY = ("goal", "threads", "shape", "density")  # what tells rows apart


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
        figures = (f"{n}-thread {self._figure(v):>6}" for n, v in self.measured.items())
        return f"{self.goal.case:<52}goal {self._figure(self.goal.target):>6}  {'  '.join(figures)}"

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


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Give what tells the row apart from others."""
    return tuple(row[name] for name in KEY)


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows as one run over all goals gives them."""
    places = {
        (goal.name, shape.name, goal.density): place
        for place, (goal, shape) in enumerate(_parts(quick=False))
    }

    def place_of(row: dict[str, Any]) -> tuple[int, int]:
        return row["threads"], places[row["goal"], row["shape"], row["density"]]

    return sorted(rows, key=place_of)


def measure_goals(threads: Sequence[int], pattern: str, *, quick: bool) -> list[dict[str, Any]]:
    """Measure the goals layer by layer, and print a line for each.

    Args:
        threads: Numbers of threads.
        pattern: Only rows whose label, like ``forward-90 resnet50-c2-3x3 1-thread``, it finds.
        quick: One layer of each goal and few samples.

    Returns:
        One row per goal, layer, density and number of threads.
    """
    rows = []
    for count in threads:
        torch.set_num_threads(count)
        print(f"\n{count} thread(s)")
        for goal, shape in _parts(quick=quick):
            if re.search(pattern, f"{goal.name} {shape.name} {count}-thread"):
                rows.append(measure(goal, shape, QUICK_REPEATS if quick else REPEATS))
    return rows


def verdicts_of(rows: Sequence[dict[str, Any]], *, quick: bool) -> list[Verdict]:
    """Sum rows up, goal by goal; where a layer is missing, a goal has no figure."""
    speedups = {key_of(row): row["speedup"] for row in rows}
    counts = sorted({row["threads"] for row in rows})
    verdicts = [Verdict(goal, "speedup", {}) for goal in GOALS]
    verdicts += [Verdict(goal, "sparsity", {}) for goal in CROSSOVERS]
    for verdict, count in itertools.product(verdicts, counts):
        parts = [part for part in _parts(quick=quick) if part[0].name == verdict.goal.name]
        keys = [(goal.name, count, shape.name, goal.density) for goal, shape in parts]
        if any(key not in speedups for key in keys):
            continue
        means = {
            density: geometric_mean(speedups[key] for key in keys if key[-1] == density)
            for density in dict.fromkeys(key[-1] for key in keys)
        }
        if verdict.kind == "speedup":
            verdict.measured[count] = means[verdict.goal.density]
        else:
            verdict.measured[count] = crossing([1 - d for d in means], list(means.values()))
    return verdicts


def _parts(*, quick: bool) -> Iterator[tuple[Goal, ConvShape]]:
    """Every goal, at every density it is measured at, with each of its layers."""
    varied = (replace(g, density=d) for g in CROSSOVERS for d in CROSSOVER_DENSITIES)
    for goal in (*GOALS, *varied):
        for shape in goal.shapes[QUICK_SHAPE] if quick else goal.shapes:
            yield goal, shape
