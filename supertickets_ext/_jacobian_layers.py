"""The layer-wise routes: one backward pass for activations, then rows layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from supertickets_ext._graph import Graph, Node, gram_state, record, spare_buffers
from supertickets_ext._graph_live import read_live
from supertickets_ext._jacobian_lanes import lanes_bytes, lanes_cost
from supertickets_ext._jacobian_loop import write_row
from supertickets_ext._jacobian_problem import Problem, checked_logits
from supertickets_ext._jacobian_replay import Replay, obstacle, split_parameters
from supertickets_ext._jacobian_rows import add_gram, layer_rows, linear_gram
from supertickets_ext._timing import seconds_now


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
    recorded: bool = True
    """Whether the graph can be run again."""


def plan_coupled(problem: Problem, x: Tensor) -> LayerPlan:
    """Look at a coupled network: what its autograd graph tells, or else a record."""
    graph = read_live(problem.model, x)
    if graph is None:
        return plan_layers(problem, x)
    assert graph.live is not None
    checked_logits(problem.op, graph.live, x)
    if len(x) < 2:
        return LayerPlan(graph, {}, list(problem.names), "one sample: nothing to share", False)
    direct, generic = split_parameters(graph, problem.names)
    return LayerPlan(graph, direct, generic, "", False)


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
    gram = torch.zeros(
        len(x) * outputs, len(two.output) * outputs, dtype=torch.float64, device=x.device
    )
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
    """Gram matrix of a coupled batch ``[N Q, N Q]``, float64; None if its rows do not fit.

    A row comes from the layers or from one backward pass. Which is faster is measured on the first
    rows of a network's shape, all of which are kept, and remembered.
    """
    rows = _Rows(problem, plan, x, block)
    if rows.bytes > problem.budget or rows.live is None:
        return None
    # A checkpointed part of the model runs again in each backward pass: in the state it ran in.
    with (
        gram_state(problem.model, coupled=True),
        spare_buffers(problem.model.modules()),
    ):
        out = rows.all()
    gram = torch.zeros(len(out), len(out), dtype=torch.float64, device=x.device)
    add_gram(gram, out, None)
    return gram


class _Rows:
    """Rows ``[N Q, P]`` of a coupled batch by either route, in the same columns."""

    def __init__(self, problem: Problem, plan: LayerPlan, x: Tensor, block: bool) -> None:
        self.problem, self.plan, self.x = problem, plan, x
        self.names = problem.names
        chosen = problem.chosen()
        self.begins, width = {}, 0
        for name, parameter in chosen.items():
            self.begins[name] = width
            width += parameter.numel()
        logits = plan.graph.nodes[plan.graph.output].value
        self.classes = logits[0].numel()
        self.block = block
        self.count = len(x) * (self.classes if block else 1)
        self.width = width
        self.bytes = self.count * width * x.element_size()
        self.leaves = list(chosen.values())
        # Hooks of the model's own parameters must not run; what is not recorded may be anything.
        hooked = any(leaf._backward_hooks for leaf in self.leaves)
        self.live = None if hooked or plan.obstacle else plan.graph.live
        self.replay: Replay | None = None
        self.seconds: dict[str, list[float]] = {LAYERS: [], LOOP: []}

    def all(self) -> Tensor:
        """Every row."""
        assert self.live is not None
        key = network_key(self.plan, self.names, self.x)
        route = _route(self.plan, key)
        if route != LOOP and not self._can_replay():
            route = _verdicts[key] = LOOP
        out = self.x.new_empty(self.count, self.width)
        flat = self.live.reshape(len(self.x), -1)
        tried = iter(_TRIALS)
        for k in range(self.count):
            trial = route or next(tried, None)
            if trial is None:
                trial = route = self._faster()
                _verdicts[key] = route
            start = seconds_now(self.x.device)
            if trial == LOOP:
                sample, output = self._place(k)
                write_row(out[k], flat[sample, output].sum(), self.leaves)
            else:
                self._layer_row(out[k], k)
            self.seconds[trial].append(seconds_now(self.x.device) - start)
        return out

    def _can_replay(self) -> bool:
        """Whether layers may be tried; a graph that autograd told must be recorded for it."""
        if not self.plan.recorded:
            self.plan = plan_layers(self.problem, self.x)
        return not self.plan.obstacle and _route(self.plan, None) != LOOP

    def _place(self, k: int) -> tuple[int, int | slice]:
        return divmod(k, self.classes) if self.block else (k, slice(None))

    def _layer_row(self, row: Tensor, k: int) -> None:
        if self.replay is None:
            self.replay = Replay(self.plan.graph, self.x, self.plan.direct, folds=False)
            row.zero_()
        cotangent = torch.zeros_like(self.replay.output)
        sample, output = self._place(k)
        cotangent[sample, output] = 1
        if len(self.plan.direct) < len(self.names):
            row.zero_()  # what the network does not use
        fill_row(row, self.replay, cotangent, self.begins)

    def _faster(self) -> str:
        """By the rows so far; each route's first one includes what it needs but once."""
        best = {route: min(seconds) for route, seconds in self.seconds.items()}
        if best[LAYERS] >= best[LOOP]:
            self.replay = None
            return LOOP
        return LAYERS


LAYERS, LOOP = "layers", "loop"
_TRIALS = (LOOP, LAYERS, LOOP, LAYERS)
_verdicts: dict[tuple[object, ...], str] = {}


def network_key(plan: LayerPlan, names: tuple[str, ...], x: Tensor) -> tuple[object, ...]:
    """What decides the cost of a row: the same of a record and of what autograd tells."""
    layers = sorted(
        (n.kind, tuple(n.value.shape), tuple(n.tensors["weight"].shape))
        for n in plan.graph.nodes
        if "weight" in n.tensors
    )
    return (tuple(layers), tuple(x.shape), names, x.dtype, torch.get_num_threads())


def takes_lanes(problem: Problem, plan: LayerPlan) -> bool:
    """Whether the lane kernel is tried first, for sums of a coupled batch."""
    return lanes_bytes(plan.graph) <= problem.budget and lanes_cost(plan.graph) is not None


def coupled_route(problem: Problem, plan: LayerPlan, x: Tensor) -> str | None:
    """``"layers"`` or ``"loop"``; None if the first rows will be measured."""
    return _route(plan, network_key(plan, problem.names, x))


def _route(plan: LayerPlan, key: tuple[object, ...] | None) -> str | None:
    # One backward pass gives all rows of a sample: where it is needed, layers add to its cost.
    if plan.generic or not plan.direct:
        return LOOP
    return None if key is None else _verdicts.get(key)


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
