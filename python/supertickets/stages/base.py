"""What a stage is, and what all stages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from supertickets.data import DataConfig, ImageData
from supertickets.errors import InputError
from supertickets.hashing import file_hash, listing_hash
from supertickets.spaces import ModelConfig, build_model
from supertickets.ticket import Ticket

Kind = Literal[
    "rank",
    "correlate",
    "supernet",
    "train",
    "jackpot",
    "ticket",
    "transfer",
    "export",
    "evaluate",
    "report",
]

TRAIN = "train"
TICKET = "ticket"
TUNED_TICKET = "ticket-tuned"

# They decide how images reach the training, never which.
_WITHOUT_EFFECT = {"workers", "lazy"}


@dataclass(frozen=True)
class Room:
    """Where a stage works.

    Attributes:
        run: The run folder.
        folder: The stage's own folder in it.
        checkpoint: For what a killed stage goes on from; removed when the stage has ended.
        progress: Whether progress bars may be drawn.
        tensorboard: Folder for TensorBoard's event files, if they are asked for.
        log: Takes one line of news.
    """

    run: Path
    folder: Path
    checkpoint: Path
    progress: bool
    tensorboard: Path | None
    log: Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Also the name of its folder.
        kind: What it does.
        config: All options that decide its result, as plain values.
        needs: Stages whose results it reads.
        work: Does it; gives the figures.
        outside: Gives hashes of what it reads from outside the run folder.
        reads_figures: Whether the figures of what it needs decide its result, too.
        collective: Whether all processes of a distributed run take part.
        also: Files of the run folder, outside the stage's own, that it writes.
    """

    name: str
    kind: Kind
    config: Mapping[str, Any]
    needs: tuple[str, ...]
    work: Callable[[Room], dict[str, Any]]
    outside: Callable[[], Mapping[str, str]] = dict
    reads_figures: bool = False
    collective: bool = False
    also: tuple[str, ...] = ()


def jackpot_name(sparsity: float) -> str:
    """Name the stage of one sparsity, such as ``jackpot-90`` or ``jackpot-97.5``."""
    return f"jackpot-{100 * sparsity:.6g}"


def data_options(config: DataConfig) -> dict[str, Any]:
    """Give the options of the data that decide a result."""
    return config.model_dump(mode="json", exclude=_WITHOUT_EFFECT)


def data_provenance(config: DataConfig, data: ImageData) -> dict[str, Any]:
    """Say in a ticket which images it was made with, and how their pixels reached the network.

    Args:
        config: The options of the data.
        data: The data they gave.

    Returns:
        ``data``, and ``normalisation``: mean and std per channel of pixels in ``[0, 1]``, which
        whoever feeds the network needs.
    """
    pixels = data.normalisation
    return {
        "data": data_options(config),
        "normalisation": {"mean": list(pixels.mean), "std": list(pixels.std)},
    }


def data_hash(config: DataConfig) -> dict[str, str]:
    """Give the hash of a user's own images; none for data that is found by its name."""
    if config.path is None:
        return {}
    if not config.path.exists():
        raise InputError(f"data.path: expected a folder of images, found none at {config.path}")
    return {"data": listing_hash(config.path)}


def weights_hash(path: Path) -> str:
    """Hash a user's state-dict file."""
    if not path.is_file():
        raise InputError(f"model.weights: expected a state-dict file, found none at {path}")
    return file_hash(path)


def plain_model(ticket: Ticket, config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Rebuild a ticket's network from plain modules.

    Args:
        ticket: The ticket.
        config: Names the user's factory where the ticket's space is ``import``: nothing is
            imported because a ticket says so.
        seed: For the factory.

    Returns:
        The network with the ticket's weights; removed weights are zero.

    Raises:
        InputError: The ticket needs a factory that ``config`` does not name.
    """
    return ticket.to_dense(skeleton(ticket, config, seed=seed))


def skeleton(ticket: Ticket, config: ModelConfig, *, seed: int = 0) -> nn.Module | None:
    """Build the user's own network that a ticket of the space ``import`` is loaded into.

    Args:
        ticket: The ticket.
        config: Names the factory.
        seed: For the factory.

    Returns:
        The network with weights of its own, or ``None`` where the ticket needs none.

    Raises:
        InputError: The ticket needs a factory that ``config`` does not name.
    """
    architecture = ticket.architecture
    if architecture["space"] != "import":
        return None
    if config.space != "import":
        raise InputError(
            f"the ticket holds the network {architecture['name']}, which is not of this package: "
            f"give it with --model {architecture['name']}"
        )
    own = config.model_copy(update={"weights": None})
    return build_model(
        own,
        num_classes=architecture["num_classes"],
        channels=architecture["channels"],
        seed=seed,
    )
