"""From the options of the rank commands to stages, and from their figures to lines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supertickets.cli.options import Common
from supertickets.cli.pipeline import Request, carry_out_stages
from supertickets.errors import InputError
from supertickets.rank import COMBINED, INDICATORS, needed_indicators, rank_candidates
from supertickets.rank.indicators import get_indicator
from supertickets.run import Outcome
from supertickets.spaces import cell_space, cell_space_names, space_of
from supertickets.stages import (
    correlate_stage,
    open_scorer,
    rank_stage,
    report_stage,
)
from supertickets.training import join_group

_NAMES = {"regions": "R", "both": "kappa and R", "all": "all, by rank sum", "kappa": "log kappa"}


def search_architecture(
    common: Common,
    arguments: Sequence[str] | None,
    options: Mapping[str, Any],
    out: Path | None,
) -> None:
    """Run the search as a stage of a run of its own, write its page, and tell what it found.

    Args:
        common: The shared options.
        arguments: Recipe keys.
        options: Recipe keys of the command's own options.
        out: A copy of the ticket goes here.
    """
    request = _request(common, arguments, options)
    stages = [rank_stage(request.recipe)]
    if request.recipe.report.enabled:
        stages.append(report_stage([stages[0].name]))

    def lines(outcomes: Sequence[Outcome]) -> list[str]:
        figures = outcomes[0].figures
        arch = figures["arch"]
        found = [arch, _score_line(figures["scores"]), _size_line(figures)]
        if figures["accuracies"]:
            found += [f"{name}: {value:.2f}" for name, value in figures["accuracies"].items()]
        found.append(
            f"{figures['evaluations']} removals judged; {figures['measured']} scores measured, "
            f"{figures['reused']} taken from the store, {outcomes[0].wall_s:.1f} s"
        )
        ticket = request.folder / outcomes[0].stage / "ticket"
        found.append(f"ticket (untrained): {ticket}")
        found.append("train it: " + shlex.join(["supertickets", "train", "--model", arch]))
        return found

    carry_out_stages(request, stages, lines, copies={} if out is None else {stages[0].name: out})


def score_architectures(
    common: Common, archs: Sequence[str], options: Mapping[str, Any], indicators: Sequence[str]
) -> None:
    """Score single paths and print them with their baselines, the best first.

    Args:
        common: The shared options.
        archs: Of one space.
        options: Recipe keys of the command's own options.
        indicators: What to measure; none: kappa and R.
    """
    wanted = _indicators(indicators)
    spaces = {space_of(text) for text in archs}
    for text in archs:
        if space_of(text) not in cell_space_names():
            raise InputError(f"arch {text!r}: expected a NAS-Bench-201 string or a DARTS genotype")
    if len(spaces) > 1:
        raise InputError(f"score: expected architectures of one space, got {sorted(spaces)}")
    space = cell_space(spaces.pop())
    candidates = list(dict.fromkeys(space.parse(text) for text in archs))
    request = _request(common, None, {"rank.space": space.name, **options})
    recipe = request.recipe
    join_group(recipe.device)
    with open_scorer(recipe, common.runs, recipe.rank.score) as scorer:
        ranking = rank_candidates(candidates, scorer, indicators=wanted, progress=not common.json)
    rows = ranking.rows()
    lines = []
    for number, row in enumerate(rows, start=1):
        lines += [f"{number}. {row['arch']}", f"   {_score_line(row['scores'])}; {_size_line(row)}"]
    value = {"space": space.name, "seed": recipe.seed, "rows": rows}
    common.output.result(value, lines)


def correlate_with_table(
    common: Common,
    arguments: Sequence[str] | None,
    options: Mapping[str, Any],
    table: Path,
    *,
    cells: int,
    columns: Sequence[str],
    indicators: Sequence[str],
    bootstrap: int,
) -> None:
    """Score architectures of a table as a stage, write the page, and tell the correlations.

    Args:
        common: The shared options.
        arguments: Recipe keys.
        options: Recipe keys of the command's own options.
        table: Accuracies.
        cells: Architectures drawn from it.
        columns: Columns of accuracies.
        indicators: What to measure; none: kappa and R.
        bootstrap: Samples behind an interval.
    """
    request = _request(common, arguments, options)
    wanted = _indicators(indicators)
    stages = [
        correlate_stage(
            request.recipe, table,
            cells=cells, columns=columns, indicators=wanted, bootstrap=bootstrap,
        )
    ]  # fmt: skip
    if request.recipe.report.enabled:
        stages.append(report_stage([stages[0].name]))
    carry_out_stages(request, stages, lambda outcomes: correlation_lines(outcomes[0].figures))


def correlation_lines(figures: Mapping[str, Any]) -> list[str]:
    """Put correlations into a table, the baselines over the whole table last."""
    lines = []
    parts = [(f"{figures['cells']} of {figures['table_cells']}", figures["correlations"])]
    if figures["whole_table"]:
        parts.append((f"all {figures['table_cells']}", figures["whole_table"]))
    for scope, accuracies in parts:
        for accuracy, scores in accuracies.items():
            lines.append(f"{accuracy}, {scope} architectures (95 % interval)")
            lines.append(f"  {'':14}{'Kendall tau':>24}{'Spearman':>24}{'weighted tau':>24}")
            for name, row in scores.items():
                cells = [_estimate(row[key]) for key in ("kendall", "spearman", "weighted")]
                lines.append(
                    f"  {_NAMES.get(name, name):14}" + "".join(f"{cell:>24}" for cell in cells)
                )
    return lines


def _request(
    common: Common, arguments: Sequence[str] | None, options: Mapping[str, Any]
) -> Request:
    given = dict(options)
    if common.name is None and common.config is None:
        given["name"] = "rank-" + str(options.get("rank.space", "nasbench201"))
    return Request.read(common, arguments, takes_ticket=False, options=given)


def _indicators(names: Sequence[str]) -> tuple[str, ...]:
    """Turn what was asked for into registered names; ``combined`` stands for its rule's."""
    found: list[str] = []
    for name in names:
        found += needed_indicators() if name == COMBINED else [get_indicator(name).name]
    return tuple(dict.fromkeys(found)) or INDICATORS


def _score_line(scores: Mapping[str, Any]) -> str:
    parts = [_score_text(name, one) for name, one in scores.items()]
    parts += [
        f"{one['missing']} repeats of {name} without a value ({_notes(one)})"
        for name, one in scores.items()
        if one["missing"] and one["mean"] is not None
    ]
    if "saturated" in scores.get("regions", {}).get("notes", ()):
        parts.append("saturated: every crop has a region of its own")
    return ", ".join(parts)


def _score_text(name: str, one: Mapping[str, Any]) -> str:
    label, mean, spread = _NAMES.get(name, name), one["mean"], one["spread"]
    if name == "kappa":
        label = "kappa"
    if mean is None:
        return f"{label} none ({_notes(one)})"
    if name == "kappa":
        return f"{label} {math.exp(mean):.4g}" + (f" x/ {math.exp(spread):.2f}" if spread else "")
    form = ".1f" if name == "regions" else ".5g"
    return f"{label} {mean:{form}}" + (f" +- {spread:.3g}" if spread is not None else "")


def _notes(one: Mapping[str, Any]) -> str:
    return ", ".join(one["notes"])


def _size_line(row: Mapping[str, Any]) -> str:
    return f"{row['parameters']:,} parameters, {row['macs']:,} MACs (3x32x32, untrained)"


def _estimate(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "not defined"
    if found["low"] is None:
        return f"{found['value']:+.3f}"
    return f"{found['value']:+.3f} [{found['low']:+.2f} {found['high']:+.2f}]"
