"""The stages of a run, and their order."""

from __future__ import annotations

from supertickets.config import Recipe
from supertickets.stages.base import TICKET, Kind, Room, Stage, jackpot_name
from supertickets.stages.evaluate import evaluate_stage, score_ticket
from supertickets.stages.export import choose_formats, export_files, export_stage
from supertickets.stages.jackpot import Source, jackpot_stage
from supertickets.stages.rank import correlate_stage, open_scorer, rank_stage
from supertickets.stages.report import REPORT_FILE, report_stage, write_report
from supertickets.stages.supernet import SUPERNET, supernet_stage
from supertickets.stages.ticket import ticket_stage
from supertickets.stages.train import train_stage
from supertickets.stages.transfer import transfer_stage

__all__ = [
    "REPORT_FILE",
    "TICKET",
    "Kind",
    "Room",
    "Source",
    "Stage",
    "choose_formats",
    "correlate_stage",
    "export_files",
    "jackpot_name",
    "open_scorer",
    "plan",
    "rank_stage",
    "report_stage",
    "score_ticket",
    "supernet_stage",
    "ticket_stage",
    "transfer_stage",
    "write_report",
]


def plan(recipe: Recipe, *, last: Kind = "report", source: Source | None = None) -> list[Stage]:
    """List the stages of a recipe in their order.

    Args:
        recipe: The resolved recipe.
        last: The plan ends with the stages of this kind.
        source: A trained network; none: the one that the recipe's search of a supernet finds, or
            ``model.weights`` where given, or else the run trains it.

    Returns:
        The stages, each after those it needs.
    """
    if last == "supernet":
        return [supernet_stage(recipe)]
    if last == "train":
        return [train_stage(recipe)]
    stages = []
    if source is None and recipe.supernet.enabled:
        stages, source = [supernet_stage(recipe)], Source(stage=SUPERNET)
    elif source is None and recipe.model.weights is not None:
        source = Source()
    elif source is None:
        stages = [train_stage(recipe)]
    stages += [jackpot_stage(recipe, sparsity, source) for sparsity in recipe.jackpot.sparsities]
    if last == "jackpot":
        return stages
    with_tickets = [stage.name for stage in stages]
    stages.append(export_stage(recipe))
    if recipe.evaluate.enabled and last in ("evaluate", "report"):
        stages.append(evaluate_stage(recipe, with_tickets))
    if recipe.report.enabled and last == "report":
        stages.append(report_stage([stage.name for stage in stages]))
    return stages
