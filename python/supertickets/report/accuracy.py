"""Section: accuracy against sparsity, for the jackpot and everything it has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from supertickets.report import numbers
from supertickets.report.blocks import Block, Cell, Column, Figure, Panel, Section, Table, Text
from supertickets.report.charts import Axis, Point, Series, line_chart, sizes
from supertickets.report.findings import Finding, dense_row, test_count, versus
from supertickets.report.read import Row, Run

NAMES = {
    "dense": "dense network",
    "jackpot": "jackpot",
    "jackpot-tuned": "jackpot, weights tuned",
    "random-start": "search from a random start",
    "magnitude-bn": "magnitude, BN re-estimated",
    "magnitude": "magnitude, one shot",
    "random": "random mask, BN re-estimated",
}
_LINE_NAMES = {
    "dense": "dense",
    "jackpot": "jackpot",
    "jackpot-tuned": "jackpot, tuned",
    "random-start": "random start",
    "magnitude-bn": "magnitude + BN",
    "magnitude": "magnitude",
    "random": "random mask",
}
_DODGE = 0.055  # of the distance between halvings of the density: intervals stand side by side

_COLUMNS = (
    Column("Network", numeric=False),
    Column("Sparsity"),
    Column("Test accuracy", note="%"),
    Column("95 % interval", note="%"),
    Column("Against dense", note="points"),
    Column("Validation", note="%"),
    Column("Density", note="% of weights"),
    Column("Effective MACs", note="exact, per image"),
    Column("Epochs"),
    Column("Retrained", numeric=False),
)


def section(run: Run, finding: Finding) -> Section:
    """Draw accuracy against sparsity, whole and enlarged, and print every row.

    Args:
        run: The run; jackpots without rows are left out.
        finding: What the page speaks of.

    Returns:
        The section; it says so where no row was recorded.
    """
    blocks: list[Block] = []
    if any(jackpot.figures.rows for jackpot in run.jackpots):
        blocks += [*_figures(run), _table(run), Text(_how_to_read(run))]
    else:
        blocks.append(Text("No mask search has recorded its comparison yet.", missing=True))
    return Section("accuracy", "Accuracy against sparsity", _lead(run, finding), blocks)


def _lead(run: Run, finding: Finding) -> str:
    """How the jackpot at the headline's sparsity stands to every other row."""
    jackpot, dense = finding.jackpot, dense_row(run)
    row = jackpot.figures.row("jackpot") if jackpot else None
    if jackpot is None or row is None or row.test_accuracy is None:
        return ""
    rows = {other.name: other for other in jackpot.figures.rows if other.name in NAMES}
    if dense is not None:
        rows["dense"] = dense
    parts = [
        f"{versus(row.test_accuracy, other.test_accuracy)} {_in_a_sentence(name)}"
        for name, other in sorted(rows.items(), key=lambda item: list(NAMES).index(item[0]))
        if name != "jackpot" and other.test_accuracy is not None
    ]
    if not parts:
        return ""
    listed = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return f"At {numbers.brief_percent(jackpot.sparsity)} sparsity the jackpot is {listed}."


def _in_a_sentence(name: str) -> str:
    return {
        "dense": "the dense network",
        "jackpot-tuned": "itself with its weights tuned",
        "random-start": "the search from a random start",
        "magnitude-bn": "magnitude pruning with batch norm re-estimated",
        "magnitude": "plain magnitude pruning",
        "random": "a random mask of equal rates",
    }[name]


def _how_to_read(run: Run) -> str:
    number = test_count(run)
    images = f"{numbers.count(number)} test images" if number else "the test images"
    return (
        f"Every accuracy is measured on the same {images}, which no choice was made on. The "
        "interval is the exact binomial one. It tells how far the figure may be from the accuracy "
        "on all images of this kind; as all rows share their images, it overstates the doubt "
        "about a difference between two rows. It does not cover the choice of the seed: this is "
        "one run. Epochs are those of training for the dense network and of the mask search for "
        "the others."
    )


def _figures(run: Run) -> Iterator[Figure]:
    number = test_count(run)
    sparsities = sorted({jackpot.sparsity for jackpot in run.jackpots})
    values = [
        row.test_accuracy
        for jackpot in run.jackpots
        for row in jackpot.figures.rows
        if row.test_accuracy is not None
    ]
    if not values:
        return
    whole = Axis("test accuracy", 0, 1, [(tick / 5, f"{tick * 20} %") for tick in range(6)])
    yield Figure(
        "figure-accuracy",
        "Test accuracy of every sub-network. Only the jackpot and the random start were searched "
        "for; the scale of the sparsity is logarithmic in what is kept.",
        [_panel(_series(run, sparsities, None, whole), sparsities, whole, "Test accuracy", 380)],
    )
    zoom = _zoomed_axis(run, values, number)
    if zoom is not None:
        series = _series(run, sparsities, number, zoom)
        caption = "The top of the same chart, with 95 % intervals."
        if any(one.points[-1].y < zoom.low for one in series):
            caption += " An arrow marks a line that ends below it."
        panel = _panel(series, sparsities, zoom, "Enlarged", 340)
        yield Figure("figure-accuracy-top", caption, [panel])


