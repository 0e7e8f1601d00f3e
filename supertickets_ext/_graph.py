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
- ``module``: name of the innermost module that ran it.

``graph.output`` is the index of the node that the model returned; ``graph.complete`` is False if
a value came from something that was not recorded, and then only generic routes are right.

The model is left as it was: mode, buffers, gradients, hooks and the global RNG. Parameters and
buffers are swapped for aliases and clones during the run, so module hooks see other tensors of the
same values. Batch norms update clones of their buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from supertickets_ext._graph_nodes import KINDS, READERS, Call, Graph, Node, Ref, used_form

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
    # Leaves of their own: gradients never reach the caller's parameters.
    parameters, buffers = aliases(model)
    start = x.detach().requires_grad_(x.is_floating_point())
    recorder = Recorder(start, parameters)
    with ExitStack() as stack:
        stack.enter_context(gram_state(model, coupled))
        stack.enter_context(_plain_masked_layers(model))
        stack.enter_context(_named_modules(model, recorder))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(recorder)
        output = functional_call(model, {**parameters, **buffers}, (start,))
    if not isinstance(output, Tensor):
        raise TypeError(f"record: the model must return one tensor, got {type(output).__name__}")
    return recorder.finish(output)


def aliases(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters as leaves of their own on the same memory, and clones of the buffers."""
    parameters = {
        name: p.detach().requires_grad_(p.is_floating_point())
        for name, p in model.named_parameters()
    }
    return parameters, {name: b.clone() for name, b in model.named_buffers()}


@contextmanager
def gram_state(model: nn.Module, coupled: bool) -> Iterator[None]:
    """Put a model in the mode of a Gram matrix, without dropout; its mode and the RNG come back."""
    modes = {m: m.training for m in model.modules()}
    with torch.random.fork_rng(devices=[]):
        try:
            model.train(coupled)
            for m in modes:
                if isinstance(m, nn.modules.dropout._DropoutNd):
                    m.training = False
            yield
        finally:
            for m, mode in modes.items():
                m.training = mode


@contextmanager
def _plain_masked_layers(model: nn.Module) -> Iterator[None]:
    """Let masked convolutions call their own operator on plain tensors, whatever their route."""
    layers = [m for m in model.modules() if isinstance(getattr(m, "route", None), str)]
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
def _named_modules(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which module runs."""
    handles = []
    try:
        for name, module in model.named_modules():
            if name:
                handles.append(
                    module.register_forward_pre_hook(
                        lambda m, inputs, name=name: recorder.path.append(name), prepend=True
                    )
                )
                handles.append(
                    module.register_forward_hook(
                        lambda m, inputs, output: recorder.leave(), always_call=True
                    )
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- the recorder -------------------------------------------------------------------------------


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
        self._memory: dict[int, list[int]] = {x.untyped_storage().data_ptr(): [0]}
        self._derived: dict[int, frozenset[str]] = {}
        self._keep: list[Any] = [x, parameters]  # an id is good as long as its tensor lives
        self._missing: list[str] = []

    def leave(self) -> None:
        """A module has returned."""
        if self.path:
            self.path.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [t for t in _flat((args, kwargs)) if isinstance(t, Tensor)]
        inputs = tuple(self._index[id(t)] for t in given if id(t) in self._index)
        for t in given if func.overloadpacket is not _aten.detach else ():
            if t.requires_grad and not (
                id(t) in self._index or id(t) in self._names or id(t) in self._derived
            ):
                self._missing.append(f"{self.name()}: input of {func}")
        self._before_write(func, args)
        recorded = (self._referred(args), self._referred(kwargs)) if inputs else ((), {})
        out = func(*args, **kwargs)
        self._note(Call(args, kwargs, out, str(func)), func, (func, *recorded), given, inputs)
        return out

    def _before_write(self, func: Any, args: tuple[Any, ...]) -> None:
        """Keep what earlier readers of a tensor read, if it is about to change in place."""
        if not func._schema.name.endswith("_") or not args or not isinstance(args[0], Tensor):
            return
        memory = args[0].untyped_storage().data_ptr()
        own = self._index.get(id(args[0]))
        for i in self._memory.get(memory, ()):
            value = self.nodes[i].value
            if value is not args[0] and value.untyped_storage().data_ptr() == memory:
                # A view of it, or what it is a view of, would change unseen.
                self._missing.append(f"{self.name()}: {func} changes a shared tensor")
        if own is not None:
            with torch.no_grad():
                self.nodes[own].value = self.nodes[own].value.detach().clone()

    def name(self) -> str:
        """The innermost module that runs."""
        return self.path[-1] if self.path else ""

    def _note(
        self,
        call: Call,
        func: Any,
        recorded: tuple[Any, Any, Any],
        given: list[Tensor],
        inputs: tuple[int, ...],
    ) -> None:
        outs = [t for t in _flat(call.out) if isinstance(t, Tensor)]
        self._keep.append((outs, given))
        packet = func.overloadpacket
        if not inputs:
            self._note_parameters(packet, given, outs)
            return
        if packet is _aten.detach or not outs:
            return
        reader = READERS.get(packet)
        node = reader(self.index_of, call) if reader else None
        if node is None:
            node = Node(0, "opaque", "", inputs, outs[0])
            if len(outs) > 1:  # further outputs cannot be told apart
                floats = [t for t in outs[1:] if t.is_floating_point() and t.numel()]
                for t in floats:
                    self._index[id(t)] = len(self.nodes)
                self._missing += [f"{self.name()}: {func} gives several outputs"] if floats else []
        node.op, node.module = call.op, self.name()
        for role, tensor in node.tensors.items():
            name = self._names.get(id(tensor))
            if name is not None:
                node.parameters[role] = name
        node.inputs = node.inputs or inputs
        for t in given:
            if id(t) in self._derived and id(t) not in self._index:
                node.derived |= self._derived[id(t)]
            elif node.kind in ("opaque", "pointwise", "scale", "shift") and id(t) in self._names:
                node.derived |= {self._names[id(t)]}
        node.call = recorded
        node.index = len(self.nodes)
        self._index[id(outs[0])] = node.index
        self._memory.setdefault(outs[0].untyped_storage().data_ptr(), []).append(node.index)
        self.nodes.append(node)

    def _note_parameters(self, packet: Any, given: list[Tensor], outs: list[Tensor]) -> None:
        names = frozenset(self._names[id(t)] for t in given if id(t) in self._names)
        names = names.union(*(self._derived.get(id(t), frozenset()) for t in given))
        if not names:
            return
        whole = len(given) == 1 and id(given[0]) in self._names
        if whole and packet in (_aten.t, _aten.unsqueeze, _aten.alias, _aten.detach):
            self._names[id(outs[0])] = self._names[id(given[0])]
            return
        for t in outs:
            self._derived[id(t)] = names

    def index_of(self, tensor: Any) -> int | None:
        """The node that made a tensor."""
        return self._index.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def _referred(self, value: Any) -> Any:
        """Arguments in which nodes stand for their values."""
        if isinstance(value, (tuple, list)):
            return type(value)(self._referred(item) for item in value)
        if isinstance(value, dict):
            return {key: self._referred(item) for key, item in value.items()}
        if not isinstance(value, Tensor):
            return value
        index = self.index_of(value)
        return value.detach() if index is None else Ref(index)

    def finish(self, output: Tensor) -> Graph:
        """Close the record."""
        index = self._index.get(id(output))
        if index is None:
            self._missing.append("the model's output")
            index = len(self.nodes) - 1
        for node in self.nodes:
            node.value = node.value.detach()
            node.tensors = {role: used_form(node, role) for role in node.tensors}
        parameters = {name: tensor.detach() for name, tensor in self.parameters.items()}
        missing = tuple(dict.fromkeys(self._missing))
        return Graph(self.nodes, index, parameters, not missing, missing)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _flat(item)
    else:
        yield value
