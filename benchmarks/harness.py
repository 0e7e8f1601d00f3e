"""Timing of contenders side by side, machine facts, and result files."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

import supertickets_ext

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 30
QUICK_REPEATS = 7  # for a look while developing; the result file says how many were taken
WARM_UP = 5
SLOW_EVERY = 5  # rounds between two samples of a slow contender
SAMPLE_S = 0.0005  # a sample repeats short calls until it is this long
UNITS = {
    "median_us": "microseconds per call, median",
    "low_us": "microseconds per call, 10th percentile",
    "high_us": "microseconds per call, 90th percentile",
    "speedup": "baseline median / our median",
}


@dataclass(frozen=True)
class Timing:
    """Time of one call, over ``samples`` samples."""

    median_us: float
    low_us: float
    high_us: float
    samples: int

    @property
    def spread(self) -> float:
        """Distance of the outer deciles, relative to the median."""
        return (self.high_us - self.low_us) / self.median_us


@runtime_checkable
class TimesItself(Protocol):
    """A contender in another process, which measures there what its calls take."""

    def seconds(self, calls: int) -> float:
        """Make so many calls and give the time they took."""


Contender = Callable[[], object] | TimesItself


def compare(
    contenders: Mapping[str, Contender],
    *,
    repeats: int = REPEATS,
    settle: bool = False,
    slow_s: float = math.inf,
) -> dict[str, Timing]:
    """Time the contenders in turn, round by round, so that all meet the same machine.

    Args:
        contenders: What to call, by name.
        repeats: Samples of each, after the warm-up.
        settle: Call a contender once, untimed, before each of its samples: the threads of another
            engine, which may still spin for work, and its data in the caches are then not met.
        slow_s: A contender whose call takes longer has its turn in every fifth round only.

    Returns:
        Timings by name.
    """
    fastest = {name: _fastest_call(call) for name, call in contenders.items()}
    calls = {name: max(1, math.ceil(SAMPLE_S / seconds)) for name, seconds in fastest.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name, call in contenders.items():
            if turn % SLOW_EVERY != 0 and fastest[name] > slow_s:
                continue
            if settle:
                _seconds(call, 1)
            samples[name].append(_seconds(call, calls[name]) / calls[name] * 1e6)
    return {name: timing_of(values) for name, values in samples.items()}


def _seconds(call: Contender, calls: int) -> float:
    if isinstance(call, TimesItself):
        return call.seconds(calls)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def _fastest_call(call: Contender) -> float:
    return max(min(_seconds(call, 1) for _ in range(WARM_UP)), 1e-7)


def timing_of(values: Sequence[float]) -> Timing:
    """Sum samples up, each in microseconds per call."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return Timing(statistics.median(values), deciles[0], deciles[-1], len(values))


def geometric_mean(values: Iterable[float]) -> float:
    """Mean of ratios."""
    return statistics.geometric_mean(values)


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    options.add_argument("--quick", action="store_true", help="few shapes, few samples")
    options.add_argument("--out", type=Path, help="JSON file for the results")
    return options


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    facts = supertickets_ext._C.facts()
    return {
        "cpu": _cpu_fact("model name") or platform.processor(),
        "amx": "amx_tile" in _cpu_fact("flags").split(),
        "architecture": platform.machine(),
        "cores": len(_usable_cores()),
        "threads": torch.get_num_threads(),
        "instruction_set": facts["instruction_set"],
        "compiler": facts["compiler"],
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "supertickets_ext": supertickets_ext.__version__,
    }


def _cpu_fact(name: str) -> str:
    """The first line of that name in Linux's description of the processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _usable_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def commit() -> str:
    """The commit that was timed, marked if the tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"


def merged(stored: Path, rows: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Put new rows in the place of stored ones that agree in all of ``names``; others stay.

    Raises:
        SystemExit: Some would stay that another machine measured.
    """
    if not stored.exists():
        return rows
    document, here = json.loads(stored.read_text()), machine()
    new = {tuple(row[name] for name in names) for row in rows}
    stay = [r for r in document["rows"] if tuple(r.get(name) for name in names) not in new]
    for fact in ("cpu", "instruction_set", "torch"):
        if stay and document["machine"][fact] != here[fact]:
            raise SystemExit(
                f"{stored}: {len(stay)} rows were measured with {fact} "
                f"{document['machine'][fact]!r}, here it is {here[fact]!r}; store elsewhere"
            )
    return stay + rows


def write_results(
    path: Path, benchmark: str, rows: list[dict[str, Any]], summary: Mapping[str, Any]
) -> None:
    """Write one result file; the timings inside ``rows`` may be `Timing` objects.

    Args:
        path: Where to; folders are made.
        benchmark: Name of the benchmark.
        rows: One per shape.
        summary: Figures over all rows.
    """
    document = {
        "schema": 1,
        "benchmark": benchmark,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "units": UNITS,
        "summary": dict(summary),
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, default=lambda value: asdict(value))
    path.write_text(text + "\n")
