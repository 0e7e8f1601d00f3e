"""Cells and lines that several tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def milliseconds(timing: Mapping[str, Any]) -> str:
    spread = (timing["high_us"] - timing["low_us"]) / timing["median_us"]
    return f"{timing['median_us'] / 1e3:.3g} ms ± {spread / 2:.0%}"


def place(stored: Mapping[str, Any]) -> str:
    machine = stored["machine"]
    return (
        f"{machine['cpu']}, {machine['instruction_set']}, torch {machine['torch']}, float32; "
        "medians, ± half the distance between the outer deciles; alternating in one process."
    )


def threads_text(count: int | str) -> str:
    return "1 thread" if str(count) == "1" else f"{count} threads"


def goal_figure(kind: str, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.2f}x" if kind == "speedup" else f"{value:.0%}"


def machine_text(stored: Mapping[str, Any], threads: Sequence[int | str] = ()) -> str:
    machine = stored["machine"]
    counts = " and ".join(map(str, threads or [machine["threads"]]))
    dtype = "float32 unless said" if threads else "float32"
    return (
        f"{machine['cpu']}, {counts} thread{'' if counts == '1' else 's'}, "
        f"{machine['instruction_set']}, torch {machine['torch']}, {dtype}; medians of "
        f"{samples(stored)} samples, alternating."
    )


def samples(stored: Mapping[str, Any]) -> int:
    row = stored["rows"][0]
    timing = row["ours"] if "ours" in row else next(iter(row["timings"].values()))
    return int(timing["samples"])


def figure(value: Mapping[str, float | None]) -> str:
    half = value["half_width_95"]
    return f"{value['mean']:.1f}" if half is None else f"{value['mean']:.1f} ± {half:.1f}"
