"""Which path of the board teaches, and how much it counts: the matching network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from supertickets.distill.board import Entry
from supertickets.errors import InputError
from supertickets.spaces import Path

Teacher = Literal["meta", "top1", "l1", "random", "none"]

_FIXED_WEIGHT = 0.5


class MatchingNetwork(nn.Module):
    """One linear layer over the flattened difference of two soft outputs.

    It starts from zero: every teacher then counts alike (rho = 0.5), and the best entry of the
    board, which stands first, is chosen.

    Args:
        images: Images per comparison (the paper's slice, 4).
        classes: Length of a soft output.
    """

    def __init__(self, images: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(images * classes, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Give ``z`` of each pair.

        Args:
            student: ``[entries, images, classes]``, probabilities.
            teacher: The same shape.

        Returns:
            ``[entries]``; rho is ``sigmoid(z)``.
        """
        with torch.autocast(student.device.type, enabled=False):
            z: Tensor = self.linear((student - teacher).flatten(1))
        return z.squeeze(1)


@dataclass(frozen=True)
class Choice:
    """The teacher of one step.

    Attributes:
        index: Its place on the board.
        rho: Weight of the distillation in ``[0, 1]``, a scalar; detached from the matching network.
    """

    index: int
    rho: Tensor


def match(
    network: MatchingNetwork,
    student: Callable[[Tensor], Tensor],
    entries: Sequence[Entry],
) -> Choice:
    """Choose the entry with the largest ``z``, and take rho from this very entry.

    All comparisons are one forward pass of the student, without gradients. A NaN never wins while
    there is a number; if there is none, rho is NaN, and the loss that it enters says so.

    Args:
        network: The matching network.
        student: Images ``[n, C, H, W]`` -> logits ``[n, classes]``; see :func:`quiet_forward`.
        entries: At least one, each with images and outputs.

    Returns:
        The choice.

    Raises:
        InputError: The board is empty, or an entry has no outputs.
    """
    images, outputs = _stack(entries)
    with torch.no_grad():
        own = student(images.flatten(0, 1)).float().softmax(dim=1).view_as(outputs)
        z = network(own, outputs)
        index = int(torch.where(z.isnan(), -torch.inf, z).argmax())
        return Choice(index, torch.sigmoid(z[index]))


def choose(
    teacher: Teacher,
    path: Path,
    entries: Sequence[Entry],
    *,
    generator: torch.Generator,
    device: torch.device,
) -> Choice:
    """Choose without a matching network; rho is 0.5.

    Args:
        teacher: ``top1`` (the best entry), ``l1`` (most layers like ``path``; the better of equals)
            or ``random``.
        path: The student.
        entries: At least one, the best first.
        generator: Draws for ``random``.
        device: Where rho is wanted.

    Returns:
        The choice.
    """
    if not entries:
        raise InputError("matching: the board is empty, there is no teacher")
    index = 0
    if teacher == "l1":
        same = [sum(a == b for a, b in zip(path, e.path, strict=True)) for e in entries]
        index = same.index(max(same))
    elif teacher == "random":
        index = int(torch.randint(len(entries), (), generator=generator))
    elif teacher != "top1":
        raise InputError(f"matching: expected top1, l1 or random, got {teacher!r}")
    return Choice(index, torch.tensor(_FIXED_WEIGHT, device=device))


@contextmanager
def quiet_forward(model: nn.Module) -> Iterator[None]:
    """Let a model in train mode run without leaving a trace.

    Batch norm uses the batch's own statistics and does not store them, dropout is off, and the
    random generators end as they were.

    Args:
        model: A supernet; its paths' statistics are not comparable, so evaluation mode is no way.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    drops = [m for m in model.modules() if isinstance(m, _DropoutNd) and m.training]
    cards = [p.device.index for p in model.parameters() if p.is_cuda][:1]
    with torch.random.fork_rng(devices=cards):
        try:
            for norm in norms:
                norm.track_running_stats = False
            for drop in drops:
                drop.training = False
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
            for drop in drops:
                drop.training = True


def _stack(entries: Sequence[Entry]) -> tuple[Tensor, Tensor]:
    if not entries:
        raise InputError("matching: the board is empty, there is no teacher")
    images = [entry.images for entry in entries if entry.images is not None]
    outputs = [entry.outputs for entry in entries if entry.outputs is not None]
    if min(len(images), len(outputs)) < len(entries):
        raise InputError("matching: every entry needs images and outputs")
    return torch.stack(images), torch.stack(outputs)
