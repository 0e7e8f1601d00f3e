"""The nodes of a recorded graph, and what each operator of torch becomes; see `_graph`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from supertickets_ext._library import LIBRARY as LIBRARY

KINDS = (
    "input", "conv2d", "batch_norm", "group_norm", "layer_norm", "linear", "relu", "avg_pool2d",
    "max_pool2d", "add", "scale", "shift", "cat", "mean", "slice", "reshape", "identity",
    "pointwise", "opaque",
)  # fmt: skip


@dataclass
class Node:
    """One operator that was run; see the head of this file."""

    index: int
    kind: str
    op: str
    inputs: tuple[int, ...]
    value: Tensor
    module: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    derived: frozenset[str] = frozenset()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    recorded: tuple[Any, tuple[Any, ...], dict[str, Any], list[int | None]] | None = None
    """The operator, its arguments, and for each tensor among them the node that made it."""

    @property
    def func(self) -> Any:
        """The operator; None for the input."""
        return None if self.recorded is None else self.recorded[0]

    @property
    def call(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
        """The operator with its arguments; a `Ref` stands for another node's value."""
        if self.recorded is None:
            return None
        func, args, kwargs, indices = self.recorded
        order = iter(indices)
        return func, _referred(args, order), _referred(kwargs, order)


def _referred(value: Any, order: Iterator[int | None]) -> Any:
    """Arguments in which nodes stand for their values."""
    if isinstance(value, (tuple, list)):
        return type(value)([_referred(item, order) for item in value])
    if isinstance(value, dict):
        return {key: _referred(item, order) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    index = next(order)
    return value.detach() if index is None else Ref(index)


@dataclass(frozen=True)
class Ref:
    """Stands for the value of a node in recorded arguments."""

    index: int


@dataclass
class Graph:
    """What :func:`record` saw."""

    nodes: list[Node]
    output: int
    parameters: dict[str, Tensor]
    """The model's parameters by name, as aliases (same memory) without gradients."""
    complete: bool = True
    unrecorded: tuple[str, ...] = ()
    """Why the record is not complete: modules and operators."""
    live: Tensor | None = None
    """The output with its autograd graph, to the model's own parameters."""

    def users(self) -> list[list[int]]:
        """For each node, the nodes that read it, in order."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for i in dict.fromkeys(node.inputs):
                users[i].append(node.index)
        return users


class Call(NamedTuple):
    """One call of an operator, below autograd."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    op: str


IndexOf = Callable[[Any], int | None]
Reader = Callable[[IndexOf, Call], Node | None]
READERS: dict[Any, Reader] = {}
_aten = torch.ops.aten


def used_form(node: Node, role: str) -> Tensor:
    """A tensor of a node as the operator used it: linear weights [O, I], masked weights masked."""
    tensor = node.tensors[role].detach()
    if role != "weight":
        return tensor
    if node.kind == "linear":
        return tensor.t()
    mask = node.tensors.get("mask")
    return tensor if mask is None else tensor.where(mask, 0)


def _reads(*packets: Any) -> Callable[[Reader], Reader]:
    def enter(reader: Reader) -> Reader:
        for packet in packets:
            READERS[packet] = reader
        return reader

    return enter


def _node(
    kind: str,
    index_of: IndexOf,
    inputs: tuple[Any, ...],
    value: Tensor,
    tensors: dict[str, Tensor | None] | None = None,
    **constants: Any,
) -> Node | None:
    """A node, or None if a constant stands where a recorded value is expected, or the reverse."""
    indices = tuple(i for i in map(index_of, inputs) if i is not None)
    given = {role: t for role, t in (tensors or {}).items() if t is not None}
    if len(indices) != len(inputs) or any(index_of(t) is not None for t in given.values()):
        return None
    return Node(0, kind, "", indices, value, tensors=given, constants=constants)


def _filled(given: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*given, *defaults[len(given) :])


def _pair(value: Any) -> tuple[int, ...]:
    values = tuple(value)
    return values * 2 if len(values) == 1 else values


@_reads(_aten.convolution)
def _convolution(index_of: IndexOf, call: Call) -> Node | None:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = call.args
    if transposed or x.dim() != 4:
        return None
    vertical, horizontal = padding
    tensors = {"weight": weight, "bias": bias}
    return _node("conv2d", index_of, (x,), call.out, tensors, stride=tuple(stride),
                 padding=(vertical, vertical, horizontal, horizontal), dilation=tuple(dilation),
                 groups=groups)  # fmt: skip


@_reads(torch.ops.supertickets.masked_conv2d)
def _masked_convolution(index_of: IndexOf, call: Call) -> Node | None:
    x, weight, mask, bias, stride, padding, dilation, groups = call.args
    if x.dim() != 4:
        return None
    tensors = {"weight": weight, "bias": bias, "mask": mask}
    return _node("conv2d", index_of, (x,), call.out, tensors, stride=tuple(stride),
                 padding=tuple(padding), dilation=tuple(dilation), groups=groups)  # fmt: skip


@_reads(_aten.native_batch_norm, _aten._native_batch_norm_legit)
def _batch_norm(index_of: IndexOf, call: Call) -> Node | None:
    x, weight, bias, mean, var, training, _, eps = call.args
    _, batch_mean, batch_rstd = call.out
    rstd = batch_rstd if training else (var + eps).rsqrt()
    tensors = {"weight": weight, "bias": bias, "mean": batch_mean if training else mean}
    return _node("batch_norm", index_of, (x,), call.out[0], {**tensors, "rstd": rstd}, eps=eps,
                 training=bool(training))  # fmt: skip


@_reads(_aten.native_group_norm)
def _group_norm(index_of: IndexOf, call: Call) -> Node | None:
    x, weight, bias, _, _, _, groups, eps = call.args
    out, mean, rstd = call.out
    tensors = {"weight": weight, "bias": bias, "mean": mean, "rstd": rstd}
    return _node("group_norm", index_of, (x,), out, tensors, groups=groups, eps=eps)


@_reads(_aten.native_layer_norm)
def _layer_norm(index_of: IndexOf, call: Call) -> Node | None:
    x, shape, weight, bias, eps = call.args
    out, mean, rstd = call.out
    tensors = {"weight": weight, "bias": bias, "mean": mean, "rstd": rstd}
    return _node("layer_norm", index_of, (x,), out, tensors, shape=tuple(shape), eps=eps)


@_reads(_aten.addmm, _aten.mm)
def _linear(index_of: IndexOf, call: Call) -> Node | None:
    bias, x, turned = call.args if len(call.args) == 3 else (None, *call.args)
    if call.kwargs:
        return None
    return _node("linear", index_of, (x,), call.out, {"weight": turned, "bias": bias})


@_reads(_aten.relu, _aten.relu_)
def _relu(index_of: IndexOf, call: Call) -> Node | None:
    return _node("relu", index_of, (call.args[0],), call.out)


@_reads(_aten.avg_pool2d)
def _avg_pool2d(index_of: IndexOf, call: Call) -> Node | None:
    defaults: tuple[Any, ...] = (None, None, [], [0, 0], False, True, None)
    x, kernel, stride, padding, ceil_mode, counts_pads, divisor = _filled(call.args, defaults)
    kernel = _pair(kernel)
    return _node("avg_pool2d", index_of, (x,), call.out, kernel=kernel,
                 stride=_pair(stride) or kernel, padding=_pair(padding), ceil_mode=ceil_mode,
                 count_include_pad=counts_pads, divisor=divisor)  # fmt: skip


@_reads(_aten.max_pool2d_with_indices)
def _max_pool2d(index_of: IndexOf, call: Call) -> Node | None:
    defaults: tuple[Any, ...] = (None, None, [], [0, 0], [1, 1], False)
    x, kernel, stride, padding, dilation, ceil_mode = _filled(call.args, defaults)
    kernel = _pair(kernel)
    out, indices = call.out
    return _node("max_pool2d", index_of, (x,), out, {"indices": indices}, kernel=kernel,
                 stride=_pair(stride) or kernel, padding=_pair(padding), dilation=_pair(dilation),
                 ceil_mode=ceil_mode)  # fmt: skip


@_reads(_aten.add, _aten.add_, _aten.sub, _aten.sub_)
def _add(index_of: IndexOf, call: Call) -> Node | None:
    first, second = call.args[:2]
    alpha = float(call.kwargs.get("alpha", call.args[2] if len(call.args) > 2 else 1))
    alpha = -alpha if call.op.startswith("aten.sub") else alpha
    if index_of(second) is not None:
        same = isinstance(first, Tensor) and first.shape == second.shape
        return _node("add", index_of, (first, second), call.out, alpha=alpha) if same else None
    if first.shape != call.out.shape:
        return None
    nothing = not isinstance(second, Tensor) and second == 0
    return _node("identity" if nothing else "shift", index_of, (first,), call.out)


@_reads(_aten.mul, _aten.mul_, _aten.div, _aten.div_)
def _scale(index_of: IndexOf, call: Call) -> Node | None:
    first, second = call.args[:2]
    divides = call.op.startswith("aten.div")
    if index_of(first) is None and not divides:
        first, second = second, first
    if index_of(second) is not None or call.kwargs or not isinstance(first, Tensor):
        return None
    if first.shape != call.out.shape:
        return None
    if isinstance(second, Tensor) and second.numel() != 1:
        return _node("pointwise", index_of, (first,), call.out)
    factor = float(second.detach() if isinstance(second, Tensor) else second)
    factor = 1 / factor if divides and factor else factor
    return _node("scale", index_of, (first,), call.out, factor=factor)


@_reads(_aten.cat)
def _cat(index_of: IndexOf, call: Call) -> Node | None:
    dim = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
    return _node("cat", index_of, tuple(call.args[0]), call.out, dim=dim % call.out.dim())


@_reads(_aten.mean)
def _mean(index_of: IndexOf, call: Call) -> Node | None:
    x, dims, keepdim = _filled(call.args, (None, None, False))
    if dims is None or call.kwargs:
        return None
    dims = tuple(sorted(d % x.dim() for d in dims))
    return _node("mean", index_of, (x,), call.out, dims=dims, keepdim=bool(keepdim))


@_reads(_aten._adaptive_avg_pool2d)
def _adaptive_avg_pool2d(index_of: IndexOf, call: Call) -> Node | None:
    if call.out.dim() != 4 or call.out.shape[-2:] != (1, 1):
        return None
    return _node("mean", index_of, (call.args[0],), call.out, dims=(2, 3), keepdim=True)


@_reads(_aten.slice)
def _slice(index_of: IndexOf, call: Call) -> Node | None:
    x, dim, start, end, step = _filled(call.args, (None, 0, None, None, 1))
    if call.out.shape == x.shape:
        return _node("identity", index_of, (x,), call.out)
    start, end, step = slice(start, end, step).indices(x.shape[dim])
    return _node("slice", index_of, (x,), call.out, dim=dim % x.dim(), start=start, end=end,
                 step=step)  # fmt: skip


@_reads(_aten.view, _aten._unsafe_view, _aten.unsqueeze, _aten.squeeze, _aten._reshape_alias)
def _reshape(index_of: IndexOf, call: Call) -> Node | None:
    same = call.out.shape == call.args[0].shape
    return _node("identity" if same else "reshape", index_of, (call.args[0],), call.out)


@_reads(_aten.alias, _aten.clone, _aten.lift_fresh, _aten.as_strided_)
def _identity(index_of: IndexOf, call: Call) -> Node | None:
    if call.op.startswith("aten.as_strided_") and call.args[1] != list(call.out.shape):
        return None
    return _node("identity", index_of, (call.args[0],), call.out)


@_reads(_aten.sigmoid, _aten.tanh, _aten.gelu, _aten.silu, _aten.silu_, _aten.hardtanh,
        _aten.hardtanh_, _aten.hardswish, _aten.hardswish_, _aten.hardsigmoid, _aten.leaky_relu,
        _aten.leaky_relu_, _aten.elu, _aten.elu_, _aten.softplus, _aten.exp, _aten.sin, _aten.cos,
        _aten.abs, _aten.neg, _aten.mish, _aten.clamp, _aten.clamp_min)  # fmt: skip
def _pointwise(index_of: IndexOf, call: Call) -> Node | None:
    return _node("pointwise", index_of, (call.args[0],), call.out)
