"""Coupled Gram matrices by the lane kernel: many cotangents side by side, see csrc/cpu/ntk_lanes.h.

A recorded graph becomes a table of nodes; whatever the kernel cannot do ends the translation with
a reason, and another route is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from supertickets_ext._graph import Graph, Node

_INPUT, _CONV, _NORM, _RELU, _ADD, _SCALE, _CAT, _AVERAGE, _MAX, _HEAD = range(10)
_COLUMNS = (
    "kind", "first", "inputs", "channels", "height", "width", "value", "weight", "bias", "mean",
    "rstd", "index", "column", "kernel", "stride", "padding_y", "padding_x", "dilation",
    "depthwise",
)  # fmt: skip
_MOST_WIDE = 32  # channels beyond which products of matrices are the better kernel
_ROW_BYTES = 256 << 20  # the kernel keeps the Jacobian's rows in float64


class _RefusalError(Exception):
    """Holds the reason why the kernel cannot do a graph."""


def lanes_gram(graph: Graph, names: Sequence[str], dtype: torch.dtype) -> Tensor | None:
    """Gram matrix of the gradients of each sample's summed logits, through batch statistics.

    Args:
        graph: From ``record(model, x, coupled=True)`` or ``read_live(model, x)``.
        names: The parameters whose gradients count.
        dtype: Of the samples.

    Returns:
        ``[N, N]`` in float64 from float32 rows, or None if the kernel cannot do this graph.
    """
    try:
        table = _Table(graph, names, dtype)
    except _RefusalError:
        return None
    return table.gram()


def lanes_refusal(graph: Graph, names: Sequence[str], dtype: torch.dtype) -> str | None:
    """Why :func:`lanes_gram` gives None, with the layer's name; None if it does not."""
    try:
        _Table(graph, names, dtype)
    except _RefusalError as refusal:
        return str(refusal)
    return None


def lanes_cost(graph: Graph) -> float | None:
    """Estimated seconds of :func:`lanes_gram` on one core; None if it should not be taken."""
    operations, wide = 0, 0
    images = len(graph.nodes[0].value)
    for node in graph.nodes:
        if node.kind == "conv2d":
            weight = node.tensors["weight"]
            operations += node.value[0, 0].numel() * weight.numel()
            wide = max(wide, weight.shape[0])
    if wide > _MOST_WIDE:
        return None
    # Both gradients of every convolution, half of the pixels dead; FMAs a second of whole sweeps.
    return images * images * operations / 25e9


def lanes_bytes(graph: Graph) -> int:
    """Estimated bytes of the gradient fields of sixteen cotangents, were no memory used twice."""
    return sum(64 * node.value.numel() for node in graph.nodes if node.kind in ("conv2d", "add"))


