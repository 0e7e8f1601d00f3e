"""Section: how the searches went, from the magnitude mask and from a random start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from supertickets.report import numbers
from supertickets.report.blocks import (
    Block,
    Cell,
    Column,
    Details,
    Figure,
    Panel,
    Section,
    Table,
    Text,
)
from supertickets.report.charts import Axis, Point, Series, legend, line_chart
from supertickets.report.read import Epoch, Jackpot, Run

Value = Callable[[Epoch], float | None]

_STARTS = (("jackpot", "start from the magnitude mask"), ("random-start", "random start"))
_EARLY = 3  # epochs: the paper claims a third of the search cost

_COLUMNS = (
    Column("Start", numeric=False),
    Column("Epoch"),
    Column("Loss"),
    Column("Validation", note="%"),
    Column("Swaps", note="done"),
    Column("Wanted", note="by the scores"),
    Column("Restriction", note="ratio or cap"),
    Column("Time"),
)


def section(run: Run) -> Section:
    """Draw loss, swaps and validation accuracy per epoch for every search.

    Args:
        run: The run.

    Returns:
        The section; it says so where no search was recorded.
    """
    searched = [jackpot for jackpot in run.jackpots if jackpot.figures.history]
    if not searched:
        missing = Text("No mask search has recorded its epochs yet.", missing=True)
        return Section("search", "The search", "", [missing])
    blocks: list[Block] = [
        *_figure(searched, "loss", "Training loss per epoch", lambda e: e.loss, _loss_axis),
        *_figure(searched, "swaps", "Mask swaps per epoch", lambda e: e.swaps, _swaps_axis),
        *_figure(
            searched,
            "validation",
            "Validation accuracy per epoch",
            lambda e: e.validation_accuracy,
            _accuracy_axis,
        ),
        Details("Every epoch in numbers", [_table(*each) for each in enumerate(searched)]),
    ]
    fingerprints = {jackpot.figures.source_sha256 for jackpot in searched} - {None}
    if len(fingerprints) == 1:
        blocks.append(Text(_frozen(str(fingerprints.pop()))))
    without = [jackpot for jackpot in searched if not jackpot.figures.history_random_start]
    if without:
        listed = ", ".join(numbers.brief_percent(jackpot.sparsity) for jackpot in without)
        blocks.append(Text(f"No search from a random start is recorded at {listed}.", missing=True))
    return Section("search", "The search", _lead(searched), blocks)


def _frozen(sha256: str) -> str:
    return (
        "Every search took the SHA-256 fingerprint of all weights, biases and batch-norm affine "
        f"parameters before and after, and would have failed on a difference: {sha256}."
    )


def _lead(searched: Sequence[Jackpot]) -> str:
    """Whether the magnitude mask is a head start, at the sparsity where it should matter most."""
    paired = [jackpot for jackpot in searched if jackpot.figures.history_random_start]
    if not paired:
        return ""
    jackpot = paired[-1]
    first = _validation(jackpot.figures.history)[:_EARLY]
    other = _validation(jackpot.figures.history_random_start)
    if len(first) < _EARLY or not other:
        return ""
    target = first[-1]
    reached = next((index for index, value in enumerate(other, 1) if value >= target), None)
    needed = (
        f"the random start needed {_epochs(reached)} for the same"
        if reached is not None
        else f"the random start did not get there in {_epochs(len(other))}"
    )
    return (
        f"At {numbers.brief_percent(jackpot.sparsity)} sparsity the search that starts from the "
        f"magnitude mask has {numbers.percent(target)} validation accuracy after "
        f"{_epochs(_EARLY)}; {needed}."
    )


def _epochs(number: int) -> str:
    return f"{number} {'epoch' if number == 1 else 'epochs'}"


def _validation(history: Sequence[Epoch]) -> list[float]:
    return [e.validation_accuracy for e in history if e.validation_accuracy is not None]


def _figure(
    searched: Sequence[Jackpot],
    ident: str,
    title: str,
    value: Value,
    axis: Callable[[Sequence[float]], Axis],
) -> list[Figure]:
    """One small chart per sparsity; nothing at all if no epoch has the value."""
    panels = []
    for jackpot in searched:
        name = f"{numbers.brief_percent(jackpot.sparsity)} sparsity"
        series = _series(jackpot, value, name)
        values = [point.y for one in series for point in one.points]
        if not values:
            continue
        longest = max(point.x for one in series for point in one.points)
        chart = line_chart(
            series,
            _epoch_axis(longest),
            axis(values),
            label=f"{title}, {name}: {' and '.join(one.label for one in series)}.",
            width=420,
            height=230,
            name_lines=False,
        )
        panels.append(Panel((chart,), name))
    if not panels:
        return []
    scale = "The vertical scales differ." if ident != "validation" and len(panels) > 1 else ""
    return [Figure(f"figure-{ident}", scale, panels, title, legend(_STARTS))]


def _series(jackpot: Jackpot, value: Value, name: str) -> list[Series]:
    figures = jackpot.figures
    histories = (figures.history, figures.history_random_start)
    series = []
    for (key, label), history in zip(_STARTS, histories, strict=True):
        points = [
            Point(index, found, f"{name}, {label}, epoch {index}: {_describe(epoch)}")
            for index, epoch in enumerate(history, 1)
            if (found := value(epoch)) is not None
        ]
        if points:
            markers = len(points) <= 40
            series.append(Series(key, label, points, markers=markers, strong=key == "jackpot"))
    return series[::-1]


def _describe(epoch: Epoch) -> str:
    parts = []
    if epoch.loss is not None:
        parts.append(f"loss {epoch.loss:.3f}")
    if epoch.validation_accuracy is not None:
        parts.append(f"validation {numbers.percent(epoch.validation_accuracy)}")
    if epoch.swaps is not None:
        wanted = f" of {numbers.count(epoch.wanted)} wanted" if epoch.wanted is not None else ""
        parts.append(f"{numbers.count(epoch.swaps)} swaps{wanted}")
    return ", ".join(parts)


def _epoch_axis(longest: float) -> Axis:
    low = 1 - 0.04 * longest
    ticks = numbers.nice_ticks(0, longest, 7)
    shown = [1.0] + [tick for tick in ticks if tick > 1 and tick == round(tick)]
    return Axis("epoch", low, max(longest, 1) + 0.02 * longest, [(t, f"{t:.0f}") for t in shown])


def _from_zero(values: Sequence[float], label: str, form: Callable[[float], str]) -> Axis:
    high = max(*values, 0.0) * 1.06 or 1.0
    return Axis(label, 0, high, [(t, form(t)) for t in numbers.nice_ticks(0, high)])


def _loss_axis(values: Sequence[float]) -> Axis:
    return _from_zero(values, "loss", lambda tick: f"{tick:.3g}")


def _swaps_axis(values: Sequence[float]) -> Axis:
    return _from_zero(values, "swaps", numbers.short_tick)


def _accuracy_axis(values: Sequence[float]) -> Axis:
    low = max(0.0, math.floor(10 * min(values) - 0.2) / 10)
    ticks = [(tick, numbers.percent(tick, 0)) for tick in numbers.nice_ticks(low, 1.0)]
    return Axis("validation accuracy", low, 1.0, ticks)


def _table(index: int, jackpot: Jackpot) -> Table:
    figures = jackpot.figures
    histories = (("magnitude", figures.history), ("random", figures.history_random_start))
    rows = [
        [
            Cell(start),
            Cell(str(number), number),
            Cell(numbers.MISSING if epoch.loss is None else f"{epoch.loss:.4f}", epoch.loss),
            Cell(numbers.bare_percent(epoch.validation_accuracy), epoch.validation_accuracy),
            Cell(numbers.count(epoch.swaps), epoch.swaps),
            Cell(numbers.count(epoch.wanted), epoch.wanted),
            Cell(
                numbers.MISSING if epoch.restriction is None else f"{epoch.restriction:.3g}",
                epoch.restriction,
            ),
            Cell(numbers.duration(epoch.seconds), epoch.seconds),
        ]
        for start, history in histories
        for number, epoch in enumerate(history, 1)
    ]
    name = numbers.brief_percent(jackpot.sparsity)
    best = figures.best_epoch
    return Table(
        f"table-epochs-{index}",
        f"Epochs of the search at {name} sparsity"
        + (f"; the jackpot is that of epoch {best}, the best on validation" if best else ""),
        _COLUMNS,
        rows,
        frozenset([best - 1] if best else []),
    )
