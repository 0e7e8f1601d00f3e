"""The batch-inner layout: conversion there and back, and the tensor-like object that keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.utils._pytree import tree_map

from supertickets_ext._library import LIBRARY as LIBRARY
from supertickets_ext._library import check_device

_ops = torch.ops.supertickets
LANES = 16  # images side by side

# func -> handler(func, *args, **kwargs); a handler returns NotImplemented for what it cannot do
HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {}

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FORMATS = (torch.contiguous_format, torch.channels_last)
_LEFT: Counter[str] = Counter()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# answered by the lanes as they are
_SAME_IN_LANES = _words("""
    dtype device requires_grad grad_fn is_leaf is_cuda is_meta is_cpu layout itemsize is_sparse
    is_quantized is_floating_point is_complex element_size
""")
# these speak of one tensor's own memory or place in the graph, which a converted copy has not
_REFUSED = _words("""
    data data_ptr grad requires_grad_ retain_grad register_hook set_ resize_ storage
    register_post_accumulate_grad_hook untyped_storage share_memory_
""")
_OPERATORS = _words("""
    add radd sub rsub mul rmul truediv rtruediv floordiv mod pow rpow matmul rmatmul neg abs
    invert and or xor eq ne lt le gt ge bool float int iter getitem contains array
""")
_IN_PLACE_OPERATORS = _words("""
    iadd isub imul itruediv idiv ifloordiv imod ipow iand ior ixor setitem
""")


class LaneTensor:
    """A tensor ``[N, C, H, W]`` that is stored with 16 images side by side.

    It is no ``torch.Tensor``, but torch functions, methods and operators take it. Those that can
    work in lanes (batch norm, activations, arithmetic, pooling, concatenation of channels) return
    a LaneTensor; every other one converts to a dense tensor first, and ``left_lanes`` counts it.
    Autograd goes through. One thing differs from a tensor: a view, such as ``x[:, :4]``, is a
    copy, so changing the view in place leaves the LaneTensor as it is.

    Args:
        lanes: ``[ceil(N / 16), C, H, W, 16]``, contiguous; image ``n`` is lane ``n % 16`` of group
            ``n // 16``. Lanes without an image hold anything finite; their gradients are zero.
        batch: N.
        memory_format: Of the dense tensor that this stands for.

    Raises:
        ValueError: ``lanes`` is no such shape.
    """

    __slots__ = ("batch", "lanes", "memory_format")

    def __init__(
        self,
        lanes: Tensor,
        batch: int,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        if lanes.dim() != 5 or lanes.shape[4] != LANES or lanes.shape[0] != -(-batch // LANES):
            raise ValueError(
                f"LaneTensor: lanes must have shape [{-(-batch // LANES)}, C, H, W, {LANES}] for "
                f"a batch of {batch}, got {tuple(lanes.shape)}"
            )
        self.lanes = lanes
        self.batch = batch
        self.memory_format = memory_format

    def with_lanes(self, lanes: Tensor) -> LaneTensor:
        """Make a LaneTensor of other values for the same images."""
        return LaneTensor(lanes, self.batch, self.memory_format)

    def dense(self, memory_format: torch.memory_format | None = None) -> Tensor:
        """Convert to ``[N, C, H, W]``, by default in the memory format it had before."""
        return from_lanes(self, self.memory_format if memory_format is None else memory_format)

    @property
    def shape(self) -> torch.Size:
        """``[N, C, H, W]``."""
        return torch.Size((self.batch, *self.lanes.shape[1:4]))

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    def size(self, dim: int | None = None) -> torch.Size | int:
        """Give the shape, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Give the number of dimensions, 4."""
        return 4

    def numel(self) -> int:
        """Count the elements; lanes without an image are none."""
        return self.shape.numel()

    def __getattr__(self, name: str) -> Any:
        if name in _SAME_IN_LANES:
            return getattr(self.lanes, name)
        attribute = getattr(torch.Tensor, name, None)
        if attribute is None or name in _REFUSED or name.startswith("__"):
            raise AttributeError(f"LaneTensor: no attribute {name!r}; try .lanes or .dense()")
        if not callable(attribute):
            return getattr(_converted(self, name), name)
        return lambda *args, **kwargs: _dispatch(attribute, (self, *args), kwargs)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __len__(self) -> int:
        return self.batch

    def __repr__(self) -> str:
        return f"LaneTensor(shape={tuple(self.shape)}, dtype={self.lanes.dtype})"

    __hash__ = object.__hash__


def _operator(name: str) -> Callable[..., Any]:
    function = getattr(torch.Tensor, name)

    def call(self: LaneTensor, *args: Any, **kwargs: Any) -> Any:
        return _dispatch(function, (self, *args), kwargs)

    call.__name__ = name
    return call


for _name in sorted(_OPERATORS | _IN_PLACE_OPERATORS):
    setattr(LaneTensor, f"__{_name}__", _operator(f"__{_name}__"))


def _dispatch(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    handler = HANDLERS.get(func)
    result = NotImplemented if handler is None else handler(func, *args, **kwargs)
    return on_dense(func, args, kwargs) if result is NotImplemented else result


def on_dense(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call ``func`` with every LaneTensor converted; what it changes in place is carried back."""
    name = func.__name__
    seen: dict[int, Tensor] = {}

    def convert(value: Any) -> Any:
        if not isinstance(value, LaneTensor):
            return value
        if id(value) not in seen:
            seen[id(value)] = _converted(value, name)
        return seen[id(value)]

    dense_args, dense_kwargs = tree_map(convert, (args, dict(kwargs)))
    result = func(*dense_args, **dense_kwargs)
    if args and isinstance(args[0], LaneTensor) and changes_first(name, kwargs):
        changed = dense_args[0]
        args[0].lanes = to_lanes(changed).lanes
        return args[0] if result is changed else result
    return result


