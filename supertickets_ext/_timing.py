"""Times calls side by side, quickly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

BUDGET_S = 0.05
_CPU = torch.device("cpu")
_ROUNDS = 9
_SAMPLE_S = 50e-6  # a shorter call is repeated until it takes this long
# After so many rounds, contenders this many times slower than the fastest are not timed again;
# two rounds at least, for other work on the machine may hit any one of them.
_CLEAR = {2: 3.0, 3: 2.0, 4: 1.5}


def seconds_now(device: torch.device) -> float:
    """The clock, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def race(
    contenders: Mapping[str, Callable[[], object]],
    budget_s: float = BUDGET_S,
    device: torch.device = _CPU,
) -> dict[str, float]:
    """Time the contenders in turn, so that all meet the same machine.

    Args:
        contenders: What to call, by name.
        budget_s: No new round starts after this many seconds; two are always made.
        device: Where they compute.

    Returns:
        Time of a call by name, in microseconds: the least, which other work on the machine spoils
        least.
    """
    start = time.perf_counter()
    repeats = {name: _repeats(call, device) for name, call in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    running = list(contenders)
    for done in range(1, _ROUNDS + 1):
        for name in running:
            seconds = _seconds(contenders[name], repeats[name], device)
            samples[name].append(seconds / repeats[name])
        if done in _CLEAR:
            fastest = min(map(min, samples.values()))
            limit = _CLEAR[done] * fastest
            running = [name for name in running if min(samples[name]) <= limit]
        if done >= min(_CLEAR) and (time.perf_counter() - start > budget_s or len(running) == 1):
            break
    return {name: min(values) * 1e6 for name, values in samples.items()}


def _seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    start = seconds_now(device)
    for _ in range(repeats):
        call()
    return seconds_now(device) - start


def _repeats(call: Callable[[], object], device: torch.device) -> int:
    # On a GPU the host waits once a sample: longer samples hide that.
    sample_s = _SAMPLE_S if device.type == "cpu" else 20 * _SAMPLE_S
    first = _seconds(call, 1, device)  # sets up caches
    if first > sample_s:
        return 1
    return max(1, round(sample_s / max(_seconds(call, 1, device), 1e-7)))
