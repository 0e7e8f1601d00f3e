"""Records what a model computes, by running its forward pass once on real inputs.

Not a symbolic trace: the record is made below autograd, operator by operator, so that any Python
control flow, skipped operators, functional calls and residuals come out as what was really run.
(`_sparsify_trace` is another thing: it rewrites a model with fx and has to keep what it cannot
trace; here values are wanted, and nothing is rewritten.)

    graph = record(model, x, coupled=True)      # batch norms take batch statistics
    for node in graph.nodes: ...                # in order of execution; nodes[0] is x

A :class:`Node` holds

- ``kind``: one of ``KINDS``; ``"opaque"`` is everything without a row in the table below;
- ``inputs``: indices of the nodes that it reads *and that depend on x or a parameter through a
  recorded node*; constants and parameters are no nodes;
- ``parameters``: role (``"weight"``, ``"bias"``) -> name in ``model.named_parameters()``;
- ``derived``: names of parameters that reach the node through other arithmetic (softmax of mixing
  weights, weight standardisation): whoever wants their gradient must take a generic route;
- ``tensors``: role -> tensor: ``weight`` and ``bias`` as used (for a masked convolution the masked
  weight is ``weight * mask``, with the bool ``mask`` beside it), ``mean`` and ``rstd`` [C] of a
  batch norm (of the batch if coupled, else running), ``indices`` of a max pool;
- ``constants``: what else the operator takes:
    conv2d: stride, padding (top, bottom, left, right), dilation, groups
    batch_norm: eps, training;  group_norm: groups, eps;  layer_norm: shape, eps
    avg_pool2d: kernel, stride, padding, ceil_mode, count_include_pad, divisor
    max_pool2d: kernel, stride, padding, dilation, ceil_mode
    add: alpha (factor of the second input);  scale: factor (a float)
    cat: dim;  mean: dims, keepdim (a global average pool if dims are the spatial ones)
    slice: dim, start, end, step;  shift: adds a constant, the derivative is one
    reshape: flatten, view, unsqueeze;  identity: same values (contiguous, dropout switched off)
- ``value``: the output tensor as it was when made (writes in place do not reach it);
- ``call``: operator, arguments and keywords as recorded, with a `Ref` for each node's value;
- ``module``: name of the innermost module that ran it.

``graph.output`` is the index of the node that the model returned; ``graph.complete`` is False if
a value came from something that was not recorded, and then only generic routes are right.

The model is left as it was: mode, buffers, gradients, hooks and the global RNG. The run builds an
autograd graph, which is dropped after a look for gradients that users wrote; batch norms find no
running statistics to update; other buffers are clones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from supertickets_ext._graph_nodes import (
    KINDS,
    READERS,
    Call,
    Graph,
    Node,
    Reader,
    Ref,
    used_form,
)
from supertickets_ext.nn import MaskedConv2d

__all__ = ["KINDS", "Graph", "Node", "Ref", "aliases", "gram_state", "record"]

_aten = torch.ops.aten


def record(model: nn.Module, x: Tensor, *, coupled: bool) -> Graph:
    """Run ``model(x)`` once and record every operator.

    Args:
        model: Takes one tensor and returns one.
        x: Its input.
        coupled: Batch norms use the statistics of the batch; otherwise the model runs in
            evaluation mode. Dropout is off in both.

    Returns:
        The record.

    Raises:
        TypeError: The model returned something other than one tensor.
    """
    # A walk over a thousand modules takes milliseconds: one for all that follows.
    modules = list(model.named_modules())
    # Gradients are on, as where the model is differentiated: it may ask, and `_functions` looks. A
    # copy of a leaf may be written in place.
    start = x.detach().requires_grad_(x.is_floating_point()).clone()
    recorder = Recorder(start, _parameters(modules))
    with ExitStack() as stack:
        stack.enter_context(gram_state(model, coupled, [m for _, m in modules]))
        stack.enter_context(_plain_masked_layers(modules))
        stack.enter_context(_named_modules(modules, recorder))
        stack.enter_context(spare_buffers(m for _, m in modules))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(recorder)
        output = model(start)
    if not isinstance(output, Tensor):
        raise TypeError(f"record: the model must return one tensor, got {type(output).__name__}")
    return recorder.finish(output)


Modules = list[tuple[str, nn.Module]]


def _parameters(modules: Modules) -> dict[str, Tensor]:
    """As ``named_parameters()``."""
    named: dict[int, tuple[str, Tensor]] = {}
    for prefix, module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{prefix}.{name}" if prefix else name
                named.setdefault(id(parameter), (full, parameter))
    return dict(named.values())


def aliases(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters as leaves of their own on the same memory, and clones of the buffers."""
    parameters = {
        name: p.detach().requires_grad_(p.is_floating_point())
        for name, p in model.named_parameters()
    }
    return parameters, {name: b.clone() for name, b in model.named_buffers()}


