"""The rows beside a transferred ticket: what its score would be without one thing or another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supertickets.data import ImageData
from supertickets.errors import InputError
from supertickets.evaluate import model_cost
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, example_input
from supertickets.ticket import Ticket
from supertickets.training import TrainConfig
from supertickets.transfer.carry import Carried, carry
from supertickets.transfer.config import TransferConfig
from supertickets.transfer.transfer import score, train_carried

CONTROLS = {
    "transferred": "architecture, mask and weights of the ticket",
    "fresh-weights": "its architecture and mask, fresh weights",
    "shuffled-mask": "its architecture and source weights, the mask in disorder within each layer",
    "random": "random architecture, random mask, fresh weights, the same exact MACs",
    "native": "a ticket found on the new task, as it is",
    "dense": "its architecture and all source weights, no mask",
    "shuffled-labels": "a ticket whose source had labels in disorder",
}


@dataclass(frozen=True)
class ControlTickets:
    """Tickets that some rows need; a row without its ticket is left out, and said to be.

    Attributes:
        dense: Of the same architecture, without masks: the weights behind the ticket's masks. A
            ticket itself holds zeros where it was pruned, which a mask in disorder would keep.
        native: Found on the new task, with the new outputs.
        random: Gives a random architecture; its weights and masks are not used.
        shuffled_labels: Found on the old task with labels in disorder.
    """

    dense: Ticket | None = None
    native: Ticket | None = None
    random: Ticket | None = None
    shuffled_labels: Ticket | None = None

    @classmethod
    def read(cls, config: TransferConfig) -> ControlTickets:
        """Load the tickets that the options name."""

        def one(folder: Path | None) -> Ticket | None:
            return None if folder is None else Ticket.from_pretrained(folder)

        return cls(
            dense=one(config.dense),
            native=one(config.native),
            random=one(config.random),
            shuffled_labels=one(config.shuffled_labels),
        )


def control_rows(
    ticket: Ticket,
    data: ImageData,
    config: TransferConfig,
    training: TrainConfig,
    *,
    tickets: ControlTickets | None = None,
    seed: int = 0,
    model: ModelConfig | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Train every row alike: same images, order, steps and options.

    Args:
        ticket: The transferred one.
        data: The new images.
        config: As for the transfer.
        training: As for the transfer.
        tickets: What rows need beside the ticket.
        seed: Draws new layers, masks and images.
        model: Names the user's factory for tickets that need one.
        device: Where rows are trained.
        checkpoint: A folder; each row resumes from its own below it.
        progress: Show progress bars.

    Returns:
        The rows, as :attr:`Transferred.figures` with ``name`` and ``what``, in the order of
        :data:`CONTROLS` (without ``transferred``); and a reason for every row that is left out.

    Raises:
        InputError: A ticket does not fit its row.
    """
    given = tickets or ControlTickets()
    rows, left_out = [], {}
    makers = _makers(ticket, data, given, seed, model)
    for name, what in CONTROLS.items():
        if name == "transferred":
            continue
        if name == "native" and given.native is not None:
            figures = _native(given.native, data, training, model, device)
        elif name in makers:
            figures = train_carried(
                makers[name](),
                data,
                config,
                training,
                seed=seed,
                device=device,
                checkpoint=None if checkpoint is None else checkpoint / name,
                label=f"control {name}",
                progress=progress,
            ).figures
        else:
            left_out[name] = _NEEDS[name]
            continue
        rows.append({"name": name, "what": what, **figures})
    return rows, left_out


_NEEDS = {
    "shuffled-mask": "needs the weights behind the masks: transfer.dense",
    "native": "needs a ticket of the new task: transfer.native",
    "dense": "needs the weights behind the masks: transfer.dense",
    "shuffled-labels": "needs a ticket from labels in disorder: transfer.shuffled_labels",
}


