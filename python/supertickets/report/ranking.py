"""Section: how architectures were ranked without training, and what the ranking was worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from supertickets.report import numbers
from supertickets.report.blocks import Block, Cell, Column, Details, Figure, Panel, Section, Table
from supertickets.report.charts import Axis, Point, Series, legend, line_chart, sizes
from supertickets.report.read import (
    CorrelateFigures,
    Removal,
    Round,
    Run,
    ScoredRepeats,
    SearchFigures,
)

_ROUNDS = ("level-0", "level-1", "level-2", "level-3", "level-4")
_EDGES = "level-5"
_PATH = "jackpot"
_NAMES = {"kappa": "kappa", "regions": "R", "both": "kappa and R", "macs": "MACs"}
_THIRDS = (("level-2", "highest third"), ("level-1", "middle"), ("level-4", "lowest third"))


def sections(run: Run) -> list[Section]:
    """Draw every ranking of a run; none where there is none."""
    found = [_search_section(stage, figures) for stage, figures in run.searches]
    return found + [_table_section(stage, figures) for stage, figures in run.correlations]


def _search_section(stage: str, figures: SearchFigures) -> Section:
    blocks: list[Block] = [_plane(stage, figures), _rounds_table(stage, figures)]
    agreement = _agreement(stage, figures)
    if agreement is not None:
        blocks.append(agreement)
    rows = [_removal_row(one.name, removal) for one in figures.rounds for removal in one.removals]
    head = ("Round", "Edge", "Operation", "kappa", "R", "Rank sum", "Removed")
    columns = [Column(name, numeric=name in ("kappa", "R", "Rank sum")) for name in head]
    table = Table(f"table-{stage}-removals", "Every removal that was judged", columns, rows)
    blocks.append(Details("Every removal in numbers", [table]))
    return Section(stage, "The pruning search", _search_lead(figures), blocks)


def _search_lead(figures: SearchFigures) -> str:
    words = (
        f"From a supernet of every operation to {figures.arch}: "
        f"{numbers.count(figures.parameters)} parameters and {numbers.count(figures.macs)} MACs "
        "in its evaluation network. No label was read and nothing was trained."
    )
    known = []
    for name, accuracy in (figures.accuracies or {}).items():
        share = (figures.table_shares or {}).get(name)
        above = f", above {numbers.percent(share)} of the table" if share is not None else ""
        known.append(f"{accuracy:.2f} ({name}{above})")
    return words + (f" Trained, says the table, it reaches {'; '.join(known)}." if known else "")


def _plane(stage: str, figures: SearchFigures) -> Figure:
    """The kappa-R plane: what each round had to choose from, and the path that was taken."""
    series, entries = [], []
    colours: dict[str, str] = {}
    for one in figures.rounds:
        key = _EDGES if one.kind == "edges" else _ROUNDS[len(colours) % len(_ROUNDS)]
        label = "inputs of nodes" if one.kind == "edges" else one.name
        if colours.setdefault(label, key) == key and (key, label) not in entries:
            entries.append((key, label))
        points = [
            Point(*place, f"{one.name}, without {removal.operation} on {removal.edge}")
            for removal in one.removals
            if (place := _place(removal.scores)) is not None
        ]
        series.append(Series(key, label, points, joined=False))
    path = [
        Point(*place, f"before {one.name}: {_scores_text(one.scores)}")
        for one in figures.rounds
        if (place := _place(one.scores)) is not None
    ]
    last = _place(figures.scores)
    if last is not None:
        path.append(Point(*last, f"found: {_scores_text(figures.scores)}"))
    series.append(Series(_PATH, "the search", path, strong=True))
    entries.append((_PATH, "the search: before each round, and what was found"))
    points = [point for one in series for point in one.points]
    if not points:
        return Figure(f"figure-{stage}-plane", "No network had a condition number.", [])
    x_axis = _decades("kappa, condition number of the kernel", [point.x for point in points])
    y_axis = _linear("R, linear regions", [point.y for point in points])
    drawings = sizes(
        lambda width: line_chart(
            series, x_axis, y_axis, label="Kappa and R of every network that the search scored.",
            width=width, height=430 if width > 400 else 330, name_lines=False,
        )
    )  # fmt: skip
    caption = (
        "Better is up and to the left. Every round draws weights and images of its own, so that "
        "rounds compare only roughly; within a round all networks share them."
    )
    return Figure(
        f"figure-{stage}-plane",
        caption,
        [Panel(drawings)],
        "The search in the kappa-R plane",
        legend(entries, lines=False),
    )


def _rounds_table(stage: str, figures: SearchFigures) -> Table:
    columns = [
        Column("Network", numeric=False),
        Column("kappa", note="geometric mean"),
        Column("spread", note="factor"),
        Column("R", note="mean"),
        Column("spread"),
        Column("Removals", note="judged"),
        Column("Removed"),
    ]
    rows = []
    for one in figures.rounds:
        gone = sum(removal.removed for removal in one.removals)
        counts = [Cell(str(number), number) for number in (len(one.removals), gone)]
        rows.append([Cell(f"before {one.name}"), *_score_cells(one.scores), *counts])
    rows.append([Cell("found"), *_score_cells(figures.scores), Cell(""), Cell("")])
    return Table(f"table-{stage}-rounds", "Networks on the path", columns, rows, sortable=False)


def _score_cells(scores: dict[str, ScoredRepeats]) -> list[Cell]:
    kappa, regions = scores.get("kappa"), scores.get("regions")
    mean = math.exp(kappa.mean) if kappa and kappa.mean is not None else None
    factor = math.exp(kappa.spread) if kappa and kappa.spread is not None else None
    count = regions.mean if regions else None
    spread = regions.spread if regions else None
    return [
        Cell(numbers.MISSING if mean is None else f"{mean:.4g}", mean),
        Cell(numbers.MISSING if factor is None else f"{factor:.2f}", factor),
        Cell(numbers.MISSING if count is None else f"{count:.1f}", count),
        Cell(numbers.MISSING if spread is None else f"{spread:.1f}", spread),
    ]


def _removal_row(name: str, removal: Removal) -> list[Cell]:
    kappa, _, regions, _ = _score_cells(removal.scores)
    return [
        Cell(name),
        Cell(removal.edge),
        Cell(removal.operation),
        kappa,
        regions,
        Cell(str(removal.rank_sum), removal.rank_sum),
        Cell(numbers.yes_no(removal.removed)),
    ]


def _agreement(stage: str, figures: SearchFigures) -> Table | None:
    """How far two repeats order a round's removals alike."""
    rows = []
    for one in figures.rounds:
        taus = {name: _round_taus(one, name) for name in ("kappa", "regions")}
        if any(taus.values()):
            cells = [
                Cell(f"{sum(t) / len(t):.2f}", sum(t) / len(t)) if t else Cell(numbers.MISSING)
                for t in taus.values()
            ]
            rows.append([Cell(one.name), *cells])
    if not rows:
        return None
    columns = [Column("Round", numeric=False), Column("kappa"), Column("R")]
    caption = "Stability: Kendall tau of removals between repeats"
    return Table(f"table-{stage}-repeats", caption, columns, rows, sortable=False)


