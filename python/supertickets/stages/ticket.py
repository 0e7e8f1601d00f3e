"""The stage that searches an architecture and prunes its weights in one training."""

from __future__ import annotations

from typing import Any

from torch import nn

from supertickets.config import Recipe
from supertickets.data import ImageData, load_data
from supertickets.errors import InputError
from supertickets.search import SearchedTicket, find_ticket
from supertickets.search.find import check_is_ticket, paper_macs, prunable_share, retrain
from supertickets.spaces.hrnet_net import drawn_blocks
from supertickets.stages.base import (
    TICKET,
    TUNED_TICKET,
    Room,
    Stage,
    data_hash,
    data_options,
    data_provenance,
    weights_hash,
)
from supertickets.stages.train import architecture_of, dense_model, scores
from supertickets.ticket import Ticket
from supertickets.training import TrainConfig, on_main

TWO_IN_ONE = "two-in-one"


def ticket_stage(recipe: Recipe) -> Stage:
    """Make the stage that trains ``recipe.model`` as a supernet and saves the ticket it becomes.

    Args:
        recipe: The resolved recipe; ``train`` and ``ticket`` say how.

    Returns:
        The stage; its figures are the scores of the ticket and of the retrained one, the history,
        the events, and the drawn architecture.

    Raises:
        InputError: The network is not of a space whose searched nets can be written in a ticket.
    """
    if recipe.model.space != "hrnet":
        raise InputError(
            f"ticket: expected a net of the space hrnet, got {recipe.model.name!r} of "
            f"{recipe.model.space!r}; supertickets.search.find_ticket takes any model with "
            "inverted-residual blocks"
        )
    weights = recipe.model.weights
    return Stage(
        name=TWO_IN_ONE,
        kind="ticket",
        config={
            "data": data_options(recipe.data),
            "model": recipe.model.model_dump(mode="json"),
            "train": recipe.train.model_dump(mode="json"),
            "ticket": recipe.ticket.model_dump(mode="json"),
        },
        needs=(),
        work=lambda room: _work(recipe, room),
        outside=lambda: (
            data_hash(recipe.data) | ({"weights": weights_hash(weights)} if weights else {})
        ),
        collective=True,
    )


def _work(recipe: Recipe, room: Room) -> dict[str, Any]:
    data = load_data(recipe.data)
    found = find_ticket(
        dense_model(recipe, data),
        data,
        recipe.ticket.two_in_one(),
        recipe.train,
        seed=recipe.seed,
        device=recipe.device,
        checkpoint=room.checkpoint / "search",
        progress=room.progress,
        tensorboard=room.tensorboard,
        log=lambda line: room.log(f"      {line}"),
    )
    rows = [_row("ticket", found.model, data, recipe, steps=found.steps)]
    _save(found.model, rows[0], recipe, data, room, TICKET)
    retrain_history: list[dict[str, float]] = []
    if recipe.ticket.retrain_epochs:
        options = _retraining(recipe)
        tuned, retrain_history = retrain(
            found.model,
            data,
            options,
            seed=recipe.seed,
            device=recipe.device,
            checkpoint=room.checkpoint / "retrain",
            progress=room.progress,
        )
        steps = found.steps // recipe.train.epochs * options.epochs
        rows.append(_row("ticket-retrained", tuned, data, recipe, steps=found.steps + steps))
        _save(tuned, rows[1], recipe, data, room, TUNED_TICKET)
    return {
        "task": data.task,
        "data": data.name,
        "sparsity": recipe.ticket.sparsity,
        "arm": recipe.ticket.arm,
        "epochs": recipe.train.epochs,
        **rows[0],
        "rows": rows,
        "history": found.history,
        "retrain_history": retrain_history,
        "events": found.events,
        "blocks": drawn_blocks(found.model),
        "step_ms": _step_times(found),
    }


def _row(
    name: str, model: nn.Module, data: ImageData, recipe: Recipe, *, steps: int
) -> dict[str, Any]:
    """Score a ticket, with all that a score may not go without."""
    config = recipe.ticket.two_in_one()
    check_is_ticket(model, config)
    return {
        "name": name,
        "retrained": name != "ticket",
        "epoch": recipe.train.epochs,
        "steps": steps,
        "prunable_density": prunable_share(model, config),
        "paper_macs": paper_macs(model, config, data, recipe.device),
        **scores(model, data, recipe),
    }


def _save(
    model: nn.Module, row: dict[str, Any], recipe: Recipe, data: ImageData, room: Room, name: str
) -> None:
    architecture = architecture_of(recipe, data)
    architecture["options"] = {**architecture["options"], "blocks": drawn_blocks(model)}
    ticket = Ticket.from_model(
        model,
        architecture,
        task=data.task,
        class_names=data.class_names,
        metrics={key: value for key, value in row.items() if key != "name"},
        provenance={
            "stage": TWO_IN_ONE,
            "recipe": recipe.name,
            "seed": recipe.seed,
            **data_provenance(recipe.data, data),
            "train": recipe.train.model_dump(mode="json"),
            "ticket": recipe.ticket.model_dump(mode="json"),
        },
    )
    on_main(lambda: ticket.save_pretrained(room.folder / name))


def _retraining(recipe: Recipe) -> TrainConfig:
    lr = recipe.ticket.retrain_lr or recipe.train.lr / 10
    return recipe.train.model_copy(
        update={
            "epochs": recipe.ticket.retrain_epochs,
            "lr": lr,
            "schedule": "cosine",
            "schedule_unit": "step",
            "warmup_epochs": 0,
            "step_epochs": (),
        }
    )


def _step_times(found: SearchedTicket) -> list[dict[str, float]]:
    """Give the time of a step by epoch, beside the density it was trained with."""
    return [
        {name: row[name] for name in ("epoch", "trained_density", "step_ms")}
        for row in found.history
    ]
