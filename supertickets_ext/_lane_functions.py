"""The torch functions that work in lanes, each registered with what it becomes there.

Three ways cover them. Pointwise functions see the lanes as they are. Functions over channels see
``[G, C, H, W, 16]``, where the channel is dimension 1 as ever. Functions over the map of one
channel see ``[G * C, 16, H, W]`` in channels_last, which is the same memory.

Lanes without an image go along as an image of zeros would, so they stay finite and, having no
gradient to begin with, never get one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets_ext._lane_batch_norm import batch_norm, takes
from supertickets_ext._lane_tensor import (
    HANDLERS,
    LANES,
    LaneTensor,
    changes_first,
    on_dense,
    to_lanes,
)

_POINTWISE = (
    "relu relu6 silu hardtanh hardswish hardsigmoid sigmoid logsigmoid leaky_relu gelu elu selu "
    "celu mish softplus softsign tanh neg abs square clamp clamp_min clamp_max clone detach "
    "float double half bfloat16 is_floating_point is_complex __neg__ __abs__"
)
_PER_MAP = "max_pool2d avg_pool2d adaptive_max_pool2d interpolate"
_ARITHMETIC = (
    "add subtract sub multiply mul __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ "
    "__rmul__ __imul__"
)
_DIVISION = "div divide true_divide __truediv__ __itruediv__"


def _register(names: str, handler: Callable[..., Any]) -> None:
    for name in names.split():
        for space in (torch, torch.Tensor, F):
            for spelling in (name, f"{name}_"):
                function = getattr(space, spelling, None)
                if callable(function):
                    HANDLERS[function] = handler


def _speaks_of_layout(values: Iterable[Any]) -> bool:
    return any(isinstance(v, Tensor | LaneTensor | torch.memory_format) for v in values)


def _wrap(x: LaneTensor, result: Any) -> Any:
    if result is x.lanes:  # changed in place
        return x
    return x.with_lanes(result) if isinstance(result, Tensor) else result


def _pointwise(func: Callable[..., Any], input: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(input, LaneTensor) or _speaks_of_layout((*args, *kwargs.values())):
        return NotImplemented
    return _wrap(input, func(input.lanes, *args, **kwargs))


def _to(func: Callable[..., Any], input: Any, *args: Any, **kwargs: Any) -> Any:
    values = (*args, *kwargs.values())
    if len(values) == 1 and isinstance(values[0], torch.dtype):
        return _pointwise(func, input, *args, **kwargs)
    if len(values) == 1 and isinstance(values[0], torch.memory_format):
        return _contiguous(func, input, *values)
    return NotImplemented


def _contiguous(
    func: Callable[..., Any],
    input: LaneTensor,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> LaneTensor:
    if memory_format in (input.memory_format, torch.preserve_format):
        return input
    return LaneTensor(input.lanes.clone(), input.batch, memory_format)


def _prelu(func: Callable[..., Any], input: Any, weight: Any) -> Any:
    if not isinstance(input, LaneTensor) or isinstance(weight, LaneTensor):
        return NotImplemented
    return input.with_lanes(func(input.lanes, weight))


def _batch_norm(
    func: Callable[..., Any],
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not isinstance(input, LaneTensor):
        return NotImplemented
    lanes, parameters = input.lanes, (running_mean, running_var, weight, bias)
    if training and input.batch % LANES:  # lanes without an image must not enter the statistics
        return NotImplemented
    if training and lanes.numel() and takes(lanes, *parameters):
        return input.with_lanes(batch_norm(lanes, *parameters, momentum, eps))
    return input.with_lanes(func(lanes, *parameters, training, momentum, eps))


def _dropout(
    func: Callable[..., Any],
    input: LaneTensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Any:
    return NotImplemented if training and p > 0 else input


def _per_map(func: Callable[..., Any], input: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(input, LaneTensor) or _speaks_of_layout((*args, *kwargs.values())):
        return NotImplemented
    maps = input.lanes.flatten(0, 1).permute(0, 3, 1, 2)
    lanes = func(maps, *args, **kwargs).permute(0, 2, 3, 1).contiguous()
    return input.with_lanes(lanes.unflatten(0, input.lanes.shape[:2]))


def _pad(
    func: Callable[..., Any], input: LaneTensor, pad: Sequence[int], *args: Any, **kwargs: Any
) -> Any:
    over_map = len(pad) <= 4  # more entries pad channels and batch
    return _per_map(func, input, pad, *args, **kwargs) if over_map else NotImplemented


def _over_map(
    func: Callable[..., Any],
    input: LaneTensor,
    dim: Any = None,
    keepdim: bool = False,
    **kwargs: Any,
) -> Any:
    over_map = isinstance(dim, Sequence) and sorted(d + 4 * (d < 0) for d in dim) == [2, 3]
    if not over_map or _speaks_of_layout(kwargs.values()):
        return NotImplemented
    result = input.with_lanes(func(input.lanes, (2, 3), True, **kwargs))
    return result if keepdim else result.dense().flatten(1)


def _adaptive_avg_pool(func: Callable[..., Any], input: LaneTensor, output_size: Any) -> Any:
    if output_size in (1, [1, 1], (1, 1)):  # torch's pooling gives this a scattered gradient
        return _over_map(torch.mean, input, (2, 3), True)
    return _per_map(func, input, output_size)


def _reshape(func: Callable[..., Any], input: LaneTensor, *args: Any, **kwargs: Any) -> Any:
    # a view of the whole tensor needs the order that the shape says
    return on_dense(func, (LaneTensor(input.lanes, input.batch), *args), kwargs)


def _cat(func: Callable[..., Any], tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Any:
    if kwargs or dim not in (1, -3):
        return NotImplemented
    first = next(t for t in tensors if isinstance(t, LaneTensor))
    parts = [_full(t, first) for t in tensors]
    if any(part is None for part in parts):
        return NotImplemented
    return first.with_lanes(func(parts, 1))


def _pieces(func: Callable[..., Any], input: LaneTensor, *args: Any, **kwargs: Any) -> Any:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if dim != 1:
        return NotImplemented
    pieces = func(input.lanes, *args, **kwargs)
    return tuple(_copy(input, piece) for piece in pieces)


def _getitem(func: Callable[..., Any], input: LaneTensor, index: Any) -> Any:
    whole = slice(None)
    if not isinstance(index, tuple) or not 2 <= len(index) <= 4 or not isinstance(index[1], slice):
        return NotImplemented
    if any(not isinstance(i, slice) or i != whole for i in (index[0], *index[2:])):
        return NotImplemented
    return _copy(input, input.lanes[:, index[1]])


def _copy(like: LaneTensor, piece: Tensor) -> LaneTensor:
    # always a copy: with one group of images it would be a view, and with more of them not
    return like.with_lanes(piece.clone(memory_format=torch.contiguous_format))


def _arithmetic(func: Callable[..., Any], input: Any, other: Any, **kwargs: Any) -> Any:
    like = input if isinstance(input, LaneTensor) else other
    if (like is other and changes_first(func.__name__, kwargs)) or "out" in kwargs:
        return NotImplemented  # the result goes into a dense tensor
    left, right = _operand(input, like), _operand(other, like)
    if left is None or right is None:
        return NotImplemented
    return _wrap(like, func(left, right, **kwargs))


def _division(func: Callable[..., Any], input: Any, other: Any, **kwargs: Any) -> Any:
    # a divisor with images of its own is zero in the lanes without one
    images = isinstance(other, Tensor) and other.dim() == 4 and other.shape[0] > 1
    if images or isinstance(other, LaneTensor):
        return NotImplemented
    return _arithmetic(func, input, other, **kwargs)


def _full(value: Any, like: LaneTensor) -> Tensor | None:
    """The lanes of something that differs from ``like`` in its channels only."""
    if value.dim() != 4 or value.shape[0] != like.batch or value.shape[2:] != like.shape[2:]:
        return None
    return value.lanes if isinstance(value, LaneTensor) else _lanes_of(value)


def _operand(value: Any, like: LaneTensor) -> Any:
    """What to combine with the lanes of ``like``; None if only the dense form will do."""
    if isinstance(value, LaneTensor):
        return value.lanes if value.batch == like.batch and _broadcasts(value, like) else None
    if not isinstance(value, Tensor):
        return value if isinstance(value, int | float) else None
    if value.dim() == 0 or value.dim() > 4:
        return value if value.dim() == 0 else None
    value = value[(None,) * (4 - value.dim())]
    if not _broadcasts(value, like):
        return None
    if value.shape[0] == 1:
        return value.unsqueeze(-1)
    return _lanes_of(value) if value.shape[0] == like.batch else None


def _broadcasts(value: Tensor | LaneTensor, like: LaneTensor) -> bool:
    pairs = zip(value.shape, like.shape, strict=True)
    return all(a == b or 1 in (a, b) for a, b in pairs)


def _lanes_of(value: Tensor) -> Tensor | None:
    return to_lanes(value).lanes if value.is_floating_point() else None


_register(_POINTWISE, _pointwise)
_register(_PER_MAP, _per_map)
_register(_ARITHMETIC, _arithmetic)
_register(_DIVISION, _division)
_register("mean sum", _over_map)
_register("flatten reshape view", _reshape)
_register("cat concat concatenate", _cat)
_register("split chunk", _pieces)
_register("prelu", _prelu)
_register("pad", _pad)
_register("adaptive_avg_pool2d", _adaptive_avg_pool)
_register("dropout dropout2d", _dropout)
HANDLERS[torch.Tensor.to] = HANDLERS[torch.Tensor.type] = _to
HANDLERS[torch.Tensor.__getitem__] = _getitem
HANDLERS[torch.Tensor.contiguous] = _contiguous
HANDLERS[F.batch_norm] = _batch_norm  # torch.batch_norm orders its arguments otherwise