def _round_taus(one: Round, name: str) -> list[float]:
    columns = [removal.scores[name].values for removal in one.removals if name in removal.scores]
    return _pair_taus(columns) if len(columns) > 2 else []


def _pair_taus(rows: Sequence[Sequence[float | None]]) -> list[float]:
    """Compare every two repeats over the rows that both have."""
    from scipy.stats import kendalltau

    repeats = min(len(row) for row in rows)
    found = []
    for first in range(repeats):
        for second in range(first + 1, repeats):
            pairs = [
                (row[first], row[second])
                for row in rows
                if row[first] is not None and row[second] is not None
            ]
            tau = float(kendalltau(*zip(*pairs, strict=True)).statistic) if pairs else math.nan
            if math.isfinite(tau):
                found.append(tau)
    return found


def _table_section(stage: str, figures: CorrelateFigures) -> Section:
    blocks: list[Block] = [_correlation_table(stage, figures)]
    blocks += _against_accuracy(stage, figures)
    if {"kappa", "regions"} <= figures.columns.keys():
        blocks.append(_table_plane(stage, figures))
    blocks += _stability(stage, figures)
    return Section(stage, "Scores against trained accuracies", _table_lead(figures), blocks)


def _table_lead(figures: CorrelateFigures) -> str:
    accuracy = next(iter(figures.correlations), None)
    if accuracy is None:
        return ""
    taus = {
        name: value
        for name, row in figures.correlations[accuracy].items()
        if (value := (row.get("kendall") or {}).get("value")) is not None
    }
    if not taus or "parameters" not in taus:
        return ""
    best = max(taus, key=lambda name: abs(taus[name]))
    count = taus["parameters"]
    against = (
        "Nothing measured here beats counting parameters"
        if abs(taus[best]) <= abs(count)
        else f"The best score is {_name(best)}, Kendall tau {taus[best]:+.3f}; counting parameters "
        "gives"
    )
    return f"{against}{' with' if against.startswith('No') else ''} {count:+.3f} ({accuracy})."


