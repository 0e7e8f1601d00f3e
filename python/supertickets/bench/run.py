"""Checks and times the cases, and writes what was found."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import supertickets
from supertickets.bench.cases import OPERATORS, Call, Case, cases_of
from supertickets.errors import InputError
from supertickets.files import write_json
from supertickets.machine import check_device, machine

_SAMPLES, _WARM_UP = 30, 5
_SAMPLE_S = 1e-3  # a sample repeats short calls until it is this long
UNITS = {
    "median_us": "microseconds per call, median",
    "low_us": "microseconds per call, 10th percentile",
    "high_us": "microseconds per call, 90th percentile",
    "gigabytes_per_s": "bytes that the call must move at least, per second",
    "teraflops": "operations that it must do, per second",
    "speedup": "fastest of torch / fastest of ours",
}


@dataclass(frozen=True)
class Timing:
    """Time of one call in microseconds, over all samples."""

    median_us: float
    low_us: float
    high_us: float


@dataclass(frozen=True)
class Row:
    """One case, checked and timed."""

    operator: str
    size: str
    ours: dict[str, Timing]
    rivals: dict[str, Timing]
    memory_bytes: int
    operations: int

    @property
    def best_us(self) -> float:
        """The fastest of ours."""
        return min(t.median_us for t in self.ours.values())

    @property
    def speedup(self) -> float | None:
        """Against the fastest rival."""
        rivals = [t.median_us for t in self.rivals.values()]
        return min(rivals) / self.best_us if rivals else None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **asdict(self),
            "gigabytes_per_s": self.memory_bytes / self.best_us / 1e3,
            "teraflops": self.operations / self.best_us / 1e6,
            "speedup": self.speedup,
        }

    def line(self) -> str:
        """For people."""
        named = {**self.ours, **self.rivals}
        times = ", ".join(f"{name} {t.median_us:.1f} us" for name, t in named.items())
        rates = f"{self.memory_bytes / self.best_us / 1e3:.1f} GB/s"
        if self.operations:
            rates += f", {self.operations / self.best_us / 1e6:.3f} TFLOP/s"
        ratio = "" if self.speedup is None else f"; {self.speedup:.2f}x"
        return f"{self.operator} {self.size}: {times}; {rates}{ratio}"


def bench(
    device: str,
    operators: Iterable[str] = OPERATORS,
    *,
    tiny: bool = False,
    out: Path | None = None,
    news: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Check every case, then time ours and torch's in turn.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:<index>``.
        operators: Some of :data:`OPERATORS`.
        tiny: One small case each, few samples: a rehearsal, not a measurement.
        out: JSON file to write, anew after each case.
        news: Takes a line for each case.

    Returns:
        The document that is written.

    Raises:
        InputError: There is no such device or operator.
        AssertionError: A result is wrong; nothing of that case was timed.
    """
    wanted = list(operators)
    for name in wanted:
        if name not in OPERATORS:
            raise InputError(f"op: must be one of {', '.join(OPERATORS)}, got {name!r}")
    check_device(device)
    place = torch.device(device)
    document: dict[str, Any] = {
        "machine": {**machine(), **_card(place)},
        "versions": {"supertickets": supertickets.__version__, "torch": torch.__version__},
        "device": device,
        "samples": 3 if tiny else _SAMPLES,
        "rehearsal": tiny,
        "units": UNITS,
        "rows": [],
    }
    for name in wanted:
        for case in cases_of(name, place, tiny=tiny):
            row = _measure(case, place, document["samples"])
            news(row.line())
            document["rows"].append(row.document())
            if out is not None:
                write_json(out, document)
    return document


def _card(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    facts = torch.cuda.get_device_properties(device)
    return {
        "gpu": facts.name,
        "capability": f"{facts.major}.{facts.minor}",
        "multiprocessors": facts.multi_processor_count,
        "gpu_memory_bytes": facts.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
    }


def _measure(case: Case, device: torch.device, samples: int) -> Row:
    case.check()
    calls = {**case.ours, **case.rivals}
    repeats = {name: _repeats(call, device) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(samples):
        for name, call in calls.items():
            taken[name].append(_seconds(call, repeats[name], device) / repeats[name] * 1e6)
    timings = {name: _timing(values) for name, values in taken.items()}
    return Row(
        case.operator,
        case.size,
        {name: timings[name] for name in case.ours},
        {name: timings[name] for name in case.rivals},
        case.memory_bytes,
        case.operations,
    )


def _repeats(call: Call, device: torch.device) -> int:
    for _ in range(_WARM_UP):
        seconds = _seconds(call, 1, device)
    return max(1, round(_SAMPLE_S / max(seconds, 1e-7)))


def _seconds(call: Call, repeats: int, device: torch.device) -> float:
    """Time of so many calls; on a GPU by events, which the host's delays do not reach."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(torch.cuda.current_stream(device))
    for _ in range(repeats):
        call()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _timing(values: list[float]) -> Timing:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return Timing(statistics.median(values), deciles[0], deciles[-1])
