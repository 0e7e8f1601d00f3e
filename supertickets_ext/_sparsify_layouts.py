"""Chooses the layouts of a measured graph that cost least, and makes the graph of them.

A value that is needed in the other layout is converted once, at a measured cost.
"""

from __future__ import annotations

from torch import fx

from supertickets_ext._min_cut import FOREVER, MinCut
from supertickets_ext._sparsify_measure import Measurer
from supertickets_ext._sparsify_trace import free_name


def choose_layouts(measured: Measurer) -> None:
    """Put each call on the side that makes the sum of all costs least; sets ``in_a``."""
    cut = MinCut()
    number: dict[fx.Node, int] = {}
    for node, call in measured.calls.items():
        on_a = FOREVER if call.a_us is None else _whole(call.a_us)
        number[node] = cut.node(on_a, _whole(call.b_us))
    for node in measured.graph_module.graph.nodes:
        if node not in number:  # inputs and constants are as they are; so is what leaves lanes
            free = node.op == "output" and not measured.lanes
            number[node] = cut.node(on_a=0 if free else FOREVER)
    for node, (to_a, to_b) in measured.conversions.items():
        needs_a, needs_b = cut.node(), cut.node()
        cut.part(needs_a, number[node], _whole(to_a))  # computed in B, and read in A
        cut.part(number[node], needs_b, _whole(to_b))
        for user in node.users:
            cut.part(number[user], needs_a, FOREVER)
            cut.part(needs_b, number[user], FOREVER)
    sides = cut.sides()
    for node, call in measured.calls.items():
        call.in_a = sides[number[node]]


def _whole(time_us: float) -> int:
    return round(time_us * 1000)


def apply_dense(measured: Measurer) -> fx.GraphModule:
    """Make the graph with every convolution dense, in channels_last."""
    copied = fx.Graph()
    copied.output(copied.graph_copy(measured.graph_module.graph, {}))
    result = fx.GraphModule(measured.graph_module, copied)
    for target, call in measured.units.items():
        assert call.unit is not None
        result.set_submodule(target, call.unit.dense)
    return result


def apply_layouts(measured: Measurer) -> fx.GraphModule:
    """Make the graph with the chosen modules and conversions."""
    copied = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    copied.output(copied.graph_copy(measured.graph_module.graph, new))
    result = fx.GraphModule(measured.graph_module, copied)
    for target, call in measured.units.items():
        assert call.unit is not None
        result.set_submodule(target, call.unit.best[call.in_a].module)
    converters = []  # to B, to A
    for module in (measured.to_b, measured.to_a):
        converters.append(free_name(result, f"to_{module.layout}"))
        result.add_submodule(converters[-1], module)
    in_a = {new[node]: call.in_a for node, call in measured.calls.items()}
    for old in measured.conversions:
        node = new[old]
        here = in_a.get(node, False)
        others = [u for u in node.users if u.op != "output" or here]
        others = [user for user in others if in_a.get(user, False) != here]
        if not others:
            continue
        with copied.inserting_after(node):
            other = copied.call_module(converters[not here], (node,))
        for user in others:
            user.replace_input_with(node, other)
    result.delete_all_unused_submodules()
    result.recompile()
    return result
