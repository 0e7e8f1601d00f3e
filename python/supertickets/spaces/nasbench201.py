"""NAS-Bench-201: cells of four nodes and six edges (Dong and Yang 2020, arXiv 2001.00326)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from supertickets.errors import InputError, did_you_mean
from supertickets.spaces.candidate import Candidate, Edge, check_candidate, draw, every_operation
from supertickets.spaces.nasbench201_net import NasBench201Net
from supertickets.spaces.operations import NONE

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

_NODE = re.compile(r"\|(?:[^|~]+~\d+\|)+")
_INPUT = re.compile(r"([^|~]+)~(\d+)")


class NasBench201:
    """The space: 5 ** 6 = 15625 cells, 4096 of them without ``none``."""

    name = "nasbench201"
    kept_inputs: int | None = None

    def __init__(self) -> None:
        pairs = [(source, target) for target in (1, 2, 3) for source in range(target)]
        self.edges = tuple(Edge("cell", source, target, OPERATIONS) for source, target in pairs)

    def everything(self) -> Candidate:
        """Give the supernet without ``none``."""
        return every_operation(self, but=NONE)

    def cells(self) -> Iterator[Candidate]:
        """Give all 15625 cells, the last edge changing fastest; tables have orders of their own."""
        for choice in itertools.product(OPERATIONS, repeat=len(self.edges)):
            yield Candidate(self.name, tuple((operation,) for operation in choice))

    def sample(self, generator: torch.Generator) -> Candidate:
        """Draw one of the 15625 cells uniformly."""
        drawn = [OPERATIONS[draw(len(OPERATIONS), generator)] for _ in self.edges]
        return Candidate(self.name, tuple((operation,) for operation in drawn))

    def parse(self, text: str) -> Candidate:
        """Read ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

        Args:
            text: The string; spaces around it are ignored.

        Returns:
            The cell, one operation an edge.

        Raises:
            InputError: Another form, an unknown operation, or other edges.
        """
        nodes = text.strip().split("+")
        if len(nodes) != 3 or not all(_NODE.fullmatch(node) for node in nodes):
            raise InputError(
                f"nasbench201: expected '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|', got {text.strip()!r}"
            )
        live = []
        for target, node in enumerate(nodes, start=1):
            inputs = _INPUT.findall(node)
            if [int(source) for _, source in inputs] != list(range(target)):
                raise InputError(
                    f"nasbench201: node {target} reads the nodes 0 to {target - 1}, each once and "
                    f"in order; got {node!r}"
                )
            for operation, _ in inputs:
                if operation not in OPERATIONS:
                    raise InputError(
                        f"nasbench201: no operation {operation!r}"
                        f"{did_you_mean(operation, OPERATIONS)}"
                    )
                live.append((operation,))
        return Candidate(self.name, tuple(live))

    def format(self, candidate: Candidate) -> str:
        """Write a cell; an edge that is cut is written as ``none``.

        Raises:
            InputError: An edge has more than one live operation.
        """
        check_candidate(candidate, self)
        if not candidate.is_path:
            raise InputError("nasbench201: only a single path can be written, got a supernet")
        parts = [
            f"{operations[0] if operations else NONE}~{edge.source}|"
            for edge, operations in zip(self.edges, candidate.live, strict=True)
        ]
        return "+".join("|" + "".join(parts[i:j]) for i, j in ((0, 1), (1, 3), (3, 6)))

    def proxy_net(
        self, candidate: Candidate, *, num_classes: int = 10, width: int = 3, cells: int = 1
    ) -> NasBench201Net:
        """Build the network of the trainability score: by default width 3, one cell a stage."""
        check_candidate(candidate, self)
        return NasBench201Net(candidate, width=width, cells=cells, num_classes=num_classes)

    def thin_net(self, candidate: Candidate, *, num_classes: int = 10) -> NasBench201Net:
        """Build the network of the region count: one channel, one cell, no stem."""
        check_candidate(candidate, self)
        return NasBench201Net(
            candidate, width=1, cells=1, stages=1, channels=None, num_classes=num_classes
        )

    def network(
        self, candidate: Candidate, *, num_classes: int, channels: int, **options: Any
    ) -> nn.Module:
        """Build the evaluation network.

        Args:
            candidate: The cell.
            num_classes: Size of the output.
            channels: Input channels.
            options: ``width`` of the first stage (16) and ``cells`` of each of the stages (5).
        """
        check_candidate(candidate, self)
        return NasBench201Net(candidate, num_classes=num_classes, channels=channels, **options)