def _panel(
    series: Sequence[Series], sparsities: Sequence[float], y_axis: Axis, what: str, height: int
) -> Panel:
    label = f"{what} against sparsity: {', '.join(one.label for one in series)}."
    x_axis = _sparsity_axis(sparsities)
    return Panel(
        sizes(
            lambda width: line_chart(
                series, x_axis, y_axis, label=label, width=width, height=height
            )
        )
    )


def _sparsity_axis(sparsities: Sequence[float]) -> Axis:
    ticks = [(_position(value), numbers.brief_percent(value)) for value in sparsities]
    pad = 0.3
    return Axis("sparsity (share of weights removed)", ticks[0][0] - pad, ticks[-1][0] + pad, ticks)


def _position(sparsity: float) -> float:
    """Halving the density is one step to the right."""
    return -math.log2(1 - sparsity)


def _zoomed_axis(run: Run, values: Sequence[float], number: int | None) -> Axis | None:
    """From below the jackpots to above the best row, if that is worth a second chart."""
    rows = (jackpot.figures.row("jackpot") for jackpot in run.jackpots)
    jackpots = [row.test_accuracy for row in rows if row and row.test_accuracy is not None]
    if not jackpots:
        return None
    ends = numbers.interval(min(jackpots), number)
    low = math.floor(50 * (ends[0] if ends else min(jackpots)) - 0.1) / 50
    if low < 0.4:
        return None
    high = min(1.0, math.ceil(50 * (max(values) + 0.01)) / 50)
    ticks = [(tick, numbers.percent(tick, 0)) for tick in numbers.nice_ticks(low, high, 8)]
    return Axis("test accuracy, enlarged", low, high, ticks)


def _series(
    run: Run, sparsities: Sequence[float], number: int | None, y_axis: Axis
) -> list[Series]:
    """One series per row name; with a number of images, intervals and room for them."""
    named: dict[str, list[tuple[float, Row]]] = {}
    for jackpot in run.jackpots:
        for row in jackpot.figures.rows:
            if row.name != "dense" and row.test_accuracy is not None:
                named.setdefault(row.name, []).append((jackpot.sparsity, row))
    order = sorted(named, key=_rank, reverse=True)
    series = []
    for index, name in enumerate(order):
        shift = (index - (len(order) - 1) / 2) * _DODGE if number else 0.0
        points = [_point(sparsity, row, number, shift) for sparsity, row in named[name]]
        inside = sum(y_axis.low <= point.y <= y_axis.high for point in points)
        if 2 * inside >= len(points):  # a line that is hardly there only adds its name
            series.append(
                Series(name, _LINE_NAMES.get(name, name), points, strong=name == "jackpot")
            )
    dense = dense_row(run)
    if dense is None or dense.test_accuracy is None:
        return series
    edges = (_position(sparsities[0]) - 0.3, _position(sparsities[-1]) + 0.3)
    text = f"dense network: {numbers.percent(dense.test_accuracy)}"
    line = [Point(edge, dense.test_accuracy, text) for edge in edges]
    return [Series("dense", "dense", line, markers=False), *series]


def _point(sparsity: float, row: Row, number: int | None, shift: float) -> Point:
    assert row.test_accuracy is not None
    ends = numbers.interval(row.test_accuracy, number)
    text = (
        f"{NAMES.get(row.name, row.name)} at {numbers.brief_percent(sparsity)}: "
        f"{numbers.percent(row.test_accuracy)}"
    )
    if ends is not None:
        text += f" (95 % interval {numbers.interval_text(ends)})"
    low, high = ends if ends is not None else (None, None)
    return Point(_position(sparsity) + shift, row.test_accuracy, text, low, high)


def _rank(name: str) -> int:
    names = list(NAMES)
    return names.index(name) if name in names else len(names)


def _table(run: Run) -> Table:
    number, dense = test_count(run), dense_row(run)
    rows: list[tuple[float, Row]] = [(0.0, dense)] if dense is not None else []
    for jackpot in run.jackpots:
        found = [row for row in jackpot.figures.rows if row.name != "dense"]
        rows += [(jackpot.sparsity, row) for row in sorted(found, key=lambda r: _rank(r.name))]
    strong = frozenset(index for index, (_, row) in enumerate(rows) if row.name == "jackpot")
    images = f" on {numbers.count(number)} test images" if number else ""
    return Table(
        "table-accuracy",
        f"Every network scored{images}",
        _COLUMNS,
        [_cells(sparsity, row, dense, number) for sparsity, row in rows],
        strong,
    )


def _cells(sparsity: float, row: Row, dense: Row | None, number: int | None) -> list[Cell]:
    accuracy = row.test_accuracy
    base = dense.test_accuracy if dense is not None else None
    gap = None if accuracy is None or base is None or row.name == "dense" else accuracy - base
    ends = numbers.interval(accuracy, row.test_count or number)
    return [
        Cell(NAMES.get(row.name, row.name), series=row.name),
        Cell(numbers.brief_percent(sparsity), sparsity),
        Cell(numbers.bare_percent(accuracy), accuracy),
        Cell(numbers.interval_text(ends), ends[0] if ends else None),
        Cell(numbers.signed_points(gap), gap),
        Cell(numbers.bare_percent(row.validation_accuracy), row.validation_accuracy),
        Cell(numbers.bare_percent(row.density, 2), row.density),
        Cell(numbers.count(row.effective_macs), row.effective_macs),
        Cell(numbers.count(row.epochs), row.epochs),
        Cell(numbers.yes_no(row.retrained)),
    ]
