"""Training a carried network on its new task, with its masks fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from supertickets.data import ImageData
from supertickets.errors import InputError, RunError
from supertickets.evaluate import fingerprint, measure_split, model_cost
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, example_input
from supertickets.tasks import get_task
from supertickets.ticket import Ticket
from supertickets.training import Callback, TrainConfig, TrainState, rank, train, world_size
from supertickets.transfer.carry import Carried, carry
from supertickets.transfer.config import TransferConfig


@dataclass(frozen=True)
class Transferred:
    """A network trained on the new task.

    Attributes:
        carried: The network; its masks are those it started with.
        history: One row per epoch.
        figures: The task's scores on validation and test, test_count, density of the whole network
            and of its masked layers before and after, exact MACs, epochs and optimizer steps.
    """

    carried: Carried
    history: list[dict[str, float]]
    figures: dict[str, Any]


def transfer(
    ticket: Ticket,
    data: ImageData,
    config: TransferConfig,
    training: TrainConfig,
    *,
    seed: int = 0,
    model: ModelConfig | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
    tensorboard: Path | None = None,
) -> Transferred:
    """Bring a ticket to new data: architecture, masks and weights reused, new outputs, masks fixed.

    Args:
        ticket: Found on another task, or on other classes.
        data: The new images; its task decides the head.
        config: What is trained, and on how many images.
        training: How.
        seed: Draws the new layers, the images and their order.
        model: Names the user's factory for a ticket that needs one.
        device: Where it is trained.
        checkpoint: A folder to resume from.
        progress: Show a progress bar.
        tensorboard: Folder for TensorBoard event files.

    Returns:
        The trained network and its figures; the test split is read once, at the end.

    Raises:
        InputError: Ticket and data do not fit.
        RunError: A mask has changed; this would be a defect.

    Source: You et al. 2022, SuperTickets, and its code's ``transfer.py``.
    """
    carried = carry(ticket, data, seed=seed, model=model)
    return train_carried(
        carried,
        data,
        config,
        training,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        label=f"transfer to {data.task}",
        progress=progress,
        tensorboard=tensorboard,
    )


def train_carried(
    carried: Carried,
    data: ImageData,
    config: TransferConfig,
    training: TrainConfig,
    *,
    seed: int,
    device: str,
    checkpoint: Path | None,
    label: str,
    progress: bool,
    tensorboard: Path | None = None,
) -> Transferred:
    """Train a carried network, and check that no mask moved; arguments as :func:`transfer`."""
    net = carried.model.to(device)
    masks, density = fingerprint(carried.masks), masked_density(carried)
    few = _of_images(data, config.images, seed)
    batch_size = training.batch_size

    def judge(network: nn.Module) -> Mapping[str, float]:
        found = measure_split(network, few, "validation", batch_size=batch_size, device=device)
        return {f"validation_{name}": found[name] for name in found if name not in _COUNTS}

    loader = few.loader(
        "train", batch_size=batch_size, seed=seed, rank=rank(), world_size=world_size()
    )
    result = train(
        net,
        loader,
        training,
        seed=seed,
        task=few.task,
        evaluate=judge,
        metric=f"validation_{get_task(few.task).metric}",
        parameters=carried.new_parameters if config.freeze else None,
        callbacks=[_StandStill(carried.kept_modules)] if config.freeze else [],
        checkpoint=checkpoint,
        device=device,
        label=label,
        progress=progress,
        tensorboard=tensorboard,
    )
    if fingerprint(carried.masks) != masks or masked_density(carried) != density:
        raise RunError(f"{label}: a mask has changed, density {density} before")
    steps = training.epochs * -(-len(loader) // training.accumulate)
    figures = {
        **score(net, few, batch_size=batch_size, device=device),
        "masked_density_before": density,
        "masked_density": masked_density(carried),
        "epochs": training.epochs,
        "steps": steps,
        "images": len(few.train),
    }
    return Transferred(carried, result.history, figures)


_COUNTS = ("count", "correct")


def score(model: nn.Module, data: ImageData, *, batch_size: int, device: str) -> dict[str, Any]:
    """Score a network on validation and test, beside its density and exact MACs.

    Args:
        model: On ``device``.
        data: The images.
        batch_size: Images per batch.
        device: Where the batches are moved.

    Returns:
        The task's scores by split, test_count, density, macs and effective_macs.
    """
    figures: dict[str, Any] = {}
    for split in ("validation", "test"):
        found = measure_split(model, data, split, batch_size=batch_size, device=device)
        figures |= {f"{split}_{k}": v for k, v in found.items() if k not in (*_COUNTS, "loss")}
        if split == "test":
            figures["test_count"] = found["count"]
    cost = model_cost(model, example_input(data.channels, data.image_size).to(device))
    counted = ("density", "macs", "effective_macs", "uniform_macs", "parameters")
    return figures | {name: getattr(cost, name) for name in counted}


def masked_density(carried: Carried) -> float:
    """Give the share of kept weights in the masked layers; 1 without masks."""
    masks = carried.masks.values()
    weights = sum(mask.numel() for mask in masks)
    return sum(int(mask.sum()) for mask in masks) / weights if weights else 1.0


def _of_images(data: ImageData, images: int | None, seed: int) -> ImageData:
    """Keep some of the training images; the seed decides which."""
    if images is None:
        return data
    count = len(data.train)
    if images > count:
        raise InputError(
            f"transfer.images: the train split of {data.name} has {count} images, got {images}"
        )
    chosen = torch.randperm(count, generator=generator(seed, "transfer", "images"))[:images]
    return replace(data, train=data.train.take(chosen.sort().values))


class _StandStill(Callback):
    """Keeps what is not trained in evaluation mode: its batch norms stand still."""

    name = "stand-still"

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = modules

    def epoch_begin(self, state: TrainState) -> None:
        """Set the modes after the loop has set its own."""
        for module in self._modules:
            module.eval()
