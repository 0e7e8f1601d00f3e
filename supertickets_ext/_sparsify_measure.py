"""Measures every call of a graph in two layouts.

Layout B is channels_last, best for dense convolutions. Layout A is best for sparse ones: images
side by side in lanes, or, for a few images, plain NCHW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from supertickets_ext._sparsify_trace import (
    call_of,
    fuse,
    has_hooks,
    separate_in_place,
    trace,
)
from supertickets_ext._sparsify_units import CompactUnit, Convert, DenseUnit
from supertickets_ext._structure import MaskStructure, mask_structure
from supertickets_ext._timing import race
from supertickets_ext.lanes import LaneTensor

LANES_FROM = 8  # batches below are computed image by image
_BUDGET_S = 0.06
GAIN = 1.05  # a sparse kernel must be this much faster than dense, more than noise


@dataclass(frozen=True)
class Option:
    """One way to compute a unit."""

    route: str
    module: nn.Module


@dataclass(frozen=True)
class Unit:
    """What was measured of a convolution."""

    x_size: tuple[int, ...]
    weight_size: tuple[int, ...]
    structure: MaskStructure
    dense: nn.Module
    best: tuple[Option, Option]
    """In layout B, and in layout A."""
    dense_us: float
    """The fastest dense way."""
    sparse_us: float
    """The fastest sparse way, the compact one included."""


@dataclass
class Call:
    """A node of the graph, its times and, in the end, its side."""

    node: fx.Node
    a_us: float | None
    """None if it cannot be in layout A."""
    b_us: float
    unit: Unit | None = None
    in_a: bool = False

    @property
    def is_sparse(self) -> bool:
        """Whether a route other than dense was chosen."""
        return self.unit is not None and not self.unit.best[self.in_a].route.startswith("dense")


def measure(module: nn.Module, inputs: tuple[Any, ...]) -> Measurer | None:
    """Make a graph of a module and measure its calls.

    Args:
        module: In evaluation mode.
        inputs: Positional arguments; the first with 4 dimensions gives the batch.

    Returns:
        What was measured; None if the module cannot be made a graph, or has no convolution.
    """
    batch = next((i.shape[0] for i in inputs if isinstance(i, Tensor) and i.dim() == 4), 0)
    graph_module = trace(module) if batch > 0 else None
    if graph_module is None:
        return None
    separate_in_place(graph_module)
    try:
        shapes = Shapes(graph_module).of(inputs)
    except Exception:  # what the trace took as fixed is not; the module is then left whole
        return None
    names = fuse(graph_module, shapes)
    if not names:
        return None
    measured = Measurer(graph_module, batch, names)
    measured.run(*_cloned(inputs))
    return measured


def _cloned(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(i.clone() if isinstance(i, Tensor) else i for i in inputs)


class Shapes(fx.Interpreter):
    """Runs a graph for the shapes of its tensors."""

    def of(self, inputs: tuple[Any, ...]) -> dict[fx.Node, torch.Size]:
        """The shapes by node."""
        self.extra_traceback = False
        self._shapes: dict[fx.Node, torch.Size] = {}
        self.run(*_cloned(inputs))
        return self._shapes

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and note its shape."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self._shapes[n] = result.shape
        return result


class Measurer(fx.Interpreter):
    """Runs a graph once on dense values, and times each call in both layouts on the way."""

    def __init__(self, graph_module: fx.GraphModule, batch: int, names: dict[str, str]) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.names = names
        self.opaque: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}
        self.extra_traceback = False
        self.to_a = Convert("lanes" if batch >= LANES_FROM else "nchw")
        self.to_b = Convert("channels_last")
        self.calls: dict[fx.Node, Call] = {}
        self.conversions: dict[fx.Node, tuple[float, float]] = {}
        self._batch = batch
        self.lanes = batch >= LANES_FROM
        self._known: dict[Any, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, in layout B, and time it."""
        if n.op not in ("call_module", "call_function", "call_method"):
            result = super().run_node(n)
        elif n.op == "call_module" and isinstance(
            self.graph_module.get_submodule(str(n.target)), DenseUnit
        ):
            result = self._unit(n)
        else:
            result = self._other(n)
        if self.is_map(result) and n.op not in ("get_attr", "output"):
            self.conversions[n] = self._conversion(result)
        return result

    @property
    def units(self) -> dict[str, Call]:
        """The measured convolutions by the unit's name."""
        return {str(c.node.target): c for c in self.calls.values() if c.unit is not None}

    def is_map(self, value: Any) -> bool:
        """Whether a value is a batch of feature maps, which have layouts."""
        return (
            isinstance(value, Tensor)
            and value.dim() == 4
            and value.shape[0] == self._batch
            and value.is_floating_point()
        )

    def _inputs(self, node: fx.Node, change: Callable[[Any], Any]) -> tuple[Any, Any]:
        """The node's arguments, with maps that a node computed changed."""
        names = {a for a in node.all_input_nodes if a.op != "get_attr"}

        def load(argument: fx.Node) -> Any:
            value = self.env[argument]
            return change(value) if argument in names and self.is_map(value) else value

        return fx.node.map_arg(node.args, load), fx.node.map_arg(node.kwargs, load)

    def _conversion(self, value: Tensor) -> tuple[float, float]:
        key = ("conversion", value.shape, value.stride())
        if key not in self._known:
            other = self.to_a(value)
            times = race({"to A": lambda: self.to_a(value), "to B": lambda: self.to_b(other)}, 0.02)
            self._known[key] = (times["to A"], times["to B"])
        return self._known[key]

    def _other(self, node: fx.Node) -> Any:
        call = call_of(self.graph_module, node)
        args, kwargs = self._inputs(node, self.to_b)
        key = _signature(self.graph_module, node, args, kwargs)
        if key is None or key not in self._known:
            times = self._time_other(node, call)
            if key is not None:
                self._known[key] = times
        else:
            times = self._known[key]
        self.calls[node] = Call(node, *times)
        if self._is_opaque(node) and not kwargs:
            self.opaque[str(node.target)] = (
                self.graph_module.get_submodule(str(node.target)),
                args,
            )
        return call(*args, **kwargs)

    def _time_other(self, node: fx.Node, call: Callable[..., Any]) -> tuple[float | None, float]:
        """Time in A (None if the result leaves the layout) and in B."""
        b_args, b_kwargs = self._inputs(node, lambda x: self.to_b(x).clone())
        contenders: dict[str, Callable[[], Any]] = {"B": lambda: call(*b_args, **b_kwargs)}
        if self._is_opaque(node):
            return None, race(contenders, 0.02)["B"]
        a_args, a_kwargs = self._inputs(node, lambda x: self.to_a(x.clone()))
        if self._stays(call, a_args, a_kwargs):
            contenders["A"] = lambda: call(*a_args, **a_kwargs)
        times = race(contenders, 0.02)
        return times.get("A"), times["B"]

    def _is_opaque(self, node: fx.Node) -> bool:
        """Whether a call is of a module of the user's own, which shall meet tensors only."""
        if node.op != "call_module":
            return False
        module = self.graph_module.get_submodule(str(node.target))
        return has_hooks(module) or not type(module).__module__.startswith("torch.nn")

    def _stays(self, call: Callable[..., Any], args: Any, kwargs: Any) -> bool:
        """Whether a call on layout A gives a map in it, or no map."""
        try:
            result = call(*args, **kwargs)
        except Exception:  # a module of the user's own need not know LaneTensor
            return False
        return isinstance(result, LaneTensor) or not any(
            isinstance(r, LaneTensor) or (self.lanes and self.is_map(r))
            for r in tree_leaves(result)
        )

    # --- units ----------------------------------------------------------------------------------

    def _unit(self, node: fx.Node) -> Any:
        unit = self.graph_module.get_submodule(str(node.target))
        assert isinstance(unit, DenseUnit)
        b_args, _ = self._inputs(node, self.to_b)
        structure = mask_structure(unit.conv.weight.detach() != 0, unit.conv.groups)
        options = self._options(unit, structure)
        key = ("unit", _describe(unit, structure), *(_shape(a) for a in b_args))
        if key not in self._known:
            a_args, _ = self._inputs(node, self.to_a)
            inputs = {"A": a_args, "B": b_args}
            calls = {n: partial(option.module, *inputs[n[0]]) for n, option in options.items()}
            self._known[key] = race(calls, _BUDGET_S)
        times = self._known[key]
        a_us, b_us, best = _best(options, times)
        dense = [t for name, t in times.items() if name.endswith("dense")]
        others = [t for name, t in times.items() if not name.endswith("dense")]
        self.calls[node] = Call(
            node,
            a_us,
            b_us,
            Unit(
                tuple(b_args[0].shape),
                tuple(unit.conv.weight.shape),
                structure,
                options["B dense"].module,
                best,
                min(dense),
                min(others),
            ),
        )
        return options["B dense"].module(*b_args)

    def _options(self, unit: DenseUnit, structure: MaskStructure) -> dict[str, Option]:
        """The ways to compute a unit, each with its side as the first letter."""
        last = unit.in_format(torch.channels_last)
        options = {"B dense": Option("dense", last)}
        if structure.parts is not None and unit.conv.padding_mode == "zeros":
            options["B compact"] = Option("compact", CompactUnit(last, structure.parts))
        if not self.lanes:
            options["A dense"] = Option("dense, NCHW", unit.in_format(torch.contiguous_format))
        sparse = unit.sparse()
        options["A sparse"] = Option("sparse, lanes" if self.lanes else "sparse, NCHW", sparse)
        options["B sparse"] = Option("sparse", sparse)
        return options


