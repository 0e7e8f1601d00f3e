"""Section: where in the network the kept weights are, and how far the search moved them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
from supertickets.report.charts import Axis, Dot, DotRow, dot_chart, legend, sizes
from supertickets.report.findings import Finding
from supertickets.report.read import Jackpot, Layer, Run

_LEVELS = 6  # markers that can be told apart

_COLUMNS = (
    Column("Layer", numeric=False),
    Column("Shape", numeric=False),
    Column("Weights"),
    Column("Kept"),
    Column("Density", note="%"),
    Column("MACs", note="dense"),
    Column("Effective MACs", note="exact"),
    Column("Overlap", note="% with magnitude"),
    Column("By chance", note="%"),
)


def section(run: Run, finding: Finding) -> Section:
    """Draw the density of each layer and its overlap with the magnitude mask.

    Args:
        run: The run.
        finding: What the page speaks of.

    Returns:
        The section; it says so where no layer was recorded.
    """
    searched = [jackpot for jackpot in run.jackpots if jackpot.figures.layers]
    if not searched:
        missing = Text("No mask search has recorded its layers yet.", missing=True)
        return Section("layers", "The mask, layer by layer", "", [missing])
    blocks: list[Block] = [
        _densities(searched[:_LEVELS]),
        *_overlaps(searched),
        Details("Every layer in numbers", [_table(*each) for each in enumerate(searched)]),
    ]
    return Section("layers", "The mask, layer by layer", _lead(finding, searched), blocks)


def _lead(finding: Finding, searched: Sequence[Jackpot]) -> str:
    jackpot = finding.jackpot if finding.jackpot in searched else searched[0]
    assert jackpot is not None
    overlap, chance = jackpot.figures.overlap_magnitude, jackpot.figures.overlap_expected
    if overlap is None:
        return ""
    against = f"; a random mask of equal rates would share {numbers.percent(chance, 0)}"
    return (
        f"At {numbers.brief_percent(jackpot.sparsity)} sparsity the searched mask shares "
        f"{numbers.percent(overlap, 0)} of its weights with the magnitude mask"
        f"{against if chance is not None else ''}."
    )


def _densities(searched: Sequence[Jackpot]) -> Figure:
    """One row per layer, one dot per sparsity."""
    names = list(
        dict.fromkeys(layer.name for jackpot in searched for layer in jackpot.figures.layers)
    )
    by_name = [{layer.name: layer for layer in jackpot.figures.layers} for jackpot in searched]
    rows = []
    for name in names:
        dots = [
            Dot(f"level-{level}", layer.density, _density_text(jackpot, layer))
            for level, (jackpot, layers) in enumerate(zip(searched, by_name, strict=True))
            if (layer := layers.get(name)) is not None and layer.density is not None
        ]
        rows.append(DotRow(name, dots, joined=True))
    entries = [
        (f"level-{level}", f"{numbers.brief_percent(jackpot.sparsity)} sparsity")
        for level, jackpot in enumerate(searched)
    ]
    axis = _share_axis("weights kept")
    drawings = sizes(lambda width: dot_chart(rows, axis, label="Density per layer.", width=width))
    caption = "Masked layers from input to output; a layer that is not listed is dense."
    key = legend(entries, False)
    return Figure("figure-density", caption, [Panel(drawings)], "Density per layer", key)


def _density_text(jackpot: Jackpot, layer: Layer) -> str:
    kept = f" ({numbers.count(layer.kept)} weights)" if layer.kept is not None else ""
    return (
        f"{layer.name} at {numbers.brief_percent(jackpot.sparsity)} sparsity: "
        f"{numbers.percent(layer.density)} kept{kept}"
    )


def _overlaps(searched: Sequence[Jackpot]) -> list[Figure]:
    panels = []
    for jackpot in searched:
        figures = jackpot.figures
        rows = [
            _overlap_row(layer) for layer in figures.layers if layer.overlap_magnitude is not None
        ]
        if not rows:
            continue
        if figures.overlap_magnitude is not None:
            total = Layer(
                name="all layers",
                overlap_magnitude=figures.overlap_magnitude,
                overlap_expected=figures.overlap_expected,
            )
            rows.append(replace(_overlap_row(total), strong=True))
        name = f"{numbers.brief_percent(jackpot.sparsity)} sparsity"
        chart = dot_chart(
            rows,
            _share_axis("kept weights shared with magnitude"),
            label=f"Overlap with the magnitude mask per layer at {name}.",
            width=420,
        )
        panels.append(Panel((chart,), name))
    if not panels:
        return []
    caption = (
        "Share of the jackpot's kept weights that the magnitude mask keeps as well. At 100 % the "
        "search moved nothing; at the ring it kept nothing of its start but the rates."
    )
    entries = [("jackpot", "searched mask"), ("chance", "random mask of equal rates")]
    return [
        Figure(
            "figure-overlap",
            caption,
            panels,
            "Overlap with the magnitude mask",
            legend(entries, False),
        )
    ]


def _overlap_row(layer: Layer) -> DotRow:
    ends = (
        ("chance", layer.overlap_expected, "by chance"),
        ("jackpot", layer.overlap_magnitude, "searched mask"),
    )
    dots = [
        Dot(key, share, f"{layer.name}, {what}: {numbers.percent(share)}")
        for key, share, what in ends
        if share is not None
    ]
    return DotRow(layer.name, dots, joined=True)


def _share_axis(label: str) -> Axis:
    return Axis(label, 0, 1, [(tick / 4, f"{25 * tick} %") for tick in range(5)])


def _table(index: int, jackpot: Jackpot) -> Table:
    rows = [
        [
            Cell(layer.name),
            Cell(" \N{MULTIPLICATION SIGN} ".join(map(str, layer.shape)) or numbers.MISSING),
            Cell(numbers.count(layer.weights), layer.weights),
            Cell(numbers.count(layer.kept), layer.kept),
            Cell(numbers.bare_percent(layer.density, 2), layer.density),
            Cell(numbers.count(layer.macs), layer.macs),
            Cell(numbers.count(layer.effective_macs), layer.effective_macs),
            Cell(numbers.bare_percent(layer.overlap_magnitude), layer.overlap_magnitude),
            Cell(numbers.bare_percent(layer.overlap_expected), layer.overlap_expected),
        ]
        for layer in jackpot.figures.layers
    ]
    name = numbers.brief_percent(jackpot.sparsity)
    return Table(f"table-layers-{index}", f"Layers at {name} sparsity", _COLUMNS, rows)
