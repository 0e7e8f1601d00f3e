"""The stage that trains the dense network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from supertickets.config import Recipe
from supertickets.data import ImageData, load_data
from supertickets.evaluate import classification, model_cost
from supertickets.spaces import build_model, example_input
from supertickets.stages.base import (
    TICKET,
    TRAIN,
    Room,
    Stage,
    data_hash,
    data_options,
    data_provenance,
    weights_hash,
)
from supertickets.ticket import Ticket
from supertickets.training import on_main, rank, train, world_size


def train_stage(recipe: Recipe) -> Stage:
    """Make the stage that trains ``recipe.model`` and saves it as a ticket without masks.

    Args:
        recipe: The resolved recipe.

    Returns:
        The stage; its figures are the history, accuracies, parameters, MACs and bytes.
    """
    weights = recipe.model.weights

    def outside() -> Mapping[str, str]:
        return data_hash(recipe.data) | ({"weights": weights_hash(weights)} if weights else {})

    return Stage(
        name=TRAIN,
        kind="train",
        config={
            "data": data_options(recipe.data),
            "model": recipe.model.model_dump(mode="json"),
            "train": recipe.train.model_dump(mode="json"),
        },
        needs=(),
        work=lambda room: _work(recipe, room),
        outside=outside,
        collective=True,
    )


def dense_model(recipe: Recipe, data: ImageData) -> nn.Module:
    """Build the recipe's network for the data, with ``model.weights`` where given."""
    return build_model(
        recipe.model, num_classes=data.num_classes, channels=data.channels, seed=recipe.seed
    )


def architecture_of(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """Describe the recipe's network as a ticket does."""
    return {
        "space": recipe.model.space,
        "name": recipe.model.name,
        "options": recipe.model.options,
        "num_classes": data.num_classes,
        "channels": data.channels,
        "image_size": list(data.image_size),
    }


def _work(recipe: Recipe, room: Room) -> dict[str, Any]:
    data = load_data(recipe.data)
    model = dense_model(recipe, data).to(recipe.device)
    batch_size = recipe.train.batch_size
    validation = data.loader("validation", batch_size=batch_size)

    def judge(network: nn.Module) -> Mapping[str, float]:
        found = classification(network, validation, device=recipe.device)
        return {"validation_accuracy": found.accuracy, "validation_loss": found.loss}

    result = train(
        model,
        data.loader(
            "train",
            batch_size=batch_size,
            seed=recipe.seed,
            rank=rank(),
            world_size=world_size(),
        ),
        recipe.train,
        evaluate=judge,
        checkpoint=room.checkpoint,
        device=recipe.device,
        label=f"train {recipe.model.name}",
        progress=room.progress,
        tensorboard=room.tensorboard,
    )
    figures = {"history": result.history, **scores(model, data, recipe)}
    ticket = Ticket.from_model(
        model,
        architecture_of(recipe, data),
        class_names=data.class_names,
        metrics={key: value for key, value in figures.items() if key != "history"},
        provenance={
            "stage": TRAIN,
            "recipe": recipe.name,
            "seed": recipe.seed,
            **data_provenance(recipe.data, data),
            "train": recipe.train.model_dump(mode="json"),
        },
    )
    on_main(lambda: ticket.save_pretrained(room.folder / TICKET))
    return figures


def scores(model: nn.Module, data: ImageData, recipe: Recipe) -> dict[str, Any]:
    """Score a finished network once on validation and test, and count what it costs.

    Args:
        model: On ``recipe.device``.
        data: The images.
        recipe: Reads the batch size and the device.

    Returns:
        validation_accuracy, test_accuracy, test_count, density, parameters, macs, effective_macs,
        uniform_macs and bytes (of the plain state dict).
    """
    found = {
        split: classification(
            model, data.loader(split, batch_size=recipe.train.batch_size), device=recipe.device
        )
        for split in ("validation", "test")
    }
    cost = model_cost(model, example_input(data.channels, data.image_size).to(recipe.device))
    return {
        "validation_accuracy": found["validation"].accuracy,
        "test_accuracy": found["test"].accuracy,
        "test_count": found["test"].count,
        "density": cost.density,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "effective_macs": cost.effective_macs,
        "uniform_macs": cost.uniform_macs,
        "bytes": cost.dense_bytes,
    }
