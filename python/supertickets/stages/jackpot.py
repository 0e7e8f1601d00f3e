"""The stage that searches a jackpot at one sparsity and compares it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from supertickets.config import Recipe
from supertickets.data import ImageData, load_data
from supertickets.errors import InputError
from supertickets.evaluate import model_cost
from supertickets.hashing import digest, folder_hashes
from supertickets.prune import Jackpot, comparison_rows, find_jackpot, find_random_start
from supertickets.spaces import example_input
from supertickets.stages.base import (
    TICKET,
    TRAIN,
    TUNED_TICKET,
    Room,
    Stage,
    data_hash,
    data_options,
    data_provenance,
    jackpot_name,
    plain_model,
    weights_hash,
)
from supertickets.stages.train import architecture_of, dense_model
from supertickets.ticket import Ticket
from supertickets.training import on_main, tensorboard_history


@dataclass(frozen=True)
class Source:
    """A trained network that the stage ``train`` does not make.

    Attributes:
        ticket: A ticket folder from outside the run.
        stage: Or a stage of the run that saves a ticket; neither: ``model.weights`` of the recipe.
    """

    ticket: Path | None = None
    stage: str | None = None


def jackpot_stage(recipe: Recipe, sparsity: float, source: Source | None = None) -> Stage:
    """Make the stage that searches at one sparsity and saves what it finds as a ticket.

    Args:
        recipe: The resolved recipe.
        sparsity: One of ``recipe.jackpot.sparsities``.
        source: Where the trained network comes from; none: from the stage ``train``.

    Returns:
        The stage; its figures are the comparison rows, both histories, the layers and the costs.
    """
    return Stage(
        name=jackpot_name(sparsity),
        kind="jackpot",
        config={
            "data": data_options(recipe.data),
            "jackpot": recipe.jackpot.at(sparsity).model_dump(mode="json"),
        },
        needs=_needs(source),
        work=lambda room: _work(recipe, sparsity, source, room),
        outside=lambda: data_hash(recipe.data) | _source_hash(recipe, source),
        collective=True,
    )


def _needs(source: Source | None) -> tuple[str, ...]:
    if source is None:
        return (TRAIN,)
    return () if source.stage is None else (source.stage,)


def _source_hash(recipe: Recipe, source: Source | None) -> dict[str, str]:
    if source is None or source.stage is not None:
        return {}
    if source.ticket is not None:
        return {"ticket": digest(folder_hashes(source.ticket))}
    if recipe.model.weights is None:
        raise InputError("jackpot: expected a trained network: a ticket folder or --weights")
    options = recipe.model.model_dump(mode="json", exclude={"weights"})
    return {"weights": weights_hash(recipe.model.weights), "model": digest(options)}


def _trained(
    recipe: Recipe, data: ImageData, source: Source | None, room: Room
) -> tuple[nn.Module, dict[str, Any]]:
    """Load the trained network and its description."""
    if source is not None and source.ticket is None and source.stage is None:
        return dense_model(recipe, data), architecture_of(recipe, data)
    folder = room.run / TRAIN / TICKET
    if source is not None:
        folder = source.ticket or room.run / str(source.stage) / TICKET
    ticket = Ticket.from_pretrained(folder)
    _check_fits(ticket, data, folder)
    return plain_model(ticket, recipe.model, seed=recipe.seed), dict(ticket.architecture)


def _check_fits(ticket: Ticket, data: ImageData, folder: Path) -> None:
    for key, given in (("num_classes", data.num_classes), ("channels", data.channels)):
        expected = ticket.architecture[key]
        if expected is not None and expected != given:
            raise InputError(
                f"ticket {folder}: its network expects {key} = {expected}, "
                f"but the data set {data.name} has {given}"
            )


def _work(recipe: Recipe, sparsity: float, source: Source | None, room: Room) -> dict[str, Any]:
    data = load_data(recipe.data)
    model, architecture = _trained(recipe, data, source, room)
    config = recipe.jackpot.at(sparsity)
    common: dict[str, Any] = {
        "seed": recipe.seed,
        "device": recipe.device,
        "checkpoint": room.checkpoint,
        "progress": room.progress,
    }
    found = find_jackpot(model, data, config, **common)
    random_start = find_random_start(model, data, config, **common)
    rows = comparison_rows(
        model.to(recipe.device), data, found, config, random_start=random_start, **common
    )
    costs = _costs(found.model, data, recipe.device)
    by_name = {row["name"]: row for row in rows}
    bytes_of = on_main(
        lambda: _save(found, recipe, data, architecture, by_name, costs, room.folder)
    )
    if room.tensorboard is not None:
        for name, history in (("search", found.history), ("random-start", random_start.history)):
            tensorboard_history(room.tensorboard / name, history)
    return {
        "sparsity": sparsity,
        **costs,
        **bytes_of,
        "test_count": by_name["jackpot"]["test_count"],
        "best_epoch": found.best_epoch,
        "rows": rows,
        "history": found.history,
        "history_random_start": random_start.history,
        "tune_history": found.tune_history,
        "layers": found.layers,
        "overlap_magnitude": found.overlap_magnitude,
        "overlap_expected": found.overlap_expected,
        "source_sha256": found.source_sha256,
    }


def _costs(model: nn.Module, data: ImageData, device: str) -> dict[str, Any]:
    cost = model_cost(model, example_input(data.channels, data.image_size).to(device))
    return {
        "density": cost.density,
        "macs": cost.macs,
        "effective_macs": cost.effective_macs,
        "uniform_macs": cost.uniform_macs,
        "dense_bytes": cost.dense_bytes,
    }


def _save(
    found: Jackpot,
    recipe: Recipe,
    data: ImageData,
    architecture: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    costs: Mapping[str, Any],
    folder: Path,
) -> dict[str, int]:
    """Save the ticket, and the tuned one where there is one; give the bytes of their tensors."""
    bytes_of = {}
    for row_name, name in (("jackpot", TICKET), ("jackpot-tuned", TUNED_TICKET)):
        if row_name not in rows:
            continue
        row = rows[row_name]
        scored = ("validation_accuracy", "test_accuracy", "test_count", "retrained")
        ticket = found.to_ticket(
            architecture,
            class_names=data.class_names,
            metrics={**{key: row[key] for key in scored}, **costs},
            tuned=name == TUNED_TICKET,
        )
        ticket.provenance |= {"recipe": recipe.name, **data_provenance(recipe.data, data)}
        ticket.save_pretrained(folder / name)
        bytes_of[f"{name.replace('-', '_')}_bytes"] = ticket.bytes
    return bytes_of
