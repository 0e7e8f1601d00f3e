"""Runs a model on a symbol instead of numbers, and writes down which operators it calls.

Nothing is computed, so that the table of a small network costs less than one forward pass of it. A
model that looks at values, or calls what is not known here, is refused, and another route taken.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from supertickets_ext._library import LIBRARY as LIBRARY

_ops = torch.ops.supertickets
_CPU = torch.device("cpu")

_INPUT, _CONV, _NORM, _RELU, _AVERAGE, _MAX, _ADD, _SCALE, _CAT, _WINDOW = range(10)
_MOST_ROWS = 512  # of a value; beyond it, torch's convolutions are the better ones
Pair = tuple[int, int]
Window = tuple[int, int, int, int, int, int]
"""Kernel (rows, columns), stride, padding (top, left), dilation."""
_POINT = (1, 1, 1, 0, 0, 1)


class RefusalError(Exception):
    """Holds the reason why a model has no table."""


class Table:
    """The arguments of ``region_patterns``, row by row."""

    def __init__(self, shape: tuple[int, ...], device: torch.device = _CPU) -> None:
        self.device = device
        self.rows: list[tuple[int, ...]] = []
        self.links: list[int] = []
        self.scales: list[float] = []
        self.tensors: list[Tensor] = []
        self.bits = 0
        self._same: dict[Any, int] = {}
        self._row(_INPUT, (), shape)
        self._shape = shape

    def input(self) -> Symbol:
        """What the model is called with; a new one each time, as operators may work in place."""
        return Symbol(self, self._shape, 0)

    def patterns(self, x: Tensor, batch: int) -> Tensor:
        """Patterns ``[N, words]`` in which equal ReLUs of one value appear once."""
        out: Tensor = _ops.region_patterns(*self.arguments(), x, batch)
        return out

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """What the operator takes before x."""
        # torch.tensor takes 0.2 ms for the rows of a cell, an array 0.02.
        rows = torch.frombuffer(array("q", chain.from_iterable(self.rows)), dtype=torch.int64)
        links = torch.frombuffer(array("q", self.links), dtype=torch.int64)
        scales = torch.frombuffer(array("f", self.scales), dtype=torch.float32)
        return rows.view(len(self.rows), -1), links, scales, self.tensors

    def _row(
        self, kind: int, inputs: tuple[int, ...], shape: tuple[int, ...], window: Window = _POINT,
        groups: int = 1, counts: bool = False, weight: int = -1, bias: int = -1,
        scale: float = 1.0,
    ) -> int:  # fmt: skip
        if shape[1] * shape[2] * shape[3] > _MOST_ROWS:
            raise RefusalError(f"a value of shape {shape[1:]}")
        rows, links = self.rows, self.links
        rows.append(
            (kind, len(links), len(inputs), *shape[1:], *window, groups, counts, weight, bias)
        )
        links += inputs
        self.scales.append(scale)
        return len(rows) - 1

    def add(
        self, kind: int, inputs: tuple[int, ...], shape: tuple[int, ...], *, scale: float = 1.0
    ) -> Symbol:
        """Enter an operator without window or weights."""
        return Symbol(self, shape, self._row(kind, inputs, shape, scale=scale))

    def weighted(
        self, kind: int, x: Symbol, shape: tuple[int, ...], weight: Any, bias: Any,
        window: Window = _POINT, groups: int = 1, scale: float = 1.0,
    ) -> Symbol:  # fmt: skip
        """Enter an operator whose weight and bias are tensors or None."""
        first, second = (-1 if t is None else self._tensor(t) for t in (weight, bias))
        row = self._row(kind, (x.row,), shape, window, groups, False, first, second, scale)
        return Symbol(self, shape, row)

    def shared(
        self, kind: int, x: Symbol, shape: tuple[int, ...], window: Window = _POINT,
        counts: bool = False,
    ) -> Symbol:  # fmt: skip
        """Enter an operator without weights, once for each value."""
        key = (kind, x.row, shape, window, counts)
        row = self._same.get(key)
        if row is None:
            row = self._same[key] = self._row(kind, (x.row,), shape, window, 1, counts)
            if kind == _RELU:
                self.bits += shape[1] * shape[2] * shape[3]
        return Symbol(self, shape, row)

    def _tensor(self, tensor: Tensor) -> int:
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32 or tensor.is_sparse:
            raise RefusalError("a weight that is no float32 tensor")
        self.tensors.append(tensor if tensor.is_contiguous() else tensor.contiguous())
        return len(self.tensors) - 1


class Symbol:
    """A value ``[N, C, H, W]`` of the network; of other dimensions it counts no more."""

    __slots__ = ("_shape", "row", "table")

    def __init__(self, table: Table, shape: tuple[int, ...], row: int = -1) -> None:
        self.table, self._shape, self.row = table, shape, row

    dtype, requires_grad = torch.float32, False

    @property
    def device(self) -> torch.device:
        """Of a tensor."""
        return self.table.device

    @property
    def is_cuda(self) -> bool:
        """Of a tensor."""
        return self.table.device.type == "cuda"

    @property
    def shape(self) -> torch.Size:
        """Of a tensor."""
        return torch.Size(self._shape)

    def dim(self) -> int:
        """Of a tensor."""
        return len(self._shape)

    def size(self, dim: int | None = None) -> Any:
        """Of a tensor."""
        return self.shape if dim is None else self._shape[dim]

    def __len__(self) -> int:
        return self._shape[0]

    def __bool__(self) -> bool:
        raise RefusalError("the model looks at values")

    def __add__(self, other: Any) -> Symbol:
        return _add(self, other)

    __radd__ = __add__

    def __iadd__(self, other: Any) -> Symbol:
        return self._become(_add(self, other))

    def __mul__(self, other: Any) -> Symbol:
        return _scale(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Symbol:
        return _scale(self, 1 / _number(other))

    def __getitem__(self, index: Any) -> Symbol:
        return _window(self, index)

    def flatten(self, start: int = 0, end: int = -1) -> Symbol:
        """As of a tensor, of all but the first dimension."""
        if start != 1 or end not in (-1, self.dim() - 1):
            raise RefusalError("flatten")
        count = 1
        for size in self._shape[1:]:
            count *= size
        return Symbol(self.table, (self._shape[0], count))

    def mean(self, dim: Any, keepdim: bool = False) -> Symbol:
        """As of a tensor, over the pixels."""
        if tuple(dim) not in ((2, 3), (-2, -1)) or self.dim() != 4 or keepdim:
            raise RefusalError("mean")
        return Symbol(self.table, self._shape[:2])

    def _become(self, other: Symbol) -> Symbol:
        """What an operator in place leaves."""
        self.row, self._shape = other.row, other._shape
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        handler = _FUNCTIONS.get(func)
        if handler is None:
            raise RefusalError(f"calls {getattr(func, '__name__', func)}")
        return handler(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        raise RefusalError(f"asks for {name}")


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise RefusalError(f"arithmetic with {type(value).__name__}")


def _map(x: Any) -> Symbol:
    """A value whose ReLUs count."""
    if not isinstance(x, Symbol) or x.row < 0:
        raise RefusalError("an operator on something else than maps")
    return x


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _one(value: Any) -> int:
    first, second = _pair(value)
    if first != second:
        raise RefusalError("strides or dilations that differ")
    return first


def _slid(x: Symbol, channels: int, window: Window) -> tuple[int, ...]:
    """The shape of what a window leaves that is padded alike on all sides."""
    high, wide, stride, top, left, dilation = window
    n, _, rows, columns = x._shape
    rows = (rows + 2 * top - dilation * (high - 1) - 1) // stride + 1
    return n, channels, rows, (columns + 2 * left - dilation * (wide - 1) - 1) // stride + 1


def _add(x: Any, other: Any, *, alpha: float = 1) -> Symbol:
    if isinstance(other, (int, float)) and other == 0:  # where sum() starts
        return _map(x)
    x, other = _map(x), _map(other)
    if x._shape != other._shape:
        raise RefusalError("adds values of two shapes")
    return x.table.add(_ADD, (x.row, other.row), x._shape, scale=float(alpha))


def _scale(x: Any, factor: Any) -> Symbol:
    if isinstance(factor, Symbol):
        x, factor = factor, x
    return _map(x).table.add(_SCALE, (x.row,), x._shape, scale=_number(factor))


def _window(x: Any, index: Any) -> Symbol:
    x, index = _map(x), index if isinstance(index, tuple) else (index,)
    index += (slice(None),) * (4 - len(index))
    if any(not isinstance(i, slice) for i in index) or any(i != slice(None) for i in index[:2]):
        raise RefusalError("an index other than slices of pixels")
    (top, bottom, down), (left, right, across) = (
        i.indices(n) for i, n in zip(index[2:], x._shape[2:], strict=True)
    )
    if down != across or down < 1:
        raise RefusalError("strides that differ")
    size = len(range(top, bottom, down)), len(range(left, right, across))
    return x.table.shared(_WINDOW, x, (*x._shape[:2], *size), (1, 1, down, -top, -left, 1))


def _pad(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Symbol:
    x = _map(x)
    if mode != "constant" or value not in (None, 0) or len(pad) > 4 or min(pad) < 0:
        raise RefusalError("pad")
    left, right, top, bottom = (*pad, 0, 0, 0, 0)[:4]
    n, c, high, wide = x._shape
    shape = (n, c, high + top + bottom, wide + left + right)
    return x.table.shared(_WINDOW, x, shape, (1, 1, 1, top, left, 1))


def _conv2d(
    x: Any, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Symbol:  # fmt: skip
    if isinstance(padding, str):
        raise RefusalError("padding by name")
    x, (channels, _, high, wide) = _map(x), weight.shape
    window = (high, wide, _one(stride), *_pair(padding), _one(dilation))
    return x.table.weighted(_CONV, x, _slid(x, channels, window), weight, bias, window, groups)


def _batch_norm(
    x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Symbol:  # fmt: skip
    if isinstance(x, Symbol) and x.dim() == 2:
        return x
    if not training:
        raise RefusalError("running statistics")
    return _map(x).table.weighted(_NORM, x, x._shape, weight, bias, scale=eps)


def _relu(x: Any, inplace: bool = False) -> Symbol:
    if isinstance(x, Symbol) and x.row < 0:
        if x.dim() == 4:
            raise RefusalError("a ReLU on an unknown map")
        return x
    out = _map(x).table.shared(_RELU, x, x._shape)
    return x._become(out) if inplace else out


def _pool(
    kind: int, x: Any, kernel: Any, stride: Any, padding: Any, counts: bool = False
) -> Symbol:
    x = _map(x)
    window = (*_pair(kernel), _one(stride or kernel), *_pair(padding), 1)
    return x.table.shared(kind, x, _slid(x, x._shape[1], window), window, counts)


def _avg_pool2d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Symbol:  # fmt: skip
    if ceil_mode or divisor_override is not None:
        raise RefusalError("avg_pool2d")
    return _pool(_AVERAGE, x, kernel_size, stride, padding, count_include_pad)


def _max_pool2d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Symbol:  # fmt: skip
    if ceil_mode or return_indices or _one(dilation) != 1:
        raise RefusalError("max_pool2d")
    return _pool(_MAX, x, kernel_size, stride, padding)


def _adaptive_avg_pool2d(x: Any, output_size: Any) -> Symbol:
    x = _map(x)
    if _pair(output_size) != (1, 1):
        raise RefusalError("adaptive_avg_pool2d")
    return x.table.shared(_AVERAGE, x, (*x._shape[:2], 1, 1), (*x._shape[2:], 1, 0, 0, 1))


def _cat(tensors: Any, dim: int = 0) -> Symbol:
    parts = tuple(map(_map, tensors))
    first = parts[0]._shape
    if dim not in (1, -3) or any(p._shape[2:] != first[2:] for p in parts):
        raise RefusalError("cat")
    shape = (first[0], sum(p._shape[1] for p in parts), *first[2:])
    return parts[0].table.add(_CAT, tuple(p.row for p in parts), shape)


def _linear(x: Any, weight: Tensor, bias: Any = None) -> Symbol:
    if not isinstance(x, Symbol) or x.dim() != 2:
        raise RefusalError("a linear layer on maps")
    return Symbol(x.table, (len(x), len(weight)))


def _flatten(x: Symbol, start_dim: int = 0, end_dim: int = -1) -> Symbol:
    return x.flatten(start_dim, end_dim)


def _dropout(x: Symbol, p: float = 0.5, training: bool = True, inplace: bool = False) -> Symbol:
    if training:
        raise RefusalError("dropout")
    return x


_FUNCTIONS: dict[Any, Callable[..., Symbol]] = {
    torch.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    torch.relu: _relu,
    F.avg_pool2d: _avg_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.max_pool2d: _max_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.pad: _pad,
    torch.cat: _cat,
    torch.add: _add,
    torch.mul: _scale,
    F.linear: _linear,
    torch.flatten: _flatten,
    F.dropout: _dropout,
}