def _correlation_table(stage: str, figures: CorrelateFigures) -> Table:
    kinds = (("kendall", "Kendall tau"), ("spearman", "Spearman"), ("weighted", "Weighted tau"))
    columns = [Column("Accuracy", numeric=False), Column("Score", numeric=False)]
    columns += [Column(label, note="95 % interval") for _, label in kinds]
    rows = []
    for accuracy, scores in figures.correlations.items():
        for name, row in scores.items():
            cells = []
            for kind, _ in kinds:
                one = row.get(kind) or {}
                value, low, high = (one.get(key) for key in ("value", "low", "high"))
                ends = f" [{low:+.2f}, {high:+.2f}]" if low is not None and high is not None else ""
                text = numbers.MISSING if value is None else f"{value:+.3f}{ends}"
                cells.append(Cell(text, value))
            rows.append([Cell(accuracy), Cell(_name(name)), *cells])
    caption = f"Agreement over {figures.cells} architectures; parameters and MACs are the baselines"
    return Table(f"table-{stage}", caption, columns, rows)


def _against_accuracy(stage: str, figures: CorrelateFigures) -> list[Figure]:
    """Rank by each score against accuracy, for the first accuracy of the table."""
    if not figures.accuracies:
        return []
    from scipy.stats import rankdata

    name, accuracies = next(iter(figures.accuracies.items()))
    y_axis = _linear(name, accuracies)
    panels = []
    for column, values in figures.columns.items():
        sign = figures.signs.get(column, 1)
        worst = min((sign * v for v in values if v is not None), default=0.0) - 1
        ranks = rankdata([worst if v is None else sign * v for v in values])
        points = [
            Point(float(rank), accuracy, f"{arch}: {accuracy:.2f}")
            for rank, accuracy, arch in zip(ranks, accuracies, figures.archs, strict=True)
        ]
        chart = line_chart(
            [Series("level-0", column, points, joined=False)],
            _linear("rank, the best right", [0, len(points)]),
            y_axis, label=f"Rank by {_name(column)} against {name}.",
            width=420, height=260, name_lines=False,
        )  # fmt: skip
        panels.append(Panel((chart,), _name(column)))
    return [Figure(f"figure-{stage}-ranks", "", panels, "Ranks against accuracy")]


