"""Reads what a model computed from its autograd graph, after one plain forward pass.

Recording every operator (`_graph.record`) costs more than running it where maps are small. A
coupled Gram matrix needs no record: the autograd graph is what will be differentiated, and what it
saved are the values that the lane kernel reads. It does not name modules, and cannot run again.

    graph = read_live(model, x)      # as of ``record(model, x, coupled=True)``, or None

Nodes are as described in `_graph`, but for this: ``module`` and ``recorded`` are empty, and a
value that nobody saved is a tensor on the ``meta`` device, which has its shape alone. A graph that
holds an operator without a row below gives None, and the caller records.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from supertickets_ext._graph import gram_state, spare_buffers
from supertickets_ext._graph_nodes import Graph, Node

_unreadable: WeakSet[nn.Module] = WeakSet()


class _UnknownError(Exception):
    """The graph holds something that is not known here."""


def read_live(model: nn.Module, x: Tensor) -> Graph | None:
    """Run ``model(x)`` with the statistics of the batch, and read its autograd graph.

    Args:
        model: Takes one tensor and returns one.
        x: Its input, floating point.

    Returns:
        The graph, or None if it cannot be told from what autograd keeps; a model that gave None
        is not run again.
    """
    if model in _unreadable:
        return None
    modules = list(model.modules())
    leaf = x.detach().requires_grad_()
    start = leaf.clone()  # a leaf itself may not be written in place
    names = {id(p): name for name, p in model.named_parameters()}
    with ExitStack() as stack:
        stack.enter_context(gram_state(model, True, modules))
        stack.enter_context(spare_buffers(modules))
        stack.enter_context(torch.enable_grad())
        output = model(start)
        # A look at what a checkpoint saved runs its layers again: in the same state.
        try:
            if isinstance(output, Tensor) and output.grad_fn is not None:
                return _Reader(leaf, start, names).graph(output)
        except (_UnknownError, RuntimeError):  # autograd raises for a value that was written over
            pass
    _unreadable.add(model)
    return None


class _Reader:
    """Turns functions of autograd into nodes."""

    def __init__(self, leaf: Tensor, start: Tensor, names: dict[int, str]) -> None:
        self.leaf, self.names = leaf, names
        self.nodes = [Node(0, "input", "", (), start)]
        self.at: dict[Any, int] = {}

    def graph(self, output: Tensor) -> Graph:
        """The whole graph behind a value."""
        for function in self._functions(output.grad_fn):
            self._enter(function)
        for node in reversed(self.nodes):  # what a view has, its source has
            if node.kind in ("reshape", "identity") and not node.value.is_meta:
                source = self.nodes[node.inputs[0]]
                if source.value.is_meta:
                    source.value = node.value.reshape(source.value.shape)
        index = self.at[output.grad_fn]
        self.nodes[index].value = output.detach()
        return Graph(self.nodes, index, {}, live=output)

    def _functions(self, last: Any) -> list[Any]:
        """All functions on the way of activations, in the order in which they ran."""
        found, waiting = {last}, [last]
        while waiting:
            function = waiting.pop()
            for k in _DATA.get(function.name(), ()):
                following = function.next_functions[k][0]
                if following is not None and following not in found:
                    found.add(following)
                    waiting.append(following)
            if function.name() == "CatBackward0":
                for following, _ in function.next_functions:
                    if following is not None and following not in found:
                        found.add(following)
                        waiting.append(following)
        # A leaf's number is the largest of all.
        return sorted(found, key=lambda f: -1 if f.name() == _LEAF else int(f._sequence_nr()))

    def _enter(self, function: Any) -> None:
        name = function.name()
        if name == _LEAF:
            if function.variable is not self.leaf:
                raise _UnknownError
            self.at[function] = 0
            return
        handler = _HANDLERS.get(name)
        shape = function._input_metadata[0].shape
        if handler is None:
            raise _UnknownError
        node = Node(len(self.nodes), "", name, (), torch.empty(shape, device="meta"))
        handler(self, function, node)
        self.at[function] = node.index
        self.nodes.append(node)

    def reads(self, function: Any, node: Node, *edges: int) -> list[Node]:
        """Enter the inputs of a node, all of which must be nodes."""
        inputs = []
        for k in edges:
            following, output = function.next_functions[k]
            if following is None or output != 0:
                raise _UnknownError
            inputs.append(self.at[following])
        node.inputs = tuple(inputs)
        return [self.nodes[i] for i in inputs]

    def parameter(self, function: Any, node: Node, edge: int, role: str, saved: Any = None) -> None:
        """Enter a parameter, or what was saved in the place of one without gradient."""
        following = (
            function.next_functions[edge][0] if edge < len(function.next_functions) else None
        )
        if following is not None and following.name() == "TBackward0":
            following = following.next_functions[0][0]
        if following is None:
            if saved is not None:
                node.tensors[role] = saved.detach()
            return
        if following.name() != _LEAF or id(following.variable) not in self.names:
            raise _UnknownError  # a weight that was computed
        node.parameters[role] = self.names[id(following.variable)]
        node.tensors[role] = following.variable.detach()


_LEAF = "torch::autograd::AccumulateGrad"
Handler = Callable[[_Reader, Any, Node], None]


def _signed(dim: int, dims: int) -> int:
    """A dimension as autograd shows it, unsigned."""
    return (dim - (1 << 64) if dim >= 1 << 63 else dim) % dims


def _pair(values: Any) -> tuple[int, ...]:
    return tuple(values) * 2 if len(values) == 1 else tuple(values)


def _convolution(reader: _Reader, f: Any, node: Node) -> None:
    if f._saved_transposed or node.value.dim() != 4:
        raise _UnknownError
    (source,) = reader.reads(f, node, 0)
    if any(f._saved_bias_sym_sizes_opt or ()) and f.next_functions[2][0] is None:
        raise _UnknownError  # a bias without gradient is not saved
    node.kind, source.value = "conv2d", f._saved_input.detach()
    reader.parameter(f, node, 1, "weight", f._saved_weight)
    reader.parameter(f, node, 2, "bias")
    vertical, horizontal = f._saved_padding
    node.constants = {
        "stride": tuple(f._saved_stride), "padding": (vertical, vertical, horizontal, horizontal),
        "dilation": tuple(f._saved_dilation), "groups": f._saved_groups,
    }  # fmt: skip


def _batch_norm(reader: _Reader, f: Any, node: Node) -> None:
    if not f._saved_training:
        raise _UnknownError
    (source,) = reader.reads(f, node, 0)
    node.kind, source.value = "batch_norm", f._saved_input.detach()
    reader.parameter(f, node, 1, "weight", f._saved_weight)
    reader.parameter(f, node, 2, "bias")
    node.tensors |= {"mean": f._saved_result1.detach(), "rstd": f._saved_result2.detach()}
    node.constants = {"eps": f._saved_eps, "training": True}


def _relu(reader: _Reader, f: Any, node: Node) -> None:
    reader.reads(f, node, 0)
    node.kind, node.value = "relu", f._saved_result.detach()


def _add(reader: _Reader, f: Any, node: Node) -> None:
    alpha = float(f._saved_alpha)
    alpha = -alpha if node.op.startswith("Sub") else alpha
    missing = [following is None for following, _ in f.next_functions]
    if not any(missing):
        one, two = reader.reads(f, node, 0, 1)
        node.kind, node.constants = "add", {"alpha": alpha}
        if one.value.shape != two.value.shape:
            raise _UnknownError
        return
    (one,) = reader.reads(f, node, 1 if missing[0] else 0)
    node.kind, node.constants = ("scale", {"factor": alpha}) if missing[0] else ("shift", {})
    if one.value.shape != node.value.shape:
        raise _UnknownError


def _scale(reader: _Reader, f: Any, node: Node) -> None:
    divides = node.op.startswith("Div")
    first = f.next_functions[0][0] is not None
    both = len(f.next_functions) > 1 and f.next_functions[1][0] is not None and first
    if both or (divides and not first):
        raise _UnknownError
    (source,) = reader.reads(f, node, 0 if first else 1)
    factor = f._saved_other if first else f._saved_self
    if source.value.shape != node.value.shape or factor is None:
        raise _UnknownError
    if isinstance(factor, Tensor) and factor.numel() != 1:
        raise _UnknownError
    number = float(factor)
    if divides and number == 0:
        raise _UnknownError
    node.kind, node.constants = "scale", {"factor": 1 / number if divides else number}


def _mean(reader: _Reader, f: Any, node: Node) -> None:
    dims = len(f._saved_self_sym_sizes)
    reader.reads(f, node, 0)
    chosen = tuple(sorted(_signed(d, dims) for d in f._saved_dim))
    node.kind, node.constants = "mean", {"dims": chosen, "keepdim": bool(f._saved_keepdim)}


def _view(reader: _Reader, f: Any, node: Node) -> None:
    (source,) = reader.reads(f, node, 0)
    node.kind = "identity" if source.value.shape == node.value.shape else "reshape"


def _linear(reader: _Reader, f: Any, node: Node) -> None:
    biased = node.op.startswith("Addmm")
    if biased and not (f._saved_alpha == 1 and f._saved_beta == 1):
        raise _UnknownError
    edge = 1 if biased else 0
    (source,) = reader.reads(f, node, edge)
    given = f._saved_mat1 if biased else f._saved_self
    weight = f._saved_mat2
    if given is not None:
        source.value = given.detach()
    node.kind = "linear"
    reader.parameter(f, node, edge + 1, "weight", None if weight is None else weight.t())
    if biased:
        reader.parameter(f, node, 0, "bias")


def _cat(reader: _Reader, f: Any, node: Node) -> None:
    reader.reads(f, node, *range(len(f.next_functions)))
    node.kind, node.constants = "cat", {"dim": _signed(f._saved_dim, node.value.dim())}


def _slice(reader: _Reader, f: Any, node: Node) -> None:
    (source,) = reader.reads(f, node, 0)
    shape = source.value.shape
    dim = _signed(f._saved_dim, len(shape))
    start, end = (None if v is None else int(v) for v in (f._saved_start, f._saved_end))
    start, end, step = slice(start, end, int(f._saved_step)).indices(shape[dim])
    if shape == node.value.shape:
        node.kind = "identity"
        return
    node.kind, node.constants = "slice", {"dim": dim, "start": start, "end": end, "step": step}


def _avg_pool2d(reader: _Reader, f: Any, node: Node) -> None:
    reader.reads(f, node, 0)
    kernel = _pair(f._saved_kernel_size)
    node.kind, node.constants = "avg_pool2d", {
        "kernel": kernel, "stride": _pair(f._saved_stride) or kernel,
        "padding": _pair(f._saved_padding), "ceil_mode": f._saved_ceil_mode,
        "count_include_pad": f._saved_count_include_pad, "divisor": f._saved_divisor_override,
    }  # fmt: skip


def _max_pool2d(reader: _Reader, f: Any, node: Node) -> None:
    reader.reads(f, node, 0)
    kernel = _pair(f._saved_kernel_size)
    node.kind, node.tensors = "max_pool2d", {"indices": f._saved_result1}
    node.constants = {
        "kernel": kernel, "stride": _pair(f._saved_stride) or kernel,
        "padding": _pair(f._saved_padding), "dilation": _pair(f._saved_dilation),
        "ceil_mode": f._saved_ceil_mode,
    }  # fmt: skip


_HANDLERS: dict[str, Handler] = {
    "ConvolutionBackward0": _convolution,
    "NativeBatchNormBackward0": _batch_norm,
    "ReluBackward0": _relu,
    "AddBackward0": _add,
    "SubBackward0": _add,
    "MulBackward0": _scale,
    "DivBackward0": _scale,
    "MeanBackward1": _mean,
    "ViewBackward0": _view,
    "UnsafeViewBackward0": _view,
    "CloneBackward0": _view,
    "AliasBackward0": _view,
    "UnsqueezeBackward0": _view,
    "AddmmBackward0": _linear,
    "MmBackward0": _linear,
    "CatBackward0": _cat,
    "SliceBackward0": _slice,
    "AvgPool2DBackward0": _avg_pool2d,
    "MaxPool2DWithIndicesBackward0": _max_pool2d,
}
# Which of a function's inputs are activations; those of a concatenation all are.
_DATA: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_HANDLERS, (0,)), "AddBackward0": (0, 1), "SubBackward0": (0, 1),
    "MulBackward0": (0, 1), "AddmmBackward0": (1,), "CatBackward0": (),
}  # fmt: skip
