"""Drawing paths: from a prior, and from the same prior given a budget."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from supertickets.errors import InputError
from supertickets.spaces.choice_net import Path

Prior = Sequence[Sequence[float]]

_BINS = 1 << 16
_PROPOSALS = 10_000


@dataclass(frozen=True)
class PathCosts:
    """A cost that adds up over the layers: MACs an image, or parameters.

    Attributes:
        fixed: Cost of stem and head.
        layers: For each layer the cost of each of its operations.
    """

    fixed: int
    layers: tuple[tuple[int, ...], ...]

    def of(self, path: Sequence[int]) -> int:
        """Give the cost of a path."""
        return self.fixed + sum(
            costs[index] for costs, index in zip(self.layers, path, strict=True)
        )

    @property
    def smallest(self) -> int:
        """Cost of the cheapest path."""
        return self.fixed + sum(min(costs) for costs in self.layers)

    @property
    def largest(self) -> int:
        """Cost of the most expensive path."""
        return self.fixed + sum(max(costs) for costs in self.layers)


def check_prior(prior: Prior | None, sizes: Sequence[int]) -> Prior:
    """Refuse weights that are no prior.

    Args:
        prior: For each layer the weights of its operations, of any sum; uniform if None.
        sizes: Number of operations of each layer.

    Returns:
        Probabilities for each layer.

    Raises:
        InputError: Another number of layers or operations, a weight that is negative or not finite,
            or a layer without any weight.
    """
    if prior is None:
        return tuple((1.0 / size,) * size for size in sizes)
    if len(prior) != len(sizes):
        raise InputError(f"prior: expected weights for {len(sizes)} layers, got {len(prior)}")
    checked = []
    for layer, (weights, size) in enumerate(zip(prior, sizes, strict=True)):
        total = math.fsum(weights)
        if len(weights) != size or min(weights) < 0 or not 0 < total < math.inf:
            raise InputError(
                f"prior: layer {layer} needs {size} weights, none negative, with a sum above 0; "
                f"got {list(weights)}"
            )
        checked.append(tuple(weight / total for weight in weights))
    return tuple(checked)


def draw_path(prior: Prior, generator: torch.Generator) -> Path:
    """Draw one operation for each layer, independently.

    Args:
        prior: Probabilities for each layer, as :func:`check_prior` gives them.
        generator: On the CPU; one number is drawn for each layer.
    """
    numbers = torch.rand(len(prior), generator=generator, dtype=torch.float64).tolist()
    return tuple(_pick(weights, number) for weights, number in zip(prior, numbers, strict=True))


class BudgetSampler:
    """Draws paths from a prior, given that their cost is within bounds.

    A path comes with its prior probability over that of all paths within: costs are cut into bins,
    the chance to end within the bounds is tabulated from the last layer to the first, each layer is
    drawn by prior times that chance, and what the bins let through wrongly is drawn again.

    Args:
        costs: Cost of every operation.
        smallest: Lowest cost allowed; no bound if None.
        largest: Highest cost allowed; no bound if None.
        prior: Probabilities for each layer, as :func:`check_prior` gives them.

    Raises:
        InputError: No path is within the bounds; the message states what can be reached.
    """

    def __init__(
        self, costs: PathCosts, smallest: int | None, largest: int | None, prior: Prior
    ) -> None:
        self._costs, self._prior = costs, prior
        self._smallest = costs.smallest if smallest is None else smallest
        self._largest = costs.largest if largest is None else largest
        unit = (costs.largest - costs.smallest) // _BINS + 1
        self._bins = [
            [(cost - min(layer)) // unit for cost in layer] for layer in self._costs.layers
        ]
        self._chances = self._tabulate(unit)
        self(torch.Generator().manual_seed(0))  # a budget that cannot be met is refused now

    def __call__(self, generator: torch.Generator) -> Path:
        """Draw a path; ``generator`` is on the CPU."""
        if self._smallest <= self._largest and self._chances[0][0] > 0:
            for _ in range(_PROPOSALS):
                path = self._propose(generator)
                if self._smallest <= self._costs.of(path) <= self._largest:
                    return path
        lowest, highest = self.reachable
        raise InputError(
            f"budget: no path of the prior was found with {self._smallest:,} to "
            f"{self._largest:,} MACs; paths reach {lowest:,} to {highest:,}"
        )

    @property
    def reachable(self) -> tuple[int, int]:
        """Lowest and highest cost of a path that the prior allows."""
        allowed = [
            [cost for cost, weight in zip(*layer, strict=True) if weight > 0]
            for layer in zip(self._costs.layers, self._prior, strict=True)
        ]
        return (
            self._costs.fixed + sum(map(min, allowed)),
            self._costs.fixed + sum(map(max, allowed)),
        )

    def _tabulate(self, unit: int) -> list[NDArray[np.float64]]:
        """For each layer, and the end: chance to end within the bounds, by the bins used so far."""
        base, layers = self._costs.smallest, len(self._bins)
        # a sum of bins is at most the bin of the sum, and less than `layers` below it
        low = (self._smallest - base) // unit - layers
        high = (self._largest - base) // unit
        size = sum(map(max, self._bins)) + 1
        ends = np.arange(size)
        tables = [((ends >= low) & (ends <= high)).astype(np.float64)]
        for bins, weights in zip(reversed(self._bins), reversed(self._prior), strict=True):
            after, size = tables[-1], size - max(bins)
            tables.append(
                sum(
                    (w * after[b : b + size] for b, w in zip(bins, weights, strict=True)),
                    start=np.zeros(size),
                )
            )
        return tables[::-1]

    def _propose(self, generator: torch.Generator) -> Path:
        numbers = torch.rand(len(self._prior), generator=generator, dtype=torch.float64).tolist()
        path, used = [], 0
        for layer, weights in enumerate(self._prior):
            bins, after = self._bins[layer], self._chances[layer + 1]
            chances = [w * float(after[used + b]) for b, w in zip(bins, weights, strict=True)]
            choice = _pick(chances, numbers[layer])
            path.append(choice)
            used += bins[choice]
        return tuple(path)


def _pick(weights: Sequence[float], number: float) -> int:
    """Turn a number in [0, 1) into an index, by weights of any sum; none without weight."""
    sums = list(accumulate(weights))
    index = bisect_right(sums, number * sums[-1])
    while index >= len(sums) or weights[index] == 0:  # only rounding leads beyond the last weight
        index -= 1
    return index
