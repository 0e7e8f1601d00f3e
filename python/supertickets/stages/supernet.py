"""The stage that trains a supernet, takes a path from its board, and saves it as a ticket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from supertickets.config import Recipe
from supertickets.data import ImageData, load_data
from supertickets.distill import SupernetTraining
from supertickets.distill.select import PathScorer, Scored, best_of, evolve
from supertickets.evaluate import classification
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSupernet, Path
from supertickets.spaces.mbconv import MBConvSpace, mbconv_space
from supertickets.stages.base import (
    TICKET,
    Room,
    Stage,
    data_hash,
    data_options,
    data_provenance,
)
from supertickets.stages.train import scores
from supertickets.ticket import Ticket
from supertickets.training import on_main, rank, train, world_size

SUPERNET = "supernet"


def supernet_stage(recipe: Recipe) -> Stage:
    """Make the stage of one-shot search.

    Args:
        recipe: The resolved recipe; ``train`` holds the options of the final network's training.

    Returns:
        The stage; its figures are the found path with accuracies and MACs, the board, its events,
        evolution on the same supernet, and both histories.
    """
    options = recipe.supernet.model_dump(mode="json", exclude={"enabled"})
    final = recipe.train.model_dump(mode="json") if recipe.supernet.weights == "retrain" else None
    return Stage(
        name=SUPERNET,
        kind="supernet",
        config={"data": data_options(recipe.data), "supernet": options, "train": final},
        needs=(),
        work=lambda room: _work(recipe, room),
        outside=lambda: data_hash(recipe.data),
        collective=True,
    )


def search_space(recipe: Recipe, data: ImageData) -> MBConvSpace:
    """Give the recipe's space for the data."""
    section = recipe.supernet
    return mbconv_space(
        num_classes=data.num_classes,
        channels=data.channels,
        image_size=data.image_size,
        depths=section.depths,
        operations=section.operations,
        options=section.options,
    )


def _work(recipe: Recipe, room: Room) -> dict[str, Any]:
    data = load_data(recipe.data)
    space = search_space(recipe, data)
    supernet, search, history = _train_supernet(recipe, data, space, room)
    scorer = PathScorer(
        space,
        supernet,
        data.loader("train", batch_size=recipe.supernet.train.batch_size, seed=recipe.seed),
        data.loader("validation", batch_size=recipe.supernet.train.batch_size),
        batches=recipe.supernet.bn_batches,
        device=recipe.device,
    )
    board = [scorer(path) for path in search.board.paths]
    chosen = best_of(board)
    evolved = _evolve(recipe, space, scorer, len(board))
    best_evolved = best_of(evolved)
    room.log(
        f"      board: {space.format(chosen.path)}, validation {chosen.accuracy:.2%}, "
        f"{chosen.macs:,} MACs; evolution at {len(board)} evaluations: "
        f"{space.format(best_evolved.path)}, {best_evolved.accuracy:.2%}"
    )
    scorer.recalibrate(chosen.path)
    network, trained = _final_network(recipe, data, space, supernet, chosen.path, room)
    found = scores(network, data, recipe)
    figures = {
        "space": space.name,
        "arch": space.format(chosen.path),
        "path": list(chosen.path),
        "supernet_accuracy": chosen.accuracy,
        "weights": recipe.supernet.weights,
        "paths": space.count,
        "reachable_macs": list(space.reachable()),
        **found,
        "board": [row.as_dict() for row in sorted(board, key=lambda one: one.order)],
        "evolution": [row.as_dict() for row in evolved],
        "events": [[e.step, e.kind, list(e.path), e.score] for e in search.board.events],
        "refused": dict(search.board.refused),
        "history": history,
        "train_history": trained,
    }
    on_main(lambda: _save(recipe, data, space, network, chosen.path, found, room))
    return figures


