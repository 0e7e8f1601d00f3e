"""Parameters and MACs of evaluation networks: the baselines that every ranking prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from supertickets.evaluate import model_cost
from supertickets.spaces import Candidate, cell_space

_CHANNELS, _SIDE = 3, 32


@dataclass(frozen=True)
class Size:
    """Exact counts of one evaluation network at full width and depth.

    Attributes:
        parameters: All of them.
        macs: Multiply-accumulates of one 3x32x32 image.
    """

    parameters: int
    macs: int


def sizes(candidates: Sequence[Candidate], *, num_classes: int = 10) -> list[Size]:
    """Count the parameters and MACs of single paths.

    The operations of a NAS-Bench-201 cell add up, whatever edge they stand on, so that a network
    per operation tells all 15625 cells; networks of other spaces are counted one by one.

    Args:
        candidates: Single paths of one space.
        num_classes: Outputs of the networks.
    """
    known: dict[Candidate, Size] = {}

    def built(candidate: Candidate) -> Size:
        if candidate not in known:
            known[candidate] = _count(candidate, num_classes)
        return known[candidate]

    if not candidates or candidates[0].space != "nasbench201":
        return [built(candidate) for candidate in candidates]
    empty = Candidate("nasbench201", (("none",),) * 6)
    base = built(empty)
    added = {}
    for operation in cell_space("nasbench201").edges[0].operations:
        one = built(empty.with_edge(0, (operation,)))
        added[operation] = (one.parameters - base.parameters, one.macs - base.macs)
    found = []
    for candidate in candidates:
        parts = [added[name] for operations in candidate.live for name in operations]
        found.append(
            Size(base.parameters + sum(p for p, _ in parts), base.macs + sum(m for _, m in parts))
        )
    return found


def _count(candidate: Candidate, num_classes: int) -> Size:
    space = cell_space(candidate.space)
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
        net = space.network(candidate, num_classes=num_classes, channels=_CHANNELS)
    cost = model_cost(net, torch.zeros(1, _CHANNELS, _SIDE, _SIDE))
    return Size(cost.parameters, cost.macs)
