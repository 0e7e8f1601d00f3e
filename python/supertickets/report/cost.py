"""Section: what a jackpot costs, counted exactly and as the papers count it."""

from __future__ import annotations

from supertickets.report import numbers
from supertickets.report.blocks import Block, Cell, Column, Figure, Panel, Section, Table, Text
from supertickets.report.charts import Axis, Dot, DotRow, dot_chart, legend, sizes
from supertickets.report.findings import Finding
from supertickets.report.read import Jackpot, Run

_COLUMNS = (
    Column("Sparsity", numeric=False),
    Column("Density", note="% of weights"),
    Column("Dense MACs", note="per image"),
    Column("Effective MACs", note="exact, per image"),
    Column("Exact share", note="% of dense"),
    Column("Uniform figure", note="MACs, the papers'"),
    Column("Dense network", note="bytes"),
    Column("Ticket on disk", note="bytes"),
    Column("Smaller", note="times"),
)


def section(run: Run, finding: Finding) -> Section:
    """Print MACs and bytes of every jackpot, the exact count beside the uniform one.

    Args:
        run: The run.
        finding: What the page speaks of.

    Returns:
        The section; it says so where no cost was recorded.
    """
    counted = [jackpot for jackpot in run.jackpots if jackpot.figures.macs]
    if not counted:
        missing = Text("No mask search has recorded its MACs yet.", missing=True)
        return Section("cost", "MACs and bytes", "", [missing])
    blocks: list[Block] = []
    if any(jackpot.figures.effective_macs is not None for jackpot in counted):
        blocks.append(_figure(counted))
    blocks += [_table(counted), Text(_how_to_read())]
    return Section("cost", "MACs and bytes", _lead(finding, counted), blocks)


def _lead(finding: Finding, counted: list[Jackpot]) -> str:
    jackpot = finding.jackpot if finding.jackpot in counted else counted[0]
    assert jackpot is not None
    figures = jackpot.figures
    if figures.effective_macs is None or not figures.macs:
        return ""
    sentence = (
        f"At {numbers.brief_percent(jackpot.sparsity)} sparsity "
        f"{numbers.short_count(figures.effective_macs)} of {numbers.short_count(figures.macs)} "
        f"MACs per image remain, {numbers.percent(figures.effective_macs / figures.macs)}"
    )
    if figures.uniform_macs is not None:
        sentence += (
            "; the uniform figure common in papers would say "
            f"{numbers.percent(figures.uniform_macs / figures.macs)}"
        )
    return sentence + "."


def _how_to_read() -> str:
    return (
        "A MAC is one multiplication with one addition; FLOPs are twice that. The exact count "
        "follows each kept weight to every output it serves. The uniform figure multiplies the "
        "dense MACs by the global density; it is too low where layers that serve many pixels are "
        "pruned less than the rest, and too high where they are pruned more. Neither is a "
        "measured time."
    )


def _shares(jackpot: Jackpot) -> tuple[float | None, float | None]:
    figures = jackpot.figures
    if not figures.macs:
        return None, None
    exact, uniform = figures.effective_macs, figures.uniform_macs
    return (
        None if exact is None else exact / figures.macs,
        None if uniform is None else uniform / figures.macs,
    )


def _figure(counted: list[Jackpot]) -> Figure:
    rows, highest = [], 0.0
    for jackpot in counted:
        exact, uniform = _shares(jackpot)
        ends = (("chance", uniform, "uniform figure"), ("jackpot", exact, "exact count"))
        name = f"{numbers.brief_percent(jackpot.sparsity)} sparsity"
        dots = [
            Dot(key, share, f"{name}, {what}: {numbers.percent(share)} of the dense MACs")
            for key, share, what in ends
            if share is not None
        ]
        highest = max([highest, *(dot.x for dot in dots)])
        rows.append(DotRow(name, dots, joined=True, note=numbers.percent(exact)))
    high = min(1.0, highest * 1.08) or 1.0
    ticks = [(tick, numbers.percent(tick, 0)) for tick in numbers.nice_ticks(0, high, 6)]
    axis = Axis("MACs that remain, share of the dense network's", 0, high, ticks)
    label = "Exact and uniform MACs per sparsity."
    drawings = sizes(lambda width: dot_chart(rows, axis, label=label, width=width))
    entries = [("jackpot", "exact count"), ("chance", "uniform figure of the papers")]
    title = "What remains of the computation"
    return Figure("figure-macs", "", [Panel(drawings)], title, legend(entries, False))


def _table(counted: list[Jackpot]) -> Table:
    rows = []
    for jackpot in counted:
        figures = jackpot.figures
        exact, _ = _shares(jackpot)
        dense, ticket = figures.dense_bytes, figures.ticket_bytes
        factor = dense / ticket if dense and ticket else None
        rows.append(
            [
                Cell(numbers.brief_percent(jackpot.sparsity), jackpot.sparsity),
                Cell(numbers.bare_percent(figures.density, 2), figures.density),
                Cell(numbers.count(figures.macs), figures.macs),
                Cell(numbers.count(figures.effective_macs), figures.effective_macs),
                Cell(numbers.bare_percent(exact), exact),
                Cell(numbers.count(figures.uniform_macs), figures.uniform_macs),
                Cell(numbers.count(dense), dense),
                Cell(numbers.count(ticket), ticket),
                Cell(numbers.MISSING if factor is None else f"{factor:.1f}", factor),
            ]
        )
    return Table("table-cost", "Computation and size", _COLUMNS, rows)
