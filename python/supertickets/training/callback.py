"""What a stage plugs into the training loop, and what it sees there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn, optim

from supertickets.errors import InputError
from supertickets.training.config import TrainConfig
from supertickets.training.ema import Ema


class BatchLoader(Protocol):
    """Batches of a split; their order and content depend on the seed and the epoch only."""

    samples: int

    def __len__(self) -> int:
        """Give the number of batches."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of one epoch, counted from 0."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give ``(images float32 [N, C, H, W], targets [N, ...])`` of the task."""


@dataclass
class TrainState:
    """Where the training stands; one object is passed to every callback.

    Attributes:
        model: The model itself, never a distributed wrapper; a callback may change its tensors.
        optimizer: Its gradients of the last step are still there in ``step_end``.
        config: The options.
        device: Where the model is.
        seed: The run's seed; derive generators from it with :func:`supertickets.seeds.generator`.
        steps_per_epoch: Optimizer steps in an epoch.
        epoch: Epochs finished, so the epoch under way counts from 0.
        step: Optimizer steps finished since the start of the training.
        loss: Mean loss of the last optimizer step, over all processes.
        figures: The epoch's row of the history so far; in ``epoch_begin`` that of the epoch before,
            its evaluation included.
        ema: The average of the weights, if one is kept; from the first epoch on.
        reshaped: Set by a callback that has changed the shapes or the number of parameters, in the
            model, the optimizer and the average alike; taken back when the loop has followed.
    """

    model: nn.Module
    optimizer: optim.Optimizer
    config: TrainConfig
    device: torch.device
    seed: int
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0
    loss: float = float("nan")
    figures: dict[str, float] = field(default_factory=dict)
    ema: Ema | None = None
    reshaped: bool = False


class Callback:
    """Base of everything that acts during a training; every method may be left out.

    In a distributed run each process has its own callbacks: they must do the same on each.
    Random draws from PyTorch's global generator are seeded by the loop and leave no trace.
    With ``keep="best"`` a callback ends in its state at the kept epoch, as the model does.

    Attributes:
        name: Under this name the state is kept in the checkpoint; the class name if empty.
            Two callbacks of one training need different names.
    """

    name: str = ""

    def begin(self, state: TrainState) -> None:
        """Act once before the first epoch, also when a checkpoint is resumed right after."""

    def epoch_begin(self, state: TrainState) -> None:
        """Act before an epoch, with the model in train mode."""

    def step_end(self, state: TrainState) -> None:
        """Act after an optimizer step, before the moving average sees the weights."""

    def epoch_end(self, state: TrainState) -> Mapping[str, float] | None:
        """Act after an epoch, before it is evaluated; the model is scored as this leaves it.

        Returns:
            Figures to add to the epoch's row of the history.
        """
        return None

    def restore_shapes(self, state: TrainState, saved: dict[str, Any]) -> None:
        """Bring the model to the shapes it had when ``saved`` was given by :meth:`state_dict`.

        Called before the tensors of a checkpoint are loaded into model, optimizer and average.
        """

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed training needs: tensors, plain numbers, strings, lists, dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; tensors are on the CPU."""


def by_name(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Index callbacks by their stable names.

    Raises:
        InputError: Two of them share a name.
    """
    names = [callback.name or type(callback).__name__ for callback in callbacks]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"callbacks: the name {twice[0]!r} is used twice; give each its own name")
    return dict(zip(names, callbacks, strict=True))
