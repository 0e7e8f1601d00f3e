"""From the options of ``ticket`` to its stage, and from its figures to lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supertickets.cli.options import Common
from supertickets.cli.pipeline import Request, carry_out_stages
from supertickets.run import Outcome
from supertickets.stages import TICKET, ticket_stage
from supertickets.tasks import get_task

_SHOWN_EPOCHS = 8


def search_ticket(
    common: Common, arguments: Sequence[str] | None, options: Mapping[str, Any], out: Path | None
) -> None:
    """Search and prune in one training as a stage of a run, and tell what came of it.

    Args:
        common: The shared options.
        arguments: ``KEY=VALUE``...
        options: Recipe keys that the command's own options set.
        out: A copy of the ticket goes here.

    Raises:
        SuperticketsError: Something does not fit, or the training failed.
    """
    request = Request.read(common, arguments, takes_ticket=False, options=options)
    report = request.recipe.report.model_copy(update={"enabled": False})
    recipe = request.recipe.model_copy(update={"report": report})
    request = Request(common, recipe, None, request.own_data)
    stage = ticket_stage(recipe)
    carry_out_stages(
        request,
        [stage],
        lambda outcomes: _lines(request.folder, outcomes, recipe.seed),
        copies={} if out is None else {stage.name: out},
    )


def _lines(run: Path, outcomes: Sequence[Outcome], seed: int) -> list[str]:
    (outcome,) = outcomes
    figures = outcome.figures
    metric = get_task(figures["task"]).metric
    lines = [
        f"{row['name']}: test {metric} {100 * row['test_' + metric]:.1f} % of {row['test_count']} "
        f"images, density {row['density']:.4f} ({row['prunable_density']:.4f} of what is pruned), "
        f"{row['effective_macs']:,} exact MACs of {row['macs']:,} dense (the papers' count: "
        f"{row['paper_macs']:,}), {row['steps']:,} steps, seed {seed}"
        for row in figures["rows"]
    ]
    lines.append("drawn architecture, atoms per kernel size:")
    for name, atoms in figures["blocks"].items():
        drawn = ", ".join(f"{kernel}x{kernel}: {count}" for kernel, count in atoms.items())
        lines.append(f"  {name:24} {drawn or 'skip alone'}")
    lines.append("milliseconds per step (density it was trained with):")
    times = figures["step_ms"]
    stride = max(len(times) // _SHOWN_EPOCHS, 1)
    shown = [
        f"epoch {row['epoch']:.0f}: {row['step_ms']:.1f} ({row['trained_density']:.2f})"
        for row in times[::stride]
    ]
    lines.append("  " + ", ".join(shown))
    return [*lines, f"ticket: {run / outcome.stage / TICKET}"]