class _Table:
    """The arguments of ``ntk_lanes_gram``."""

    def __init__(self, graph: Graph, names: Sequence[str], dtype: torch.dtype) -> None:
        self.graph, self.names = graph, frozenset(names)
        self.rows: list[list[int]] = []
        self.links: list[int] = []
        self.scales: list[float] = []
        self.tensors: list[Tensor] = []
        self.at: dict[int, int] = {}  # graph node -> row
        self.sliced: dict[int, tuple[int, int, int]] = {}  # graph node -> graph node, top, left
        self.same: dict[Any, int] = {}
        self.columns: dict[str, int] = {}
        self.width = 0
        self.images = len(graph.nodes[0].value)
        self.pooled: Tensor | None = None
        self._check(dtype)
        self._translate()
        if self.width * self.images * 8 > _ROW_BYTES:
            raise _RefusalError(f"{self.width} gradients a sample do not fit {_ROW_BYTES} bytes")

    def gram(self) -> Tensor:
        """Run the kernel, and add what the head's weight gives."""
        gram: Tensor = torch.ops.supertickets.ntk_lanes_gram(
            torch.tensor(self.rows), torch.tensor(self.links),
            torch.tensor(self.scales, dtype=torch.float32), self.tensors, self.images, self.width,
        )  # fmt: skip
        if self.pooled is not None:
            # Every class has the same gradient: the pooled features.
            pooled = self.pooled.double()
            for c in range(pooled.shape[1]):
                gram += self.classes * torch.outer(pooled[:, c], pooled[:, c])
        return gram

    def _check(self, dtype: torch.dtype) -> None:
        graph = self.graph
        x = graph.nodes[0].value
        if not graph.complete:
            raise _RefusalError("; ".join(graph.unrecorded))
        if dtype != torch.float32 or x.dtype != torch.float32 or x.dim() != 4:
            raise _RefusalError("the input is not float32 [N, C, H, W]")
        if x.device.type != "cpu":
            raise _RefusalError("the input is not on the CPU")
        for node in graph.nodes:
            if node.derived & self.names:
                raise _RefusalError(f"{node.module}: a weight is computed from a parameter")
            wanted = {r for r, n in node.parameters.items() if n in self.names}
            if wanted - {"weight"} or (
                wanted and node.kind not in ("conv2d", "batch_norm", "linear")
            ):
                raise _RefusalError(
                    f"{node.module}: no gradients of its {', '.join(sorted(wanted))}"
                )

    def _translate(self) -> None:
        nodes = self.graph.nodes
        head, end = self._head()
        needed = {end.index}
        for node in reversed(nodes[: end.index + 1]):
            if node.index in needed:
                needed.update(node.inputs)
        reached = {name for i in needed for name in nodes[i].parameters.values()}
        outside = (
            {name for node in nodes for name in node.parameters.values() if name in self.names}
            - reached
            - set(head.parameters.values() if head else ())
        )
        if outside:
            raise _RefusalError(f"{sorted(outside)[0]} is used beside the path to the output")
        for node in nodes[: end.index + 1]:
            if node.index in needed:
                self._add(node)
        size = end.value[0, 0].numel()
        channels = end.value.shape[1]
        weight = torch.ones(channels) if head is None else head.tensors["weight"].sum(0)
        self._row(_HEAD, end, weight=(weight / size).contiguous(), inputs=[self.at[end.index]])

    def _head(self) -> tuple[Node | None, Node]:
        """The last linear layer, if there is one, and the map that is averaged before it."""
        nodes = self.graph.nodes
        node, head = nodes[self.graph.output], None
        while node.kind in ("identity", "reshape", "linear", "scale") and node.inputs:
            if node.kind == "scale" or (node.kind == "linear" and head is not None):
                break
            if node.kind == "linear":
                head = node
            node = nodes[node.inputs[0]]
        averages = node.kind == "mean" and node.constants["dims"] == (2, 3)
        if not averages or nodes[node.inputs[0]].value.dim() != 4:
            raise _RefusalError(f"{node.module}: the output is no linear layer of averaged maps")
        if head is not None and head.parameters.get("weight") in self.names:
            self.classes = head.value.shape[1]
            self.pooled = node.value.flatten(1)
            if self.pooled.is_meta:
                raise _RefusalError(f"{head.module}: its input was not kept")
            if self.pooled.shape[1] != head.tensors["weight"].shape[1]:
                raise _RefusalError(f"{head.module}: reads something else than averaged maps")
        return head, nodes[node.inputs[0]]

    def _add(self, node: Node) -> None:
        if node.value.dim() != 4:
            raise _RefusalError(f"{node.module}: a value of shape {tuple(node.value.shape)}")
        translate = getattr(self, f"_add_{node.kind}", None)
        if translate is None:
            raise _RefusalError(f"{node.module}: {node.op or node.kind}")
        for i in node.inputs:
            if i in self.sliced and node.kind not in ("slice", "conv2d"):
                raise _RefusalError(f"{node.module}: reads a part of a map")
        translate(node)

    def _row(
        self, kind: int, node: Node, *, scale: float = 1, inputs: list[int] | None = None,
        **values: Any,
    ) -> None:  # fmt: skip
        _, channels, height, width = node.value.shape
        links = [self.at[i] for i in node.inputs] if inputs is None else inputs
        row = dict.fromkeys(_COLUMNS, -1)
        row.update(kind=kind, first=len(self.links), inputs=len(links), channels=channels,
                   height=height, width=width, depthwise=0)  # fmt: skip
        if kind != _HEAD and not node.value.is_meta:
            values.setdefault("value", node.value)
        for name, value in values.items():
            row[name] = self._tensor(value) if isinstance(value, Tensor) else int(value)
        if kind != _HEAD:
            self.at[node.index] = len(self.rows)
        self.links += links
        self.scales.append(scale)
        self.rows.append([row[name] for name in _COLUMNS])

    def _tensor(self, tensor: Tensor) -> int:
        self.tensors.append(tensor.contiguous())
        return len(self.tensors) - 1

    def _column(self, node: Node) -> int:
        name = node.parameters.get("weight")
        if name not in self.names or name is None:
            return -1
        if name not in self.columns:
            self.columns[name] = self.width
            self.width += node.tensors["weight"].numel()
        return self.columns[name]

    def _shared(self, kind: int, node: Node, *key: Any, **values: Any) -> None:
        """The same operator on the same value is one node, however many edges run it."""
        known = (kind, self.at[node.inputs[0]], *key)
        if known in self.same:
            self.at[node.index] = self.same[known]
            return
        self._row(kind, node, **values)
        self.same[known] = self.at[node.index]

    def _add_input(self, node: Node) -> None:
        self._row(_INPUT, node)

    def _add_conv2d(self, node: Node) -> None:
        weight, constants = node.tensors["weight"], node.constants
        out, inputs, kernel, wide = weight.shape
        groups = constants["groups"]
        depthwise = groups > 1 and groups == out and inputs == 1
        square = kernel == wide and len({*constants["stride"]}) == 1
        if not square or len({*constants["dilation"]}) != 1 or (groups > 1 and not depthwise):
            raise _RefusalError(f"{node.module}: kernel, stride, dilation or groups")
        if "mask" in node.tensors:
            raise _RefusalError(f"{node.module}: a masked weight")
        stride = constants["stride"][0]
        dilation = constants["dilation"][0] if kernel > 1 else 1
        known = kernel in (3, 5) and stride in (1, 2) and dilation in (1, 2)
        if kernel != 1 and not known:
            raise _RefusalError(f"{node.module}: kernel {kernel}, stride or dilation")
        top, _, left, _ = constants["padding"]
        source = node.inputs[0]
        if source in self.sliced:
            source, down, right = self.sliced[source]
            if any(constants["padding"]):
                raise _RefusalError(f"{node.module}: pads a part of a map")
            top, left = -down, -right
        values: dict[str, Any] = {"bias": node.tensors["bias"]} if "bias" in node.tensors else {}
        self._row(_CONV, node, weight=weight, column=self._column(node), kernel=kernel,
                  stride=stride, padding_y=top, padding_x=left,
                  dilation=dilation, depthwise=depthwise,
                  inputs=[self.at[source]], **values)  # fmt: skip

    def _add_batch_norm(self, node: Node) -> None:
        if not node.constants["training"]:
            raise _RefusalError(f"{node.module}: running statistics")
        roles = [role for role in ("mean", "rstd", "weight") if role in node.tensors]
        values: dict[str, Any] = {role: node.tensors[role] for role in roles}
        self._row(_NORM, node, column=self._column(node), **values)

    def _add_relu(self, node: Node) -> None:
        self._shared(_RELU, node)

    def _add_add(self, node: Node) -> None:
        self._row(_ADD, node, scale=node.constants["alpha"])

    def _add_scale(self, node: Node) -> None:
        self._row(_SCALE, node, scale=node.constants["factor"])

    def _add_identity(self, node: Node) -> None:
        self.at[node.index] = self.at[node.inputs[0]]

    _add_shift = _add_identity

    def _add_cat(self, node: Node) -> None:
        if node.constants["dim"] != 1:
            raise _RefusalError(f"{node.module}: joins along dimension {node.constants['dim']}")
        self._row(_CAT, node)

    def _add_slice(self, node: Node) -> None:
        constants = node.constants
        source, down, right = self.sliced.get(node.inputs[0], (node.inputs[0], 0, 0))
        size = self.graph.nodes[node.inputs[0]].value.shape[constants["dim"]]
        if constants["dim"] < 2 or constants["step"] != 1 or constants["end"] < size:
            raise _RefusalError(f"{node.module}: a slice that is no cut at the top or the left")
        if constants["dim"] == 2:
            down += constants["start"]
        else:
            right += constants["start"]
        self.sliced[node.index] = (source, down, right)

    def _add_avg_pool2d(self, node: Node) -> None:
        kernel, stride, padding = self._window(node)
        if node.constants["ceil_mode"]:
            raise _RefusalError(f"{node.module}: ceil_mode")
        counts, divisor = node.constants["count_include_pad"], node.constants["divisor"]
        source = self.graph.nodes[node.inputs[0]].value
        area = float(divisor or kernel * kernel)
        share = torch.full(node.value.shape[2:], 1 / area)
        if not counts and divisor is None:
            inside = torch.nn.functional.avg_pool2d(
                torch.ones(1, 1, *source.shape[2:]), kernel, stride, padding
            )[0, 0]
            share = 1 / (inside * area).round()
        self._shared(_AVERAGE, node, kernel, stride, padding, counts, divisor, weight=share,
                     kernel=kernel, stride=stride, padding_y=padding)  # fmt: skip

    def _add_max_pool2d(self, node: Node) -> None:
        kernel, stride, padding = self._window(node)
        dilation, ceil = node.constants["dilation"], node.constants["ceil_mode"]
        index = node.tensors["indices"].int()
        self._shared(_MAX, node, kernel, stride, padding, dilation, ceil, kernel=kernel,
                     stride=stride, padding_y=padding, index=index)  # fmt: skip

    def _window(self, node: Node) -> tuple[int, int, int]:
        given = [node.constants[name] for name in ("kernel", "stride", "padding")]
        if any(len({*pair}) != 1 for pair in given):
            raise _RefusalError(f"{node.module}: a window that is not square")
        kernel, stride, padding = (int(pair[0]) for pair in given)
        return kernel, stride, padding