def _table_plane(stage: str, figures: CorrelateFigures) -> Figure:
    from scipy.stats import rankdata

    accuracies = next(iter(figures.accuracies.values()), [])
    thirds = rankdata(accuracies, method="ordinal") * 3 // (len(accuracies) + 1)
    columns = zip(figures.columns["kappa"], figures.columns["regions"], thirds, strict=True)
    groups: dict[str, list[Point]] = {key: [] for key, _ in _THIRDS}
    for (kappa, regions, third), arch in zip(columns, figures.archs, strict=True):
        if kappa is not None and regions is not None:
            key = _THIRDS[2 - int(third)][0]
            groups[key].append(Point(kappa / math.log(10), regions, arch))
    points = [point for group in groups.values() for point in group]
    if not points:
        return Figure(f"figure-{stage}-plane", "No network had a condition number.", [])
    x_axis = _decades("kappa", [point.x for point in points])
    y_axis = _linear("R, linear regions", [point.y for point in points])
    series = [Series(key, label, groups[key], joined=False) for key, label in _THIRDS]
    drawings = sizes(
        lambda width: line_chart(
            series, x_axis, y_axis, label="Kappa and R of every architecture scored.",
            width=width, height=400 if width > 400 else 330, name_lines=False,
        )
    )  # fmt: skip
    caption = f"By {next(iter(figures.accuracies))}; rank-deficient networks are left out."
    entries = legend(_THIRDS, lines=False)
    return Figure(f"figure-{stage}-plane", caption, [Panel(drawings)], "Kappa-R plane", entries)


def _stability(stage: str, figures: CorrelateFigures) -> list[Figure]:
    """The first repeat against the second, for every indicator."""
    panels = []
    for name, rows in figures.repeats.items():
        pairs = [
            (row[0], row[1], arch)
            for row, arch in zip(rows, figures.archs, strict=True)
            if len(row) > 1 and row[0] is not None and row[1] is not None
        ]
        if len(pairs) < 3:
            continue
        points = [Point(one, two, arch) for one, two, arch in pairs]
        low, high = ("first repeat", "second repeat")
        chart = line_chart(
            [Series("level-0", name, points, joined=False)],
            _linear(low, [point.x for point in points]),
            _linear(high, [point.y for point in points]),
            label=f"{_name(name)}: first and second repeat.",
            width=420, height=260, name_lines=False,
        )  # fmt: skip
        taus = _pair_taus(rows)
        mean = f", Kendall tau {sum(taus) / len(taus):.2f}" if taus else ""
        label = "log kappa" if name == "kappa" else _name(name)
        panels.append(Panel((chart,), f"{label}{mean} between repeats"))
    return (
        [Figure(f"figure-{stage}-repeats", "", panels, "Stability over repeats")] if panels else []
    )


def _name(column: str) -> str:
    return _NAMES.get(column, column)


def _place(scores: dict[str, ScoredRepeats]) -> tuple[float, float] | None:
    kappa, regions = scores.get("kappa"), scores.get("regions")
    if kappa is None or regions is None or kappa.mean is None or regions.mean is None:
        return None
    return kappa.mean / math.log(10), regions.mean


def _scores_text(scores: dict[str, ScoredRepeats]) -> str:
    kappa, _, regions, _ = _score_cells(scores)
    return f"kappa {kappa.text}, R {regions.text}"


def _linear(label: str, values: Sequence[float]) -> Axis:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.04 * (high - low) or 1.0
    return _axis(label, low - room, high + room, numbers.short_tick)


def _decades(label: str, values: Sequence[float]) -> Axis:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.04 * (high - low) or 0.2
    axis = _axis(f"{label} (log scale)", low - room, high + room, str)
    powers = [float(power) for power in range(math.ceil(low - room), math.floor(high + room) + 1)]
    ticks = powers if len(powers) > 1 else [value for value, _ in axis.ticks]
    return Axis(axis.label, axis.low, axis.high, [(t, _power(t)) for t in ticks])


def _power(exponent: float) -> str:
    value = 10**exponent
    return f"{value:,.0f}" if 1 <= value < 1e6 else f"{value:.0e}"


def _axis(label: str, low: float, high: float, form: Callable[[float], str]) -> Axis:
    return Axis(label, low, high, [(tick, form(tick)) for tick in numbers.nice_ticks(low, high)])
