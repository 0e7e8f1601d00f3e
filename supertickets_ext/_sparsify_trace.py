"""Turns a model into a graph whose convolutions have batch norm, residual and ReLU fused in."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from supertickets_ext._fold import folded
from supertickets_ext._sparsify_units import DenseUnit, copy_conv

SPARSE_ENOUGH = 0.95  # a layer that keeps more is not called sparse
_RELUS: set[Any] = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
_ADDS: set[Any] = {operator.add, operator.iadd, torch.add, "add", "add_"}
_IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def is_plain_conv(module: nn.Module) -> bool:
    """Whether a module computes what ``nn.Conv2d`` does, and nothing besides."""
    same = ("forward", "_conv_forward")
    return (
        isinstance(module, nn.Conv2d)
        and all(getattr(type(module), name) is getattr(nn.Conv2d, name) for name in same)
        and not has_hooks(module)
        and not hasattr(module, "parametrizations")
        and module.weight.dim() == 4
    )


def is_sparse(module: nn.Module) -> bool:
    """Whether a module is a convolution with a noticeable share of zeros."""
    if not isinstance(module, nn.Conv2d) or module.weight.numel() == 0:
        return False
    return int(module.weight.count_nonzero()) <= SPARSE_ENOUGH * module.weight.numel()


def has_hooks(module: nn.Module) -> bool:
    """Whether something of the user's own runs before or after the module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Tracer(fx.Tracer):
    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__(autowrap_functions=())
        self._opaque = opaque

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return (
            module in self._opaque
            or has_hooks(module)
            or isinstance(module, nn.Conv2d)
            or super().is_leaf_module(module, name)
        )


def trace(model: nn.Module) -> fx.GraphModule | None:
    """Trace a model; what in it cannot be traced stays a call of the module as it is.

    Returns:
        The graph, or None if the model's own forward cannot be traced.
    """
    opaque: set[nn.Module] = set()
    _find_opaque(model, opaque)
    if model in opaque:
        return None
    graph = _Tracer(opaque).trace(model)
    for node in list(graph.nodes):
        node.type = None  # an annotation that is a string cannot be pickled
        if node.target is torch._assert:  # has held for the example; it hides what can be fused
            graph.erase_node(node)
    return fx.GraphModule(model, graph, type(model).__name__)


def _find_opaque(module: nn.Module, opaque: set[nn.Module]) -> None:
    """Add the innermost modules that cannot be traced, and those that then still cannot."""
    if _traces(module, opaque):
        return
    for child in module.children():
        if not isinstance(child, nn.Conv2d):
            _find_opaque(child, opaque)
    if not _traces(module, opaque):
        opaque.add(module)


def _traces(module: nn.Module, opaque: set[nn.Module]) -> bool:
    if has_hooks(module):
        return False
    try:
        _Tracer(opaque).trace(module)
    except Exception:  # the model's own code meets a proxy: anything may come of it
        return False
    return True


# --- no call changes a value that another one reads ---------------------------------------------


def separate_in_place(graph_module: fx.GraphModule) -> None:
    """Give later readers of a value that is changed in place the changed one by name."""
    graph = graph_module.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _changes_first(graph_module, node):
            continue
        value = node.args[0]
        if not isinstance(value, fx.Node):
            continue
        for user in list(value.users):
            if order[user] > order[node]:
                user.replace_input_with(value, node)
        if len(value.users) > 1 or value.op in ("placeholder", "get_attr"):
            _make_out_of_place(graph_module, node)
    graph.eliminate_dead_code()


