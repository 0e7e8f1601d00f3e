"""What a training leaves besides the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainResult:
    """The figures of a finished training.

    Attributes:
        history: One row per epoch: ``epoch`` (from 1), ``loss`` (mean over the samples), ``lr`` (of
            the epoch's first step), the callbacks' figures, the evaluation's, and ``seconds``.
        best_epoch: Epoch (from 1) with the largest metric, the earliest of equals; None when no
            epoch has the metric.
        wall_s: Seconds of all epochs, those before a kill included.
    """

    history: list[dict[str, float]]
    best_epoch: int | None
    wall_s: float


def best_epoch(history: Sequence[Mapping[str, float]], metric: str) -> int | None:
    """Find the epoch (from 1) with the largest ``metric``; the earliest of equals, never a NaN."""
    best: tuple[float, int] | None = None
    for row in history:
        value = row.get(metric, float("nan"))
        if value == value and (best is None or value > best[0]):
            best = (value, int(row["epoch"]))
    return None if best is None else best[1]
