"""The layer-wise routes: one backward pass for activations, then rows layer by layer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from supertickets_ext._graph import Graph, Node, record
from supertickets_ext._jacobian_loop import loop_gram, write_row
from supertickets_ext._jacobian_problem import Problem, checked_logits
from supertickets_ext._jacobian_replay import Replay, obstacle, split_parameters
from supertickets_ext._jacobian_rows import add_gram, layer_rows, linear_gram


@dataclass(frozen=True)
class LayerPlan:
    """How a network's parameters are done."""

    graph: Graph
    direct: dict[str, Node]
    """Parameters with rows from their layer."""
    generic: list[str]
    """Parameters that take backward passes of their own."""
    obstacle: str
    """Why no parameter is direct."""


def plan_layers(problem: Problem, x: Tensor) -> LayerPlan:
    """Look at a network: what of it can be done layer by layer.

    Independent samples need the structure alone, so that two are run; their control flow must be
    that of all others.
    """
    graph = record(problem.model, x if problem.coupled else x[:2], coupled=problem.coupled)
    checked_logits(problem.op, graph.nodes[graph.output].value, graph.nodes[0].value)
    why = obstacle(graph, len(graph.nodes[0].value), problem.coupled)
    if not why and len(x) < 2:
        why = "one sample: nothing to share"
    if why:
        return LayerPlan(graph, {}, list(problem.names), why)
    direct, generic = split_parameters(graph, problem.names)
    return LayerPlan(graph, direct, generic, "")


def independent_gram(
    problem: Problem, plan: LayerPlan, x: Tensor, other: Tensor | None, block: bool
) -> Tensor | None:
    """Gram matrix of the direct parameters ``[N1 Q, N2 Q]``, float64; None if it needs too much."""
    one = Replay(plan.graph, x, plan.direct, folds=True)
    two = one if other is None else Replay(plan.graph, other, plan.direct, folds=True)
    outputs = one.output.shape[1] if block else 1
    size = sum(y.tap.numel() * y.tap.element_size() for r in {one, two} for y in r.layers)
    if outputs > 1 and size * outputs > problem.budget:
        return None
    grads_one = _gradients(one, block)
    grads_two = grads_one if two is one else _gradients(two, block)
    gram = torch.zeros(len(x) * outputs, len(two.output) * outputs, dtype=torch.float64)
    names = set(plan.direct)
    with torch.no_grad():
        for i in range(len(one.layers)):
            _add_layer(gram, (one, grads_one), (two, grads_two), i, names)
            grads_one[i] = grads_two[i] = []
    # Rows came output by output: [Q, N] to [N, Q].
    order = gram.reshape(outputs, len(x), outputs, -1).permute(1, 0, 3, 2)
    return order.reshape(gram.shape)


def _gradients(replay: Replay, block: bool) -> list[list[Tensor]]:
    """For each layer the gradients at its tap, one for each output."""
    count = replay.output.shape[1]
    cotangents = []
    for output in range(count) if block else (slice(None),):
        cotangent = torch.zeros_like(replay.output)
        cotangent[:, output] = 1
        cotangents.append(replay.taps(cotangent))
    return [list(grads) for grads in zip(*cotangents, strict=True)]


Side = tuple[Replay, list[list[Tensor]]]


def _add_layer(gram: Tensor, one: Side, two: Side, i: int, names: set[str]) -> None:
    same = one[0] is two[0]
    layer = one[0].layers[i]
    if layer.node.kind == "linear" and layer.node.parameters.get("weight") in names:
        sides = [(r.layers[i].x.repeat(len(g[i]), 1), torch.cat(g[i])) for r, g in (one, two)]
        gram += linear_gram(sides[0], sides[1])
        names = names - {layer.node.parameters["weight"]}
    first = _layer_side(one, i, names)
    second = first if same else _layer_side(two, i, names)
    for name in first:
        add_gram(gram, first[name], None if same else second[name])


def _layer_side(side: Side, i: int, names: set[str]) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {}
    for grad in side[1][i]:
        for name, part in layer_rows(side[0].layers[i], grad, names, 1):
            rows.setdefault(name, []).append(part)
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in rows.items()}


def coupled_gram(problem: Problem, plan: LayerPlan, x: Tensor, block: bool) -> Tensor | None:
    """Gram matrix of a coupled batch ``[N Q, N Q]``, float64; None if the loop is better.

    Where all rows fit the budget, each is made layer by layer. Which of the two is faster is
    measured on the first row of a network's shape.
    """
    rows = coupled_rows(problem, plan, x, block)
    if rows is None:
        return None
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    add_gram(gram, rows, None)
    if plan.generic:
        gram += loop_gram(replace(problem, names=tuple(plan.generic)), x, None, block)
    return gram


def coupled_rows(problem: Problem, plan: LayerPlan, x: Tensor, block: bool) -> Tensor | None:
    """Rows ``[N Q, P]`` of the direct parameters, or None if the loop is better."""
    named = dict(problem.model.named_parameters())
    begins, width = {}, 0
    for name in plan.direct:
        begins[name] = width
        width += named[name].numel()
    classes = plan.graph.nodes[plan.graph.output].value[0].numel()
    count = len(x) * (classes if block else 1)
    if not plan.direct or count * width * x.element_size() > problem.budget:
        return None
    replay = Replay(plan.graph, x, plan.direct, folds=False)
    out = x.new_empty(count, width)
    cotangent = torch.zeros_like(replay.output)
    for k in range(count):
        sample, output = divmod(k, classes) if block else (k, slice(None))
        cotangent.zero_()[sample, output] = 1
        start = time.perf_counter()
        fill_row(out[k], replay, cotangent, begins)
        if k == 0 and not _beats_loop(problem, plan, x, time.perf_counter() - start):
            return None
    return out


_verdicts: dict[tuple[object, ...], bool] = {}


def _beats_loop(problem: Problem, plan: LayerPlan, x: Tensor, row_s: float) -> bool:
    """Compare one row with one backward pass; the answer is kept for networks of this shape."""
    shapes = tuple((n.kind, tuple(n.value.shape), n.inputs) for n in plan.graph.nodes)
    key = (shapes, problem.names, x.dtype, torch.get_num_threads())
    if key not in _verdicts:
        with problem.forward() as (logits, leaves):
            out = logits(x)
            row = x.new_empty(sum(leaf.numel() for leaf in leaves.values()))
            times = []
            for output in out[:2]:
                start = time.perf_counter()
                write_row(row, output.sum(), list(leaves.values()))
                times.append(time.perf_counter() - start)
        _verdicts[key] = row_s <= min(times)
    return _verdicts[key]


def fill_row(row: Tensor, replay: Replay, cotangent: Tensor, begins: dict[str, int]) -> None:
    """Put one cotangent's gradient where its parameters begin."""
    names, batch = set(begins), len(cotangent)
    with torch.no_grad():
        for layer, grad in zip(replay.layers, replay.taps(cotangent), strict=True):
            if layer.node.kind == "linear":
                parts = _linear_parts(layer.node, layer.x, grad, names)
            else:
                parts = dict(layer_rows(layer, grad, names, batch))
            for name, part in parts.items():
                row[begins[name] : begins[name] + part.numel()] = part.reshape(-1)


def _linear_parts(node: Node, x: Tensor, grad: Tensor, names: set[str]) -> dict[str, Tensor]:
    parts = {"weight": grad.T @ x, "bias": grad.sum(0)}
    return {name: parts[role] for role, name in node.parameters.items() if name in names}
