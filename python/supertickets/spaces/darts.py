"""The DARTS space: a normal and a reduction cell (Liu et al. 2019, arXiv 1806.09055)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from supertickets.errors import InputError
from supertickets.spaces.candidate import Candidate, Edge, check_candidate, draw, every_operation
from supertickets.spaces.darts_genotype import (
    CELLS,
    GENOTYPES,
    NODES,
    OPERATIONS,
    Genotype,
    parse_genotype,
)
from supertickets.spaces.darts_net import DartsEvaluationNet, DartsProxyNet
from supertickets.spaces.operations import NONE


class Darts:
    """The space: 14 edges in each of two cells, of which each node keeps two."""

    name = "darts"
    kept_inputs: int | None = 2

    def __init__(self) -> None:
        self.edges = tuple(
            Edge(cell, source, target, OPERATIONS)
            for cell in CELLS
            for target in NODES
            for source in range(target)
        )

    def everything(self) -> Candidate:
        """Give the supernet without ``none``."""
        return every_operation(self, but=NONE)

    def sample(self, generator: torch.Generator) -> Candidate:
        """Draw a genotype: two inputs a node and an operation for each, all uniformly."""
        names = OPERATIONS[1:]
        live: dict[tuple[str, int, int], tuple[str, ...]] = {}
        for cell in CELLS:
            for target in NODES:
                for source in torch.randperm(target, generator=generator)[:2].tolist():
                    live[cell, source, target] = (names[draw(len(names), generator)],)
        return self._candidate(live)

    def parse(self, text: str) -> Candidate:
        """Read ``Genotype(normal=[...], ...)``, its JSON, or the name of a published genotype.

        Raises:
            InputError: Another form, or a genotype outside the space.
        """
        genotype = GENOTYPES.get(text.strip()) or parse_genotype(text)
        return self.candidate_of(genotype)

    def format(self, candidate: Candidate) -> str:
        """Write ``Genotype(normal=[...], normal_concat=range(2, 6), ...)``.

        Raises:
            InputError: The candidate is not a path with two inputs a node.
        """
        return str(self.genotype_of(candidate))

    def candidate_of(self, genotype: Genotype) -> Candidate:
        """Give the candidate of a genotype; the order of a node's two inputs is not kept."""
        live: dict[tuple[str, int, int], tuple[str, ...]] = {}
        for cell, inputs in zip(CELLS, (genotype.normal, genotype.reduce), strict=True):
            for index, (operation, source) in enumerate(inputs):
                live[cell, source, NODES[index // 2]] = (operation,)
        return self._candidate(live)

    def genotype_of(self, candidate: Candidate) -> Genotype:
        """Give the genotype of a path with two inputs a node, ordered by source.

        Raises:
            InputError: The candidate is something else.
        """
        check_candidate(candidate, self)
        inputs: dict[str, list[tuple[str, int]]] = {cell: [] for cell in CELLS}
        kept = dict.fromkeys(((cell, node) for cell in CELLS for node in NODES), 0)
        for edge, operations in zip(self.edges, candidate.live, strict=True):
            for operation in operations:
                inputs[edge.cell].append((operation, edge.source))
                kept[edge.cell, edge.target] += 1
        if not candidate.is_path or set(kept.values()) != {2}:
            raise InputError(
                "darts: a genotype has one operation an edge and two inputs a node, got "
                + ", ".join(f"{count} at {cell} {node}" for (cell, node), count in kept.items())
            )
        normal, reduce = (tuple(inputs[cell]) for cell in CELLS)
        return Genotype(normal=normal, reduce=reduce)

    def proxy_net(self, candidate: Candidate, *, num_classes: int = 10) -> DartsProxyNet:
        """Build the network of the trainability score: width 1, one cell of each type."""
        check_candidate(candidate, self)
        return DartsProxyNet(candidate, num_classes=num_classes)

    def thin_net(self, candidate: Candidate, *, num_classes: int = 10) -> DartsProxyNet:
        """Build the network of the region count: the same without stem, for one channel."""
        check_candidate(candidate, self)
        return DartsProxyNet(candidate, num_classes=num_classes, channels=None)

    def network(
        self, candidate: Candidate, *, num_classes: int, channels: int, **options: Any
    ) -> nn.Module:
        """Build the evaluation network.

        Args:
            candidate: A path with two inputs a node.
            num_classes: Size of the output.
            channels: Input channels.
            options: ``width``, ``layers``, ``imagenet`` (the stem of large images), ``auxiliary``
                (a second head) and ``drop_path``; see
                :class:`DartsEvaluationNet`.
        """
        self.genotype_of(candidate)
        return DartsEvaluationNet(candidate, num_classes=num_classes, channels=channels, **options)

    def _candidate(self, live: dict[tuple[str, int, int], tuple[str, ...]]) -> Candidate:
        return Candidate(
            self.name, tuple(live.get((e.cell, e.source, e.target), ()) for e in self.edges)
        )
