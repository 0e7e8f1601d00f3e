"""The stage that trains the dense network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from supertickets.config import Recipe
from supertickets.data import ImageData, load_data
from supertickets.data.load import SplitName
from supertickets.evaluate import measure_split, model_cost
from supertickets.spaces import build_model, example_input, options_for_task
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
from supertickets.tasks import get_task
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
    """Build the recipe's network for the data and its task, with ``model.weights`` where given."""
    model = recipe.model.model_copy(update={"options": _options(recipe, data)})
    return build_model(
        model, num_classes=data.num_classes, channels=data.channels, seed=recipe.seed
    )


def _options(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    model = recipe.model
    return options_for_task(model.space, model.name, model.options, data.task)


def architecture_of(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """Describe the recipe's network as a ticket does."""
    return {
        "space": recipe.model.space,
        "name": recipe.model.name,
        "options": _options(recipe, data),
        "num_classes": data.num_classes,
        "channels": data.channels,
        "image_size": list(data.image_size),
    }


def _work(recipe: Recipe, room: Room) -> dict[str, Any]:
    data = load_data(recipe.data)
    model = dense_model(recipe, data).to(recipe.device)
    batch_size = recipe.train.batch_size

    def judge(network: nn.Module) -> Mapping[str, float]:
        found = measure_split(
            network, data, "validation", batch_size=batch_size, device=recipe.device
        )
        return split_figures(found, "validation", with_loss=True)

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
        task=data.task,
        evaluate=judge,
        metric=f"validation_{get_task(data.task).metric}",
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
        task=data.task,
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


def split_figures(
    found: Mapping[str, float], split: SplitName, *, with_loss: bool = False
) -> dict[str, float]:
    """Name a split's scores, such as ``validation_miou``.

    Args:
        found: As from :func:`supertickets.evaluate.measure_split`.
        split: Stands before each name.
        with_loss: Whether the loss is among them.
    """
    left_out = {"count", "correct"} if with_loss else {"count", "correct", "loss"}
    return {f"{split}_{name}": value for name, value in found.items() if name not in left_out}


def scores(model: nn.Module, data: ImageData, recipe: Recipe) -> dict[str, Any]:
    """Score a finished network once on validation and test, and count what it costs.

    Args:
        model: On ``recipe.device``.
        data: The images.
        recipe: Reads the batch size and the device.

    Returns:
        The task's scores on validation and test (validation_accuracy, test_accuracy), test_count,
        density, parameters, macs, effective_macs, uniform_macs and bytes (of the plain state dict).
    """
    splits: tuple[SplitName, ...] = ("validation", "test")
    size, device = recipe.train.batch_size, recipe.device
    found = {
        split: measure_split(model, data, split, batch_size=size, device=device) for split in splits
    }
    cost = model_cost(model, example_input(data.channels, data.image_size).to(device))
    return {
        **split_figures(found["validation"], "validation"),
        **split_figures(found["test"], "test"),
        "test_count": found["test"]["count"],
        "density": cost.density,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "effective_macs": cost.effective_macs,
        "uniform_macs": cost.uniform_macs,
        "bytes": cost.dense_bytes,
    }
