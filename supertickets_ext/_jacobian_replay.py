"""Runs a recorded network again, so that only gradients of activations are left to autograd.

Parameters take no gradient here: their rows are made from a layer's input and the gradient at its
output (`_jacobian_rows`). Where samples do not see each other, a convolution and the batch norm
behind it are one convolution, and equal ReLUs of one value are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supertickets_ext._graph import Graph, Node, Ref

_aten = torch.ops.aten
# What keeps samples apart besides the kinds that say so: operators without a row of their own.
_APART = {_aten.mul.Tensor, _aten.add.Tensor, _aten.sub.Tensor, _aten._adaptive_avg_pool2d.default,
          _aten.constant_pad_nd.default, _aten.upsample_nearest2d.vec,
          _aten.upsample_bilinear2d.vec, _aten.silu.default}  # fmt: skip
_DIRECT = {"conv2d": ("weight", "bias"), "batch_norm": ("weight", "bias"),
           "group_norm": ("weight", "bias"), "layer_norm": ("weight", "bias"),
           "linear": ("weight", "bias")}  # fmt: skip


@dataclass
class Layer:
    """One layer with chosen parameters: what its rows are made of."""

    node: Node
    norm: Node | None
    """A batch norm that is folded into the node; the tap is at its output."""
    x: Tensor
    tap: Tensor


def obstacle(graph: Graph, batch: int, coupled: bool) -> str:
    """Why a record cannot be run again, or nothing."""
    if not graph.complete:
        return f"not recorded: {', '.join(graph.unrecorded[:3])}"
    for node in graph.nodes[1:]:
        in_place = node.func is not None and node.func._schema.name.endswith("_")
        if in_place and node.kind not in ("relu", "add", "identity", "scale", "shift"):
            return f"{node.module}: {node.op} changes its input"
        if not coupled and (why := _mixes(graph, node, batch)):
            return f"{node.module}: {node.op} {why}"
    return ""


def _mixes(graph: Graph, node: Node, batch: int) -> str:
    c, dims = node.constants, node.value.dim()
    if node.value.dim() == 0 or len(node.value) != batch:
        return "gives no row for each sample"
    if node.kind == "opaque" and (
        node.func not in _APART or any(graph.nodes[i].value.dim() != dims for i in node.inputs)
    ):
        return "may mix samples"
    if node.kind == "batch_norm" and c["training"]:
        return "takes the statistics of the batch"
    if (
        (node.kind in ("cat", "slice") and c["dim"] == 0)
        or (node.kind == "mean" and 0 in c["dims"])
        or (node.kind == "layer_norm" and len(c["shape"]) == node.value.dim())
    ):
        return "mixes samples"
    return ""


def split_parameters(graph: Graph, names: tuple[str, ...]) -> tuple[dict[str, Node], list[str]]:
    """The nodes of parameters with rows of their own, and the names that need a generic route.

    Parameters that the network does not use are in neither.
    """
    uses: dict[str, list[Node]] = {name: [] for name in names}
    generic: set[str] = set()
    for node in graph.nodes:
        generic |= node.derived
        for role, name in node.parameters.items():
            direct = role in _DIRECT.get(node.kind, ()) and not _is_many(graph, node)
            if not direct:
                generic.add(name)
            elif name in uses:
                uses[name].append(node)
    direct_uses = {}
    for name, nodes in uses.items():
        if len(nodes) > 1:
            generic.add(name)
        elif nodes and name not in generic:
            direct_uses[name] = nodes[0]
    return direct_uses, [name for name in names if name in generic]


def _is_many(graph: Graph, node: Node) -> bool:
    """Whether a linear layer sees several rows for each sample."""
    batch = len(graph.nodes[0].value)
    return node.kind == "linear" and (node.value.dim() != 2 or len(node.value) != batch)


class Replay:
    """One run on a batch; ``taps`` of its layers can be differentiated."""

    def __init__(self, graph: Graph, x: Tensor, wanted: dict[str, Node], folds: bool) -> None:
        self._graph, self._batch = graph, len(x)
        self._folded = _foldable(graph) if folds else {}
        self._relus: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._wanted = {node.index for node in wanted.values()}
        self.layers: list[Layer] = []
        last = {i: node.index for node in graph.nodes for i in node.inputs}
        last[graph.output] = len(graph.nodes)
        with torch.enable_grad():
            start = x.detach()
            if start.dim() == 4:
                start = start.contiguous(memory_format=torch.channels_last)
            self._values[0] = start.requires_grad_()
            for node in graph.nodes[1:]:
                self._values[node.index] = self._run(node)
                for i in node.inputs:
                    if last[i] == node.index:
                        self._values.pop(i, None)
        self.output = self._values[graph.output].reshape(len(x), -1)

    def _run(self, node: Node) -> Tensor:
        conv = self._folded.get(node.index)
        if conv is not None:  # a batch norm: its convolution has done it
            return self._values[conv.index]
        if node.kind == "relu":
            source = node.inputs[0]
            key = self._folded[source].index if source in self._folded else source
            if key not in self._relus:
                self._relus[key] = torch.relu(self._values[source])
            return self._relus[key]
        norm = self._norm_of(node)
        y = self._compute(node, norm)
        chosen = node.index in self._wanted or (norm is not None and norm.index in self._wanted)
        if chosen:
            self.layers.append(Layer(node, norm, self._values[node.inputs[0]].detach(), y))
        return y

    def _norm_of(self, node: Node) -> Node | None:
        if node.kind != "conv2d":
            return None
        for index, conv in self._folded.items():
            if conv is node:
                return self._graph.nodes[index]
        return None

    def _compute(self, node: Node, norm: Node | None) -> Tensor:
        inputs = [self._values[i] for i in node.inputs]
        if node.kind == "conv2d":
            return _convolve(node, norm, inputs[0])
        if node.kind == "reshape":
            return inputs[0].reshape(self._shape(node))
        if node.kind == "linear":
            return torch.nn.functional.linear(
                inputs[0], node.tensors["weight"], node.tensors.get("bias")
            )
        if node.kind == "group_norm":  # the recorded call holds the number of samples
            weight, bias = node.tensors.get("weight"), node.tensors.get("bias")
            c = node.constants
            return torch.nn.functional.group_norm(inputs[0], c["groups"], weight, bias, c["eps"])
        if node.kind == "add":
            return torch.add(inputs[0], inputs[1], alpha=node.constants["alpha"])
        if node.kind == "scale":
            return inputs[0] * node.constants["factor"]
        if node.kind == "identity":
            return inputs[0]
        assert node.call is not None
        func, args, kwargs = node.call
        if func._schema.name.endswith("_"):  # a shift in place
            func = getattr(getattr(_aten, func.overloadpacket.__name__[:-1]), func._overloadname)
        out = func(*self._filled(args), **self._filled(kwargs))
        return out[0] if isinstance(out, tuple) else out

    def _shape(self, node: Node) -> tuple[int, ...]:
        recorded = len(self._graph.nodes[0].value)
        size = tuple(node.value.shape)
        return size if recorded == self._batch else (self._batch, *size[1:])

    def _filled(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self._values[value.index]
        if isinstance(value, (tuple, list)):
            return type(value)(self._filled(item) for item in value)
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        return value

    def taps(self, cotangent: Tensor) -> list[Tensor]:
        """Gradients of ``<cotangent, output>`` at the layers' taps."""
        if not self.layers:
            return []
        grads = torch.autograd.grad(
            self.output, [y.tap for y in self.layers], cotangent, retain_graph=True,
            allow_unused=True,
        )  # fmt: skip
        return [
            torch.zeros_like(layer.tap) if g is None else g
            for layer, g in zip(self.layers, grads, strict=True)
        ]