def changes_first(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether the function of this name changes its first argument in place."""
    if name.startswith("__"):
        return name[2:-2] in _IN_PLACE_OPERATORS
    return name.endswith("_") or bool(kwargs.get("inplace", False))


def _converted(x: LaneTensor, name: str) -> Tensor:
    _LEFT[name] += 1
    return x.dense()


def left_lanes(*, clear: bool = False) -> dict[str, int]:
    """Tell which functions converted a LaneTensor to a dense tensor, and how often.

    Args:
        clear: Start counting anew afterwards.

    Returns:
        Conversions since the last clearing by the function's name, most frequent first.
    """
    counts = dict(_LEFT.most_common())
    if clear:
        _LEFT.clear()
    return counts


def to_lanes(x: Tensor) -> LaneTensor:
    """Store images side by side; the gradient is ``from_lanes``.

    Args:
        x: ``[N, C, H, W]``, float32, bfloat16, float16 or float64, any strides.

    Returns:
        The same values; lanes without an image are zero.

    Raises:
        TypeError: ``x`` is no tensor, or of another dtype.
        ValueError: ``x`` has another number of dimensions or is where this build has no kernels.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"to_lanes: x must be a tensor, got {type(x).__name__}")
    if x.dim() != 4:
        raise ValueError(f"to_lanes: x must have 4 dimensions, got shape {tuple(x.shape)}")
    if x.dtype not in _FLOATS:
        raise TypeError(f"to_lanes: x must be float32, bfloat16, float16 or float64, got {x.dtype}")
    check_device("to_lanes", "x", x)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    lanes = _ToLanes.apply(x) if _derives() else _ops.to_lanes(x)
    return LaneTensor(lanes, x.shape[0], _FORMATS[last])


def from_lanes(x: LaneTensor, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    """Store images one after the other again; the gradient is ``to_lanes``.

    Args:
        x: Stands for ``[N, C, H, W]``.
        memory_format: Of the result, ``torch.channels_last`` or ``torch.contiguous_format``.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        TypeError: ``x`` is no LaneTensor.
        ValueError: Another memory format.
    """
    if not isinstance(x, LaneTensor):
        raise TypeError(f"from_lanes: x must be a LaneTensor, got {type(x).__name__}")
    if memory_format not in _FORMATS:
        raise ValueError(
            "from_lanes: memory_format must be torch.channels_last or torch.contiguous_format, "
            f"got {memory_format}"
        )
    last = memory_format == torch.channels_last
    convert = _FromLanes.apply if _derives() else _ops.from_lanes
    return convert(x.lanes, x.batch, last)


def _derives() -> bool:
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


class _ToLanes(Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _ops.to_lanes(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        ctx.batch = x.shape[0]
        ctx.last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _FromLanes.apply(grad, ctx.batch, ctx.last)


class _FromLanes(Function):
    @staticmethod
    def forward(lanes: Tensor, batch: int, channels_last: bool) -> Tensor:
        return _ops.from_lanes(lanes, batch, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _ToLanes.apply(grad), None, None
