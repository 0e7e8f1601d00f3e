"""Says how each chosen parameter enters a Gram matrix, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from supertickets_ext._jacobian_layers import plan_layers
from supertickets_ext._jacobian_problem import Parameters, problem
from supertickets_ext._tables import aligned


class NtkRow(NamedTuple):
    """One parameter of a report."""

    parameter: str
    route: str
    """``"layer"``: rows from the layer's input and output gradient; ``"backward"``: a backward pass
    of its own for each row; ``"unused"``: the model's forward pass does not read it."""
    why: str


@dataclass(frozen=True)
class NtkReport:
    """What :func:`ntk_explain` found; printing it gives a table."""

    rows: tuple[NtkRow, ...]
    obstacle: str
    """Why the whole network takes backward passes, or nothing."""

    def __str__(self) -> str:
        table = aligned([("parameter", "route", "why"), *self.rows])
        return f"{table}\n{self.obstacle}" if self.obstacle else table


def ntk_explain(
    model: nn.Module, x: Tensor, *, mode: str = "coupled", parameters: Parameters = "weights"
) -> NtkReport:
    """Say which route each chosen parameter takes in :func:`supertickets_ext.ntk_gram`.

    A coupled network whose first row is slower layer by layer than one backward pass takes backward
    passes all the same; that is measured in ``ntk_gram``, not here.

    Args:
        model: As for ``ntk_gram``.
        x: As for ``ntk_gram``.
        mode: As for ``ntk_gram``.
        parameters: As for ``ntk_gram``.

    Returns:
        A report; ``print`` it.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument's value or the model's output does not fit.
    """
    given = problem("ntk_explain", model, x, mode, parameters, None)
    plan = plan_layers(given, x)
    rows = []
    for name in given.names:
        if plan.obstacle:
            rows.append(NtkRow(name, "backward", "the whole network does"))
        elif name in plan.direct:
            rows.append(NtkRow(name, "layer", plan.direct[name].kind))
        elif name in plan.generic:
            readers = [
                n for n in plan.graph.nodes if name in n.derived or name in n.parameters.values()
            ]
            ops = ", ".join(dict.fromkeys(n.op for n in readers))
            rows.append(NtkRow(name, "backward", f"used {len(readers)} times, by {ops}"))
        else:
            rows.append(NtkRow(name, "unused", "the forward pass does not read it"))
    return NtkReport(tuple(rows), plan.obstacle)