def _foldable(graph: Graph) -> dict[int, Node]:
    """Convolutions by the index of the batch norm that is folded into them."""
    users = graph.users()
    folds = {}
    for node in graph.nodes:
        if node.kind != "batch_norm" or node.constants["training"] or node.value.dim() != 4:
            continue
        source = graph.nodes[node.inputs[0]]
        if source.kind == "conv2d" and len(users[source.index]) == 1:
            folds[node.index] = source
    return folds


def norm_scale(norm: Node) -> Tensor:
    """What a batch norm in evaluation mode multiplies channels by."""
    rstd = norm.tensors["rstd"]
    return rstd * norm.tensors["weight"] if "weight" in norm.tensors else rstd


def _convolve(node: Node, norm: Node | None, x: Tensor) -> Tensor:
    weight, bias, c = node.tensors["weight"], node.tensors.get("bias"), node.constants
    if norm is not None:
        scale, mean = norm_scale(norm), norm.tensors["mean"]
        shift = -mean if bias is None else bias - mean
        bias = shift * scale + norm.tensors.get("bias", 0)
        weight = weight * scale[:, None, None, None]
    top, bottom, left, right = c["padding"]
    if top != bottom or left != right:
        x, top, left = torch.nn.functional.pad(x, (left, right, top, bottom)), 0, 0
    weight = weight.contiguous(memory_format=torch.channels_last)
    return torch.conv2d(x, weight, bias, c["stride"], (top, left), c["dilation"], c["groups"])
