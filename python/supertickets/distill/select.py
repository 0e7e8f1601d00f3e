"""From a trained supernet to one path: scores with own statistics, and a small evolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from supertickets.errors import InputError
from supertickets.evaluate import classification
from supertickets.spaces import ChoiceSpace, ChoiceSupernet, Path
from supertickets.training import BatchLoader, recalibrate_bn

_TOURNAMENT = 3
_ATTEMPTS = 200


@dataclass(frozen=True)
class Scored:
    """A path with the supernet's weights and batch-norm statistics of its own.

    Attributes:
        path: The path.
        accuracy: On validation, in ``[0, 1]``.
        loss: On validation, mean cross-entropy in nats.
        macs: Of one image.
    """

    path: Path
    accuracy: float
    loss: float
    macs: int

    @property
    def order(self) -> tuple[float, int, Path]:
        """Sort key, the best first: the loss, at equal losses the fewer MACs, then the path.

        On a few hundred images the loss ranks paths better than the accuracy, see docs/cream.md.
        """
        return (self.loss, self.macs, self.path)

    def as_dict(self) -> dict[str, Any]:
        """Give plain values."""
        return {**asdict(self), "path": list(self.path)}


class PathScorer:
    """Scores paths of a supernet; a path is scored once.

    The statistics of the path's batch norms, shared ones included, are re-estimated and left in the
    supernet.

    Args:
        space: The space.
        supernet: Its trained supernet, on ``device``.
        train: Training batches that give the statistics.
        validation: What is scored on.
        batches: How many training batches are averaged over.
        device: Where the supernet is.

    Attributes:
        found: What was scored, in order.
    """

    def __init__(
        self,
        space: ChoiceSpace,
        supernet: ChoiceSupernet,
        train: BatchLoader,
        validation: BatchLoader,
        *,
        batches: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self._space = space
        self._supernet = supernet
        self._train, self._validation = train, validation
        self._batches = batches
        self._device = device
        self.found: dict[Path, Scored] = {}

    def recalibrate(self, path: Path) -> None:
        """Re-estimate the path's batch-norm statistics in the supernet."""
        view = self._supernet.view(path)
        self._train.set_epoch(0)
        recalibrate_bn(view, self._train, batches=self._batches, device=self._device)

    def __call__(self, path: Path) -> Scored:
        """Score a path, or give what was found before."""
        if path not in self.found:
            self.recalibrate(path)
            metrics = classification(
                self._supernet.view(path), self._validation, device=self._device
            )
            self.found[path] = Scored(path, metrics.accuracy, metrics.loss, self._space.macs(path))
        return self.found[path]


def best_of(scored: Iterable[Scored]) -> Scored:
    """Give the one with the lowest loss; ties go to the fewer MACs, then the first path.

    Raises:
        InputError: There is none.
    """
    ordered = sorted(scored, key=lambda one: one.order)
    if not ordered:
        raise InputError("selection: no path to choose from; is the warm-up all of the training?")
    return ordered[0]


def evolve(
    score: Callable[[Path], Scored],
    sample: Callable[[torch.Generator], Path],
    allowed: Callable[[Path], bool],
    sizes: Sequence[int],
    *,
    evaluations: int,
    generator: torch.Generator,
) -> list[Scored]:
    """Search by mutation with so many different paths scored.

    The first half is drawn at random; then the best of three earlier paths is changed in one layer.

    Args:
        score: Scores a path.
        sample: Draws a path within the budget.
        allowed: Says whether a path is within the budget.
        sizes: Number of operations of each layer.
        evaluations: At least 1; fewer are made where no more paths are found.
        generator: Draws everything.

    Returns:
        What was scored, in order.

    Source: tournament selection and mutation of Real et al. 2019, without ageing, which a budget of
    a few evaluations has no use for.
    """
    found: dict[Path, Scored] = {}

    def draw(bound: int) -> int:
        return int(torch.randint(bound, (), generator=generator))

    def mutant() -> Path:
        earlier = list(found.values())
        parent = best_of(earlier[draw(len(earlier))] for _ in range(_TOURNAMENT))
        layer = draw(len(sizes))
        changed = draw(sizes[layer])
        return (*parent.path[:layer], changed, *parent.path[layer + 1 :])

    for _ in range(_ATTEMPTS * evaluations):
        if len(found) == evaluations:
            break
        path = sample(generator) if 2 * len(found) < evaluations else mutant()
        if path not in found and allowed(path):
            found[path] = score(path)
    return list(found.values())
