"""One training that searches and prunes, and the ticket at its end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from supertickets.data import ImageData
from supertickets.errors import InputError, RunError
from supertickets.evaluate import model_cost
from supertickets.evaluate.measure import measure_split
from supertickets.search.atoms import block_atoms, find_atoms
from supertickets.search.config import TwoInOneConfig
from supertickets.search.masks import density, masked_convolutions_
from supertickets.search.schedule import check_reaches
from supertickets.search.two_in_one import TwoInOne, ticket_density_bound
from supertickets.spaces import example_input
from supertickets.tasks import get_task
from supertickets.training import TrainConfig, rank, train, world_size
from supertickets.training.step import task_loss


@dataclass(frozen=True, eq=False)
class SearchedTicket:
    """What a two-in-one training has left.

    Attributes:
        model: Shrunk and masked, with the weights and statistics it was scored with.
        history: One row per epoch; ``step_ms`` is the time of an optimizer step, and ``density``
            and ``macs`` are those after the epoch's events.
        events: One dict per search and pruning.
        blocks: Atoms per block and kernel size; a block that vanished is not there.
        steps: Optimizer steps done.
        wall_s: Seconds of the training.
    """

    model: nn.Module
    history: list[dict[str, float]]
    events: list[dict[str, Any]]
    blocks: dict[str, dict[int, int]]
    steps: int
    wall_s: float


def find_ticket(
    model: nn.Module,
    data: ImageData,
    config: TwoInOneConfig,
    training: TrainConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
    tensorboard: Path | None = None,
    log: Callable[[str], None] | None = None,
) -> SearchedTicket:
    """Train a supernet while its dead atoms are removed and its weights pruned.

    The ticket is what the pruning after the last epoch leaves, with averaged weights and
    re-estimated statistics where the training has them. The validation split is scored after every
    epoch for the record; nothing is chosen by it, and the test split is never read.

    Args:
        model: The start supernet; left untouched.
        data: Images of the task that the model's head is for.
        config: What is removed when.
        training: The options of the training.
        seed: Decides batches and dropout.
        device: Where it runs.
        checkpoint: A folder to resume from, written to after every epoch.
        progress: Show a progress bar.
        tensorboard: Folder for TensorBoard event files.
        log: Takes one line per search and pruning.

    Returns:
        The ticket as a model, and how it came about.

    Raises:
        InputError: The model has no search block, or the options do not fit together.
        RunError: The training diverged.
    Source: You et al. 2022, "SuperTickets", arXiv 2207.03677.
    """
    _check(config, training)
    net = copy.deepcopy(model).to(device)
    masked_convolutions_(net, config.keep_dense)
    example = example_input(data.channels, data.image_size).to(device)
    joint = TwoInOne(net, config, example, log=log)
    result = train(
        net,
        train_loader(data, training, seed),
        training,
        seed=seed,
        task=data.task,
        loss=joint.penalty.added_to(task_loss(data.task, training.label_smoothing)),
        evaluate=judge(data, training.batch_size, device),
        metric=f"validation_{get_task(data.task).metric}",
        callbacks=[joint],
        checkpoint=checkpoint,
        device=device,
        label=f"two-in-one {config.sparsity:.0%}",
        progress=progress,
        tensorboard=tensorboard,
    )
    check_is_ticket(net, config)
    return SearchedTicket(
        model=net.eval(),
        history=result.history,
        events=joint.events,
        blocks=block_atoms(find_atoms(net)),
        steps=training.epochs * _steps_per_epoch(data, training, seed),
        wall_s=result.wall_s,
    )


def retrain(
    model: nn.Module,
    data: ImageData,
    training: TrainConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a ticket's weights on, with its architecture and its masks as they are.

    Args:
        model: A ticket as a model; left untouched.
        data: Images.
        training: The options, a schedule of its own.
        seed: Decides batches and dropout.
        device: Where it runs.
        checkpoint: A folder to resume from.
        progress: Show a progress bar.

    Returns:
        The trained model and its history.

    Raises:
        RunError: A mask has changed; this would be a defect.
    """
    net = copy.deepcopy(model).to(device)
    before = {name: mask.clone() for name, mask in net.named_buffers() if name.endswith(".mask")}
    result = train(
        net,
        train_loader(data, training, seed),
        training,
        seed=seed,
        task=data.task,
        evaluate=judge(data, training.batch_size, device),
        metric=f"validation_{get_task(data.task).metric}",
        checkpoint=checkpoint,
        device=device,
        label="retrain",
        progress=progress,
    )
    after = dict(net.named_buffers())
    if any(not before[name].equal(after[name]) for name in before):
        raise RunError("retrain: a mask has changed; this is a defect")
    return net.eval(), result.history


def check_is_ticket(model: nn.Module, config: TwoInOneConfig) -> None:
    """Refuse to call a network a ticket whose masks keep more than the sparsity leaves.

    Args:
        model: Masked.
        config: Says the sparsity.

    Raises:
        RunError: The density is too high, as it is between a search and the next pruning.
    """
    layers = masked_convolutions_(model, config.keep_dense)
    found = density(layers)
    most = ticket_density_bound(config, sum(layer.weight.numel() for layer in layers.values()))
    if found > most:
        raise RunError(
            f"two-in-one: a network of density {found:.4f} is no ticket of sparsity "
            f"{config.sparsity:g}: it has been set free since it was pruned; prune it first"
        )


def prunable_share(model: nn.Module, config: TwoInOneConfig) -> float:
    """Give the kept share of the prunable weights alone, the paper's density."""
    return density(masked_convolutions_(model, config.keep_dense))


def paper_macs(model: nn.Module, config: TwoInOneConfig, data: ImageData, device: str) -> int:
    """Give the papers' sparse MACs: dense MACs times the kept share of the prunable weights."""
    example = example_input(data.channels, data.image_size).to(device)
    return round(model_cost(model, example).macs * prunable_share(model, config))


def train_loader(data: ImageData, training: TrainConfig, seed: int) -> Any:
    """Give the training batches of this process."""
    return data.loader(
        "train", batch_size=training.batch_size, seed=seed, rank=rank(), world_size=world_size()
    )


def judge(
    data: ImageData, batch_size: int, device: str
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Make the scoring of the validation split after an epoch."""

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        found = measure_split(network, data, "validation", batch_size=batch_size, device=device)
        return {f"validation_{name}": value for name, value in found.items()}

    return evaluate


def _steps_per_epoch(data: ImageData, training: TrainConfig, seed: int) -> int:
    return -(-len(train_loader(data, training, seed)) // training.accumulate)


def _check(config: TwoInOneConfig, training: TrainConfig) -> None:
    check_reaches(config, training.epochs)
    if training.keep != "last":
        raise InputError(
            "two-in-one: train.keep must be 'last', as the ticket is what the last pruning leaves; "
            f"got {training.keep!r}"
        )