def _best(
    options: dict[str, Option], times: dict[str, float]
) -> tuple[float, float, tuple[Option, Option]]:
    """Costs in A and in B, and the best options of B and of A; sparse must win clearly."""

    def cost(name: str) -> float:
        return times[name] * (1.0 if name.endswith("dense") else GAIN)

    a = min((name for name in options if name[0] == "A"), key=cost)
    b = min((name for name in options if name[0] == "B"), key=cost)
    return cost(a), cost(b), (options[b], options[a])


def _describe(unit: DenseUnit, structure: MaskStructure) -> tuple[Any, ...]:
    c = unit.conv
    parts = tuple((len(p.filters), len(p.channels)) for p in structure.parts or ())
    return (
        tuple(c.weight.shape), c.stride, c.padding, c.dilation, c.groups, c.padding_mode,
        c.bias is None, unit.relu, round(structure.density, 2), str(structure), parts,
    )  # fmt: skip


def _shape(value: Any) -> Any:
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _signature(graph_module: fx.GraphModule, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """What a call's time depends on; None for a module that holds state of its own."""
    target: Any = node.target
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if next(module.children(), None) is not None or not type(module).__module__.startswith(
            "torch.nn"
        ):
            return None
        target = repr(module)
    leaves = [_shape(leaf) for leaf in tree_leaves((args, kwargs))]
    return (node.op, target, repr(leaves))