def _train_supernet(
    recipe: Recipe, data: ImageData, space: MBConvSpace, room: Room
) -> tuple[ChoiceSupernet, SupernetTraining, list[dict[str, float]]]:
    section = recipe.supernet
    supernet = space.supernet(generator(recipe.seed, "supernet", "weights"))
    if section.channels_last:
        for parameter in supernet.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
    loader = data.loader(
        "validation", batch_size=section.rescore_images, seed=recipe.seed, shuffle=True
    )
    images, labels = next(iter(loader))
    search = SupernetTraining(
        space, section.search_config, images, labels, classes=data.num_classes
    )
    result = train(
        supernet,
        _training_loader(data, section.train.batch_size, recipe.seed),
        section.train,
        seed=recipe.seed,
        loss=search.loss,
        callbacks=[search],
        checkpoint=room.checkpoint / "supernet",
        device=recipe.device,
        label="supernet",
        progress=room.progress,
        tensorboard=room.tensorboard,
    )
    return supernet, search, result.history


def _evolve(
    recipe: Recipe, space: MBConvSpace, scorer: PathScorer, evaluations: int
) -> list[Scored]:
    section = recipe.supernet
    prior = None if section.prior is None else space.prior(section.prior)
    sampler = space.within(section.min_macs, section.max_macs, prior)
    low, high = section.min_macs or 0, section.max_macs or space.reachable()[1]
    return evolve(
        scorer,
        sampler,
        lambda path: low <= space.macs(path) <= high,
        [len(layer.operations) for layer in space.layers],
        evaluations=evaluations,
        generator=generator(recipe.seed, "supernet", "evolution"),
    )


def _final_network(
    recipe: Recipe,
    data: ImageData,
    space: MBConvSpace,
    supernet: ChoiceSupernet,
    path: Path,
    room: Room,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Take the supernet's weights, or train from scratch; give the network and its history."""
    if recipe.supernet.weights == "inherit":
        network: nn.Module = space.network(path)
        network.load_state_dict(supernet.inherit(path))
        return network.to(recipe.device), []
    network = space.network(path, generator(recipe.seed, "supernet", "retrain")).to(recipe.device)
    validation = data.loader("validation", batch_size=recipe.train.batch_size)

    def judge(model: nn.Module) -> Mapping[str, float]:
        found = classification(model, validation, device=recipe.device)
        return {"validation_accuracy": found.accuracy, "validation_loss": found.loss}

    result = train(
        network,
        _training_loader(data, recipe.train.batch_size, recipe.seed),
        recipe.train,
        seed=recipe.seed,
        evaluate=judge,
        checkpoint=room.checkpoint / "retrain",
        device=recipe.device,
        label="retrain",
        progress=room.progress,
    )
    return network, result.history


def _training_loader(data: ImageData, batch_size: int, seed: int) -> Any:
    return data.loader(
        "train", batch_size=batch_size, seed=seed, rank=rank(), world_size=world_size()
    )


def _save(
    recipe: Recipe,
    data: ImageData,
    space: MBConvSpace,
    network: nn.Module,
    path: Path,
    found: Mapping[str, Any],
    room: Room,
) -> None:
    ticket = Ticket.from_model(
        network,
        {
            "space": space.name,
            "name": space.format(path),
            "options": recipe.supernet.options,
            "num_classes": data.num_classes,
            "channels": data.channels,
            "image_size": list(data.image_size),
        },
        class_names=data.class_names,
        metrics={**found, "retrained": recipe.supernet.weights == "retrain"},
        provenance={
            "stage": SUPERNET,
            "recipe": recipe.name,
            "seed": recipe.seed,
            **data_provenance(recipe.data, data),
            "supernet": recipe.supernet.model_dump(mode="json"),
            "train": recipe.train.model_dump(mode="json"),
        },
    )
    ticket.save_pretrained(room.folder / TICKET)
    (room.folder / "path.txt").write_text(space.format(path) + "\n", encoding="utf-8")