def _changes_first(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(graph_module.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    return (
        node.target in _IN_PLACE
        or bool(node.kwargs.get("inplace"))
        or (name.endswith("_") and not name.endswith("__"))
    )


def _make_out_of_place(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Change a copy of the value instead."""
    graph = graph_module.graph
    if node.op == "call_function" and node.target in _IN_PLACE:
        node.target = _IN_PLACE[node.target]
        return
    value = node.args[0]
    assert isinstance(value, fx.Node)
    with graph.inserting_before(node):
        copy = graph.call_method("clone", (value,))
    node.args = (copy, *node.args[1:])


# --- fusion -------------------------------------------------------------------------------------


def fuse(graph_module: fx.GraphModule, shapes: dict[fx.Node, torch.Size]) -> dict[str, str]:
    """Replace each convolution, with what follows it, by one call of a `DenseUnit`.

    Args:
        graph_module: Changed in place.
        shapes: Of the nodes that are tensors.

    Returns:
        The convolution's name in the model by the unit's name.
    """
    names: dict[str, str] = {}
    convs = [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_module"
        and len(node.args) == 1
        and is_plain_conv(graph_module.get_submodule(str(node.target)))
        and len(shapes.get(node, ())) == 4
    ]
    for node in reversed(convs):  # of two convolutions that are added, the later takes the sum
        target = free_name(graph_module, str(node.target))
        names[target] = str(node.target)
        _fuse_one(graph_module, node, target, shapes)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return names


def free_name(graph_module: fx.GraphModule, name: str) -> str:
    """Make a name without dots that the graph has not yet."""
    free = name.replace(".", "_")
    if free.isdigit() or hasattr(graph_module, free):
        free = f"unit_{free}"
    while hasattr(graph_module, free):
        free += "_"
    return free


def _fuse_one(
    graph_module: fx.GraphModule, node: fx.Node, target: str, shapes: dict[fx.Node, torch.Size]
) -> None:
    conv = graph_module.get_submodule(str(node.target))
    assert isinstance(conv, nn.Conv2d)
    weight: Tensor = conv.weight.detach()
    bias = None if conv.bias is None else conv.bias.detach()
    end, residual, relu = node, None, False
    norm = _only_user(end)
    bn = None if norm is None else _foldable(graph_module, norm, conv)
    if norm is not None and bn is not None:
        weight, bias = folded(weight, bias, bn)
        end = norm
    add = _only_user(end)
    if add is not None and (other := _other_term(add, end, shapes)) is not None:
        end, residual = add, other
    last = _only_user(end)
    if last is not None and _is_relu(graph_module, last):
        end, relu = last, True
    graph_module.add_submodule(target, DenseUnit(copy_conv(conv, weight, bias), relu).eval())
    inputs = node.args if residual is None else (*node.args, residual)
    with graph_module.graph.inserting_before(end):
        unit = graph_module.graph.call_module(target, inputs)
    shapes[unit] = shapes[end]
    end.replace_all_uses_with(unit)
    for old in _chain(node, end):
        graph_module.graph.erase_node(old)


def _chain(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """From last to first; each but the last has the next as its only user."""
    nodes = [first]
    while nodes[-1] is not last:
        nodes.append(next(iter(nodes[-1].users)))
    return nodes[::-1]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _foldable(
    graph_module: fx.GraphModule, node: fx.Node, conv: nn.Conv2d
) -> nn.BatchNorm2d | None:
    """The batch norm that a node computes by running statistics, module or function."""
    if node.op == "call_function" and node.target is F.batch_norm:
        return _functional_norm(graph_module, node, conv.out_channels)
    if node.op != "call_module":
        return None
    bn = graph_module.get_submodule(str(node.target))
    if type(bn) is not nn.BatchNorm2d or has_hooks(bn) or bn.running_mean is None:
        return None
    return bn if bn.num_features == conv.out_channels else None


def _functional_norm(
    graph_module: fx.GraphModule, node: fx.Node, channels: int
) -> nn.BatchNorm2d | None:
    call = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
    call.apply_defaults()
    given = call.arguments
    tensors = {}
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = given[name]
        if isinstance(value, fx.Node) and value.op == "get_attr":
            tensors[name] = operator.attrgetter(str(value.target))(graph_module).detach()
        elif value is not None:
            return None
    if given["training"] is not False or not {"running_mean", "running_var"} <= tensors.keys():
        return None
    if not isinstance(given["eps"], float):
        return None
    bn = nn.BatchNorm2d(channels, given["eps"], affine=False).eval()
    bn.running_mean, bn.running_var = tensors["running_mean"], tensors["running_var"]
    for name in tensors.keys() & {"weight", "bias"}:
        setattr(bn, name, nn.Parameter(tensors[name], requires_grad=False))
    return bn


def _other_term(add: fx.Node, term: fx.Node, shapes: dict[fx.Node, torch.Size]) -> fx.Node | None:
    """The other term of a plain sum of two tensors of one shape."""
    if add.target not in _ADDS or add.kwargs or len(add.args) != 2:
        return None
    others = [a for a in add.args if a is not term]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    return others[0] if shapes.get(others[0]) == shapes[term] else None


def _is_relu(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        return type(module) is nn.ReLU and not has_hooks(module)
    return node.target in _RELUS


def call_of(graph_module: fx.GraphModule, node: fx.Node) -> Callable[..., Any]:
    """What a calling node calls, with the node's own arguments."""
    if node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    if node.op == "call_method":
        name = str(node.target)
        return lambda first, *args, **kwargs: getattr(first, name)(*args, **kwargs)
    assert callable(node.target)
    return node.target
