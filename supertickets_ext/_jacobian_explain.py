"""Says how each chosen parameter enters a Gram matrix, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from supertickets_ext._jacobian_lanes import lanes_refusal
from supertickets_ext._jacobian_layers import LayerPlan, coupled_route, plan_layers, takes_lanes
from supertickets_ext._jacobian_problem import Parameters, Problem, problem
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
    network: str
    """What runs for the whole network: ``"lanes"`` (many cotangents side by side), ``"layers"``
    (row by row from each layer), ``"loop"`` (backward passes), or ``"measured"``: layers or loop,
    whichever is faster on the first rows; after a first ``ntk_gram`` it is named."""
    lanes_refusal: str
    """Why a coupled network does not take the lanes, or nothing."""

    def __str__(self) -> str:
        table = aligned([("parameter", "route", "why"), *self.rows])
        head = f"network: {self.network}"
        head += f" (no lanes: {self.lanes_refusal})" if self.lanes_refusal else ""
        return "\n".join(part for part in (head, table, self.obstacle) if part)


def ntk_explain(
    model: nn.Module, x: Tensor, *, mode: str = "coupled", parameters: Parameters = "weights"
) -> NtkReport:
    """Say which route each chosen parameter takes in :func:`supertickets_ext.ntk_gram`.

    The report is of sums of a coupled batch (``reduction="sum"``); blocks never take the lanes.

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
    network, refusal = _network(given, plan, x)
    return NtkReport(tuple(rows), plan.obstacle, network, refusal)


def _network(given: Problem, plan: LayerPlan, x: Tensor) -> tuple[str, str]:
    if not given.coupled:
        return "layers" if plan.direct else "loop", ""
    refusal = lanes_refusal(plan.graph, given.names, x.dtype) or ""
    if not refusal and takes_lanes(given, plan):
        return "lanes", ""
    route = coupled_route(given, plan, x) or "measured"
    return route, refusal or "too wide, or more than the memory budget"