def _makers(
    ticket: Ticket,
    data: ImageData,
    given: ControlTickets,
    seed: int,
    model: ModelConfig | None,
) -> dict[str, Callable[[], Carried]]:
    """Say how each row that can be trained is made."""
    makers: dict[str, Callable[[], Carried]] = {
        "fresh-weights": lambda: carry(ticket, data, seed=seed, model=model, weights={}),
        "random": lambda: _random(ticket, data, given.random, seed, model),
    }
    dense, shuffled = given.dense, given.shuffled_labels
    if dense is not None:
        _check_dense(ticket, dense)
        makers["shuffled-mask"] = lambda: carry(
            ticket,
            data,
            seed=seed,
            model=model,
            weights=dense.tensors,
            masks=shuffled_masks(ticket.masks, seed),
        )
        makers["dense"] = lambda: carry(
            ticket, data, seed=seed, model=model, weights=dense.tensors, masks={}
        )
    if shuffled is not None:
        makers["shuffled-labels"] = lambda: carry(shuffled, data, seed=seed, model=model)
    return makers


def shuffled_masks(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Put each mask in disorder; every layer keeps as many weights as before.

    Args:
        masks: Bool masks by weight key.
        seed: Decides the order.
    """
    return {
        key: mask.flatten()[
            torch.randperm(mask.numel(), generator=generator(seed, "shuffled-mask", key))
        ].view(mask.shape)
        for key, mask in masks.items()
    }


def _random(
    ticket: Ticket, data: ImageData, random: Ticket | None, seed: int, model: ModelConfig | None
) -> Carried:
    """Make a network that has nothing of the ticket but its exact MACs."""
    if random is None:
        masks = shuffled_masks(ticket.masks, seed + 1)
        return carry(ticket, data, seed=seed + 1, model=model, weights={}, masks=masks)
    example = example_input(data.channels, data.image_size)
    target = model_cost(carry(ticket, data, seed=seed, model=model).model, example).effective_macs
    plain = carry(random, data, seed=seed + 1, model=model, weights={}, masks={})
    reused = set(plain.reused)
    layers = model_cost(plain.model, example).layers
    open_macs = sum(one.macs for one in layers if f"{one.name}.weight" in reused)
    fixed_macs = sum(one.macs for one in layers) - open_macs
    density = (target - fixed_macs) / open_macs if open_macs else 1.0
    if not 0 < density <= 1:
        raise InputError(
            f"transfer.random: its architecture has {open_macs + fixed_macs:,} MACs, of which "
            f"{fixed_macs:,} cannot be pruned; no mask gives the ticket's {target:,}"
        )
    state = plain.model.state_dict()
    masks = {}
    for layer in layers:
        key = f"{layer.name}.weight"
        if key in reused:
            count = state[key].numel()
            kept = torch.arange(count) < round(density * count)
            masks[key] = kept.view(state[key].shape)
    masks = shuffled_masks(masks, seed + 1)
    return carry(random, data, seed=seed + 1, model=model, weights={}, masks=masks)


def _check_dense(ticket: Ticket, dense: Ticket) -> None:
    for key in ticket.masks:
        if key not in dense.tensors or dense.tensors[key].shape != ticket.tensors[key].shape:
            raise InputError(
                f"transfer.dense: expected the weights behind the ticket's masks, but {key!r} "
                f"{list(ticket.tensors[key].shape)} is missing or of another shape"
            )
    if dense.masks:
        raise InputError(
            f"transfer.dense: expected a ticket without masks, got one with {len(dense.masks)}"
        )


def _native(
    native: Ticket,
    data: ImageData,
    training: TrainConfig,
    model: ModelConfig | None,
    device: str,
) -> dict[str, Any]:
    """Score a ticket of the new task as it is."""
    outputs = native.architecture["num_classes"]
    if native.task != data.task or outputs != data.num_classes:
        raise InputError(
            f"transfer.native: expected a ticket for {data.task} with {data.num_classes} outputs, "
            f"got one for {native.task} with {outputs}"
        )
    own = None
    if native.architecture["space"] == "import":
        own = carry(native, data, seed=0, model=model, masks={}).model
    net = native.to_masked(own).to(device)
    figures = score(net, data, batch_size=training.batch_size, device=device)
    return {**figures, "epochs": 0, "steps": 0}