def modules_of(model: nn.Module) -> list[nn.Module]:
    """As ``model.modules()``, without a generator for each level."""
    found = {model: None}
    waiting = [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


@contextmanager
def gram_state(
    model: nn.Module, coupled: bool, modules: Iterable[nn.Module] | None = None
) -> Iterator[None]:
    """Put a model in the mode of a Gram matrix, without dropout; its mode and the RNG come back.

    ``modules`` are the model's own, where the caller has them.
    """
    modes = {m: m.training for m in (model.modules() if modules is None else modules)}
    with torch.random.fork_rng(devices=[]):
        try:
            if any(mode is not coupled for mode in modes.values()):
                model.train(coupled)
            for m in modes:
                if isinstance(m, nn.modules.dropout._DropoutNd):
                    m.training = False
            yield
        finally:
            for m, mode in modes.items():
                if m.training is not mode:
                    m.training = mode


@contextmanager
def spare_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put clones in the place of buffers; nothing in the place of statistics that only change."""
    before: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    clones: dict[int, Tensor] = {}
    try:
        for module in modules:
            if not module._buffers:
                continue
            updates = (
                isinstance(module, batchnorm._BatchNorm)
                and module.training
                and type(module).forward is batchnorm._BatchNorm.forward
            )
            for name, buffer in module._buffers.items():
                if buffer is None:
                    continue
                before.append((module._buffers, name, buffer))
                if updates and name in _STATISTICS:
                    module._buffers[name] = None
                    continue
                if id(buffer) not in clones:
                    clones[id(buffer)] = buffer.clone()
                module._buffers[name] = clones[id(buffer)]
        yield
    finally:
        for store, name, buffer in before:
            store[name] = buffer


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def _plain_masked_layers(modules: Modules) -> Iterator[None]:
    """Let masked convolutions call their own operator on plain tensors, whatever their route."""
    layers = [m for _, m in modules if isinstance(m, MaskedConv2d)]
    before: list[dict[str, Any]] = [
        {k: m.__dict__[k] for k in ("route", "lanes") if k in m.__dict__} for m in layers
    ]
    try:
        for m in layers:
            m.__dict__["route"], m.__dict__["lanes"] = "sparse", False
        yield
    finally:
        for m, values in zip(layers, before, strict=True):
            for k in ("route", "lanes"):
                m.__dict__.pop(k, None)
            m.__dict__.update(values)


@contextmanager
def _named_modules(modules: Modules, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which module runs."""
    names = {id(module): name for name, module in modules}

    def enter(module: nn.Module, _: Any) -> None:
        if id(module) in names:
            recorder.path.append(names[id(module)])

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        if id(module) in names and recorder.path:
            recorder.path.pop()

    # Two hooks for all modules: one of their own for each would cost more than running them.
    handles = (
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- the recorder -------------------------------------------------------------------------------


class _Operator(NamedTuple):
    """What the recorder asks of an operator every time it runs."""

    name: str
    reader: Reader | None
    detaches: bool
    writes: bool
    whole: bool
    """Its output is all of a parameter if its input is."""


_operators: dict[Any, _Operator] = {}


def _operator(func: Any) -> _Operator:
    packet = func.overloadpacket
    facts = _Operator(
        str(func),
        READERS.get(packet),
        packet is _aten.detach,
        func._schema.name.endswith("_") or any(a.is_out for a in func._schema.arguments),
        packet in (_aten.t, _aten.unsqueeze, _aten.alias, _aten.detach),
    )
    return _operators.setdefault(func, facts)


class Recorder(TorchDispatchMode):
    """Enters every operator into a list of nodes while it is active."""

    def __init__(self, x: Tensor, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.path: list[str] = []
        self.parameters = parameters
        self.nodes = [Node(0, "input", "", (), x)]
        self._index: dict[int, int] = {id(x): 0}
        # Tensors that are a parameter, or a view of all of one.
        self._names = {id(tensor): name for name, tensor in parameters.items()}
        self._memory: dict[int, list[int]] = {}
        self._located = 0  # nodes whose memory is known
        self._derived: dict[int, frozenset[str]] = {}
        self._keep: list[Any] = [x, parameters]  # an id is good as long as its tensor lives
        self._missing: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = _operators.get(func) or _operator(func)
        given = _tensors(args)
        if kwargs:
            given += _tensors(kwargs.values())
        indices = [self._index.get(id(t)) for t in given]
        inputs = tuple([i for i in indices if i is not None])
        # Whatever is neither recorded nor a parameter must be a constant.
        for t, i in zip(given, indices, strict=True):
            if i is None and t.requires_grad and not operator.detaches and not self._depends(t):
                self._missing.append(f"{self.name()}: input of {func}")
        if operator.writes:
            self._before_write(func, args, given)
        out = func(*args, **kwargs)
        self._keep.append((given, out))
        if operator.detaches and inputs:
            return out
        outs = _tensors(out if isinstance(out, (tuple, list)) else (out,))
        if not inputs:
            self._note_parameters(operator, given, outs)
        elif outs:
            node = self._node(operator, Call(args, kwargs, out, operator.name), inputs, outs)
            node.recorded = (func, args, kwargs, indices)
            self._note(node, given, indices, outs[0])
        return out

    def _depends(self, tensor: Tensor) -> bool:
        """Whether a tensor is, or was computed from, parameters alone."""
        return id(tensor) in self._names or id(tensor) in self._derived

    def _before_write(self, func: Any, args: tuple[Any, ...], given: list[Tensor]) -> None:
        """Keep what earlier readers of a tensor read, if it is about to change in place."""
        target = args[0] if func._schema.name.endswith("_") and args else None
        own = self._index.get(id(target)) if isinstance(target, Tensor) else None
        if own is None and any(
            t is not target and (id(t) in self._index or self._depends(t)) for t in given
        ):
            # What else shares its memory is no longer the constant that it was.
            self._missing.append(f"{self.name()}: {func} changes a constant")
        if not isinstance(target, Tensor):
            return
        for node in self.nodes[self._located :]:
            self._memory.setdefault(_memory_of(node.value), []).append(node.index)
        self._located = len(self.nodes)
        memory = _memory_of(target)
        for i in self._memory.get(memory, ()):
            value = self.nodes[i].value
            if value is not target and _memory_of(value) == memory:
                # A view of it, or what it is a view of, would change unseen.
                self._missing.append(f"{self.name()}: {func} changes a shared tensor")
        if own is not None:
            self.nodes[own].value = self.nodes[own].value.clone()

    def name(self) -> str:
        """The innermost module that runs."""
        return self.path[-1] if self.path else ""

    def _node(
        self, operator: _Operator, call: Call, inputs: tuple[int, ...], outs: list[Tensor]
    ) -> Node:
        node = operator.reader(self.index_of, call) if operator.reader else None
        if node is None:
            node = Node(0, "opaque", "", inputs, outs[0])
            for t in outs[1:]:  # further outputs cannot be told apart
                if t.is_floating_point() and t.numel():
                    self._index[id(t)] = len(self.nodes)
                    self._missing.append(f"{self.name()}: {operator.name} gives several outputs")
        node.op = operator.name
        node.inputs = node.inputs or inputs
        return node

    def _note(
        self, node: Node, given: list[Tensor], indices: list[int | None], out: Tensor
    ) -> None:
        node.module = self.name()
        for role, tensor in node.tensors.items():
            name = self._names.get(id(tensor))
            if name is not None:
                node.parameters[role] = name
        for t, i in zip(given, indices, strict=True):
            if i is not None:
                continue
            if id(t) in self._derived:
                node.derived |= self._derived[id(t)]
            elif id(t) in self._names and node.kind in ("opaque", "pointwise", "scale", "shift"):
                node.derived |= {self._names[id(t)]}
        node.index = len(self.nodes)
        self._index[id(out)] = node.index
        self.nodes.append(node)

    def _note_parameters(
        self, operator: _Operator, given: list[Tensor], outs: list[Tensor]
    ) -> None:
        sets = [self._derived.get(id(t), frozenset()) for t in given]
        names = frozenset(self._names[id(t)] for t in given if id(t) in self._names).union(*sets)
        if not names:
            return
        if operator.whole and len(given) == 1 and id(given[0]) in self._names:
            self._names[id(outs[0])] = self._names[id(given[0])]
            return
        for t in outs:
            self._derived[id(t)] = names

    def index_of(self, tensor: Any) -> int | None:
        """The node that made a tensor."""
        return self._index.get(id(tensor))

    def finish(self, output: Tensor) -> Graph:
        """Close the record."""
        index = self._index.get(id(output))
        if index is None:
            self._missing.append("the model's output")
            index = len(self.nodes) - 1
        self._missing += [f"the gradient that {name} defines" for name in _functions(output)]
        for node in self.nodes:
            node.value = node.value.detach()
            if node.tensors:
                node.tensors = {role: used_form(node, role).detach() for role in node.tensors}
        parameters = {name: tensor.detach() for name, tensor in self.parameters.items()}
        missing = tuple(dict.fromkeys(self._missing))
        live = output if output.requires_grad else None
        return Graph(self.nodes, index, parameters, not missing, missing, live)


def _functions(output: Tensor) -> list[str]:
    """Functions of the user's own behind a value: no operator tells their gradient."""
    found: dict[str, None] = {}
    waiting, seen = [output.grad_fn], {None, output.grad_fn}
    while waiting:
        step = waiting.pop()
        if step is None:
            continue
        if isinstance(step, torch.autograd.function.BackwardCFunction):
            function = type(step)._forward_cls
            if not function.__module__.startswith("supertickets_ext."):
                found[function.__qualname__] = None
        for following, _ in step.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return list(found)


def _memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors in arguments or results, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found
