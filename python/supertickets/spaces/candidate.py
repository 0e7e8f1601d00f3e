"""The words that every search space shares: edges, candidates, and what a space can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from supertickets.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Edge:
    """A place in a space where one operation is to be chosen.

    Attributes:
        cell: Cell type, such as ``"normal"``.
        source: Index of the node it reads.
        target: Index of the node it adds to.
        operations: Every operation that may stand there.
    """

    cell: str
    source: int
    target: int
    operations: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.cell} {self.source}->{self.target}"


@dataclass(frozen=True)
class Candidate:
    """Live operations of every edge: a supernet, a single path, and all between them.

    Attributes:
        space: Name of the search space.
        live: For each edge of the space, in its order, the live operations in the space's order; an
            edge without any contributes nothing.
    """

    space: str
    live: tuple[tuple[str, ...], ...]

    @property
    def is_path(self) -> bool:
        """Whether no edge has more than one live operation."""
        return all(len(operations) <= 1 for operations in self.live)

    def without(self, edge: int, operation: str) -> Candidate:
        """Give the candidate less one live operation.

        Args:
            edge: Index of the edge.
            operation: One of its live operations.

        Raises:
            InputError: It is not live there.
        """
        if operation not in self.live[edge]:
            raise InputError(
                f"candidate: {operation!r} is not live on edge {edge}, which has {self.live[edge]}"
            )
        return self.with_edge(edge, [name for name in self.live[edge] if name != operation])

    def with_edge(self, edge: int, operations: Iterable[str]) -> Candidate:
        """Give the candidate with other live operations on one edge; none cuts the edge."""
        live = list(self.live)
        live[edge] = tuple(operations)
        return replace(self, live=tuple(live))

    def within(self, other: Candidate) -> bool:
        """Whether every operation that is live here is live in ``other``."""
        return self.space == other.space and all(
            set(mine) <= set(theirs) for mine, theirs in zip(self.live, other.live, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain values; :func:`candidate_from_json` reads them."""
        return {"space": self.space, "live": [list(operations) for operations in self.live]}


@runtime_checkable
class Supernet(Protocol):
    """A network whose operations can be switched; an ``nn.Module`` too."""

    candidate: Candidate

    def set_live(self, candidate: Candidate) -> None:
        """Switch operations on and off; those that are off never run, nothing is rebuilt."""


class CellSpace(Protocol):
    """What the search, the indicators and the tickets know of a space.

    Attributes:
        name: As in a ticket.
        edges: In the order of :attr:`Candidate.live`.
        kept_inputs: Edges that each node keeps in the end; ``None`` if all.
    """

    name: str
    edges: tuple[Edge, ...]
    kept_inputs: int | None

    def everything(self) -> Candidate:
        """Give the start of a pruning search: all operations but ``none`` live on every edge."""

    def sample(self, generator: torch.Generator) -> Candidate:
        """Draw a single path uniformly."""

    def parse(self, text: str) -> Candidate:
        """Read an architecture as the field writes it."""

    def format(self, candidate: Candidate) -> str:
        """Write a single path as the field does."""

    def proxy_net(self, candidate: Candidate, *, num_classes: int = 10) -> nn.Module:
        """Build the small network of the trainability score, for ``[N, 3, 32, 32]``."""

    def thin_net(self, candidate: Candidate, *, num_classes: int = 10) -> nn.Module:
        """Build the one-channel network of the region count, for ``[N, 1, 3, 3]``."""

    def network(
        self, candidate: Candidate, *, num_classes: int, channels: int, **options: Any
    ) -> nn.Module:
        """Build the evaluation network, at full width and depth by default."""


def check_candidate(candidate: Candidate, space: CellSpace) -> None:
    """Refuse a candidate that does not fit a space.

    Raises:
        InputError: Another space, another number of edges, or an unknown operation.
    """
    if candidate.space != space.name:
        raise InputError(f"candidate: expected one of {space.name}, got one of {candidate.space}")
    if len(candidate.live) != len(space.edges):
        raise InputError(
            f"candidate: {space.name} has {len(space.edges)} edges, got {len(candidate.live)}"
        )
    for edge, operations in zip(space.edges, candidate.live, strict=True):
        for operation in operations:
            if operation not in edge.operations:
                raise InputError(
                    f"candidate: edge {edge} of {space.name} has no operation {operation!r}"
                    f"{did_you_mean(operation, edge.operations)}"
                )
        if len(set(operations)) < len(operations):
            raise InputError(f"candidate: edge {edge} lists an operation twice: {operations}")


def require_within(candidate: Candidate, built: Candidate) -> None:
    """Refuse a candidate with operations that a network was not built with.

    Raises:
        InputError: It has one, or another space or number of edges.
    """
    if candidate.space != built.space or len(candidate.live) != len(built.live):
        raise InputError(
            f"set_live: expected {len(built.live)} edges of {built.space}, "
            f"got {len(candidate.live)} of {candidate.space}"
        )
    for edge, (live, known) in enumerate(zip(candidate.live, built.live, strict=True)):
        foreign = set(live) - set(known)
        if foreign:
            raise InputError(
                f"set_live: the network was built without {sorted(foreign)[0]!r} on edge {edge}"
            )


def candidate_from_json(value: Mapping[str, Any], space: CellSpace) -> Candidate:
    """Read what :meth:`Candidate.to_json` gave.

    Raises:
        InputError: It does not fit the space.
    """
    live = value.get("live")
    if not isinstance(live, Sequence) or not all(
        isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
        for names in live
    ):
        raise InputError(f"candidate: expected 'live', lists of operations, got {value!r}")
    candidate = Candidate(str(value.get("space")), tuple(tuple(names) for names in live))
    check_candidate(candidate, space)
    return candidate


def every_operation(space: CellSpace, *, but: str) -> Candidate:
    """Give the candidate with all operations live, except the one named ``but``."""
    live = tuple(tuple(o for o in edge.operations if o != but) for edge in space.edges)
    return Candidate(space.name, live)


def draw(count: int, generator: torch.Generator) -> int:
    """Draw a whole number below ``count``."""
    return int(torch.randint(count, (), generator=generator))
