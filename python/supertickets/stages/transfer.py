"""The stage that brings a ticket to the recipe's data and task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supertickets.config import Recipe
from supertickets.data import load_data
from supertickets.hashing import digest, folder_hashes
from supertickets.stages.base import (
    TICKET,
    Room,
    Stage,
    data_hash,
    data_options,
    data_provenance,
)
from supertickets.ticket import Ticket
from supertickets.training import on_main
from supertickets.transfer import CONTROLS, ControlTickets, Transferred, control_rows, transfer

TRANSFER = "transfer"
_TICKETS = ("dense", "native", "random", "shuffled_labels")


def transfer_stage(recipe: Recipe, folder: Path) -> Stage:
    """Make the stage that trains a ticket on new data, its masks fixed, and saves it again.

    Args:
        recipe: The resolved recipe; ``data`` is the new data, ``train`` and ``transfer`` say how.
        folder: The ticket.

    Returns:
        The stage; its figures are the scores, the history, what was reused, densities before and
        after, exact MACs, and the control rows where they are asked for.
    """
    options = recipe.transfer.model_dump(mode="json", exclude=set(_TICKETS))

    def outside() -> Mapping[str, str]:
        named = {"ticket": folder} | {
            name: path for name in _TICKETS if (path := getattr(recipe.transfer, name)) is not None
        }
        return data_hash(recipe.data) | {
            name: digest(folder_hashes(path)) for name, path in named.items()
        }

    return Stage(
        name=TRANSFER,
        kind="transfer",
        config={
            "data": data_options(recipe.data),
            "train": recipe.train.model_dump(mode="json"),
            "transfer": options,
        },
        needs=(),
        work=lambda room: _work(recipe, folder, room),
        outside=outside,
        collective=True,
    )


def _work(recipe: Recipe, folder: Path, room: Room) -> dict[str, Any]:
    source = Ticket.from_pretrained(folder)
    data = load_data(recipe.data)
    common: dict[str, Any] = {
        "seed": recipe.seed,
        "model": recipe.model,
        "device": recipe.device,
        "progress": room.progress,
    }
    config, training = recipe.transfer, recipe.train
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    tickets = ControlTickets.read(config)
    found = transfer(
        source,
        data,
        config,
        training,
        checkpoint=room.checkpoint / "transferred",
        tensorboard=room.tensorboard,
        **common,
    )
    if config.controls:
        rows, left_out = control_rows(
            source,
            data,
            config,
            training,
            tickets=tickets,
            checkpoint=room.checkpoint / "controls",
            **common,
        )
        rows.insert(0, {"name": "transferred", "what": CONTROLS["transferred"], **found.figures})
    ticket = _ticket(found, source, recipe, folder)
    ticket.provenance |= data_provenance(recipe.data, data)
    ticket.class_names = data.class_names
    on_main(lambda: ticket.save_pretrained(room.folder / TICKET))
    return {
        "task": data.task,
        "source_task": source.task,
        "data": data.name,
        **found.figures,
        "freeze": config.freeze,
        "reused": len(found.carried.reused),
        "new": list(found.carried.new),
        "history": found.history,
        "rows": rows,
        "left_out": left_out,
        "ticket_bytes": ticket.bytes,
    }


def _ticket(found: Transferred, source: Ticket, recipe: Recipe, folder: Path) -> Ticket:
    return Ticket.from_model(
        found.carried.model,
        found.carried.architecture,
        task=recipe.data.task_name,
        metrics={**found.figures, "retrained": True},
        provenance={
            "stage": TRANSFER,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "train": recipe.train.model_dump(mode="json"),
            "freeze": recipe.transfer.freeze,
            "source": {
                "ticket": digest(folder_hashes(folder)),
                "task": source.task,
                "provenance": source.provenance,
            },
        },
    )
