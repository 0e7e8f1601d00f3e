"""Measured time of a forward pass."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.evaluate.modes import eval_mode

_WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass on this machine, now.

    Attributes:
        median_us: Median in microseconds.
        quartiles_us: Lower and upper quartile in microseconds.
        repeats: Number of timed passes.
        threads: Threads that torch used inside an operator.
    """

    median_us: float
    quartiles_us: tuple[float, float]
    repeats: int
    threads: int


def latency(model: nn.Module, example: Tensor, repeats: int = 30) -> Latency:
    """Time forward passes in evaluation mode, without gradients, after a warm-up.

    Args:
        model: On the device of ``example``.
        example: The input, batch included.
        repeats: Timed passes, at least 2.

    Returns:
        The figures; each pass ends when the device has finished it.

    Raises:
        InputError: ``repeats`` is below 2.
    """
    if repeats < 2:
        raise InputError(f"latency: repeats must be at least 2, got {repeats}")
    times_us: list[float] = []
    with eval_mode(model), torch.no_grad():
        for turn in range(_WARM_UP + repeats):
            _finish(example)
            start = time.perf_counter_ns()
            model(example)
            _finish(example)
            if turn >= _WARM_UP:
                times_us.append((time.perf_counter_ns() - start) / 1e3)
    low, median, high = statistics.quantiles(times_us, n=4, method="inclusive")
    return Latency(median, (low, high), repeats, torch.get_num_threads())


def _finish(example: Tensor) -> None:
    if example.device.type == "cuda":
        torch.cuda.synchronize(example.device)
