"""From the options of ``transfer`` to its stage, and from its figures to lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from supertickets.cli.options import Common
from supertickets.cli.pipeline import Request, carry_out_stages
from supertickets.run import Outcome
from supertickets.stages import TICKET, transfer_stage
from supertickets.tasks import get_task

_NAME_WIDTH = 17


def transfer_ticket(
    common: Common,
    ticket: Path,
    arguments: Sequence[str],
    task: str | None,
    options: Mapping[str, Any],
    out: Path | None,
) -> None:
    """Train a ticket on the data that the options name, and tell its scores.

    Args:
        common: The shared options.
        ticket: The ticket folder.
        arguments: ``KEY=VALUE``...
        task: Word of the new task; ``None``: what the data is for.
        options: Recipe keys that the command's own options set.
        out: A copy of the new ticket goes here.

    Raises:
        SuperticketsError: Something does not fit, or the stage failed.
    """
    keys = dict(options)
    if task is not None:
        keys["data.task"] = get_task(task).name
    request = Request.read(common, [str(ticket), *arguments], takes_ticket=True, options=keys)
    recipe = request.recipe.model_copy(
        update={"report": request.recipe.report.model_copy(update={"enabled": False})}
    )
    if common.name is None:
        name = recipe.name.removesuffix("-ticket")
        recipe = recipe.model_copy(update={"name": f"{name}-to-{recipe.data.task_name}"})
    request = replace(request, recipe=recipe)
    stage = transfer_stage(recipe, ticket)
    carry_out_stages(
        request,
        [stage],
        lambda outcomes: _lines(request.folder, outcomes),
        copies={} if out is None else {stage.name: out},
    )


def _lines(run: Path, outcomes: Sequence[Outcome]) -> list[str]:
    (outcome,) = outcomes
    figures = outcome.figures
    metric = get_task(figures["task"]).metric
    lines = [
        f"{figures['source_task']} to {figures['task']} on {figures['data']}: test {metric} "
        f"{_percent(figures['test_' + metric])} of {figures['test_count']} images",
        f"masked layers: density {figures['masked_density']:.4f}, as before; all: "
        f"{figures['density']:.4f}, {figures['effective_macs']:,} of {figures['macs']:,} MACs",
        f"{figures['steps']} steps on {figures['images']} images; {figures['reused']} tensors "
        f"reused, {len(figures['new'])} new" + ", the others frozen" * figures["freeze"],
    ]
    for row in figures["rows"]:
        lines.append(
            f"{row['name'].ljust(_NAME_WIDTH)}{_percent(row['test_' + metric]).rjust(8)}  density "
            f"{row['density']:.4f}, {row['effective_macs']:,} MACs, {row['steps']} steps: "
            f"{row['what']}"
        )
    lines += [
        f"{name.ljust(_NAME_WIDTH)}left out: {why}" for name, why in figures["left_out"].items()
    ]
    return [*lines, f"ticket: {run / outcome.stage / TICKET}"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
