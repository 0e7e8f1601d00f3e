"""Times calls side by side, quickly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

BUDGET_S = 0.05
_ROUNDS = 9
_SAMPLE_S = 50e-6  # a shorter call is repeated until it takes this long
_CLEAR = (3.0, 1.5)  # contenders this much slower after the first, and a later, round are left


def race(
    contenders: Mapping[str, Callable[[], object]], budget_s: float = BUDGET_S
) -> dict[str, float]:
    """Time the contenders in turn, so that all meet the same machine.

    Args:
        contenders: What to call, by name.
        budget_s: No new round starts after this many seconds; one is always made.

    Returns:
        Median time of a call by name, in microseconds.
    """
    start = time.perf_counter()
    repeats = {name: _repeats(call) for name, call in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    running = list(contenders)
    for turn in range(_ROUNDS):
        for name in running:
            samples[name].append(_seconds(contenders[name], repeats[name]) / repeats[name])
        fastest = min(statistics.median(values) for values in samples.values())
        limit = _CLEAR[min(turn, 1)] * fastest
        running = [name for name in running if statistics.median(samples[name]) <= limit]
        if time.perf_counter() - start > budget_s or len(running) == 1:
            break
    return {name: statistics.median(values) * 1e6 for name, values in samples.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - start


def _repeats(call: Callable[[], object]) -> int:
    _seconds(call, 1)  # the first call sets up caches
    return max(1, round(_SAMPLE_S / max(_seconds(call, 1), 1e-7)))
