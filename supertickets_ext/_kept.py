"""What is kept from call to call of a mask, and of a weight under it.

Patterns (which weights a mask keeps, in the kernels' order) are only hints: the operators compare
them with the mask and do not use one of another mask. Packed and masked weights, which are kept
for calls without gradients, are used as they are; they are tied to the very tensors, their version
counters and their memory. Writes through ``weight.data`` or ``mask.data`` change none of these:
``forget`` is for them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from supertickets_ext._conv_options import ConvOptions

if TYPE_CHECKING:
    from supertickets_ext._route import Route
    from supertickets_ext._structure import MaskStructure

_ops = torch.ops.supertickets
_BATCH = 8  # from this batch on, kernels read packed weights that are laid out for lanes
_MOST = 8  # patterns or prepared weights of one mask: sizes of map, passes, kinds of batch
_T = TypeVar("_T")


class State:
    """One tensor in one version; holds its memory, so that no other tensor can take its place.

    Inference tensors count no versions: of them only the memory is told apart.
    """

    __slots__ = ("_alias", "_counts", "_pointer", "_stride", "_tensor", "_version")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)
        self._counts = not tensor.is_inference()
        self._version = tensor._version if self._counts else 0
        self._alias = tensor.detach()
        self._pointer = tensor.data_ptr()
        self._stride = tensor.stride()

    def is_of(self, tensor: Tensor) -> bool:
        """Whether it is this tensor, unchanged."""
        return (
            self._tensor() is tensor
            and (not self._counts or self._version == tensor._version)
            and self._pointer == tensor.data_ptr()
            and self._stride == tensor.stride()
        )


def has_state(tensor: Any) -> bool:
    """Whether changes of a tensor show: not those of inference tensors or of shared memory."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type in ("cpu", "cuda")
        and not tensor.is_inference()
        and (tensor.is_cuda or not tensor.is_shared())
    )


def is_captured() -> bool:
    """Whether the current CUDA stream records a graph: it must not hold what is kept for others."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class Kept:
    """What is known of one mask tensor in one version."""

    __slots__ = (
        "asked",
        "mask",
        "patterns",
        "prepared",
        "routes",
        "seen",
        "structures",
        "version",
    )

    def __init__(self, mask: Tensor) -> None:
        number = id(mask)
        self.mask = weakref.ref(mask, lambda _: _kept.pop(number, None))
        self.version = None if mask.is_inference() else mask._version
        self.structures: dict[int, MaskStructure] = {}
        self.routes: dict[tuple[Any, ...], Route] = {}
        self.seen: Tensor | None = None  # a copy, where a route is right for this very mask only
        self.patterns: dict[tuple[Any, ...], Tensor] = {}
        self.asked: set[tuple[Any, ...]] = set()
        # Of weight and mask in these states, by kind; in one piece, for other threads may come in
        # between with another weight.
        self.prepared: tuple[State, State, dict[Any, Any]] | None = None


_kept: dict[int, Kept] = {}


def is_traced() -> bool:
    """Whether a call is recorded or transformed rather than simply computed."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    )


def is_plain() -> bool:
    """Whether nothing stands between a call and the kernels: what is kept may be used."""
    return not (
        is_traced()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or is_captured()
    )


def kept_of(mask: Tensor) -> Kept | None:
    """What is known of a mask; None if it is of a kind of which nothing is remembered."""
    kept = _kept.get(id(mask))
    if kept is None or kept.mask() is not mask or not _is_current(kept, mask):
        if type(mask) not in (Tensor, nn.Parameter) or is_traced():
            return None
        kept = _kept[id(mask)] = Kept(mask)
    return kept


def _is_current(kept: Kept, mask: Tensor) -> bool:
    return not mask.is_inference() and kept.version == mask._version


def forget(mask: Tensor) -> None:
    """Drop all that is kept of a mask and of weights under it."""
    _kept.pop(id(mask), None)


def forget_all() -> None:
    """Drop all that is kept."""
    _kept.clear()


def _add(entries: dict[Any, Any], key: Any, value: Any) -> None:
    while len(entries) >= _MOST:
        entries.pop(next(iter(entries)), None)
    entries[key] = value


def _of_call(size: Sequence[int], options: ConvOptions) -> tuple[Any, ...]:
    """What packed weights depend on, besides the weights."""
    return (len(size), len(size) == 5 or size[0] >= _BATCH, size[2], size[3], options)


def kept_pattern(
    x_size: Sequence[int],
    weight: Tensor | None,
    mask: Tensor | None,
    options: ConvOptions,
    *,
    grad_input: bool = False,
) -> Tensor | None:
    """The pattern of a mask for a call with gradients; None if there is none (yet).

    Args:
        x_size: The input's.
        weight: Of the convolution; None where a pattern shall not be made.
        mask: Bool, of weight's shape.
        options: Normalised options.
        grad_input: For the input's gradient. Its pattern is made when it is asked for a second
            time, for a mask that changes at every step would not gain from it; that of the forward
            pass serves the gradient of the weight too and is made at once.

    Returns:
        For the operators' ``pattern``.
    """
    if torch.compiler.is_compiling() or mask is None or not is_plain():
        return None
    if mask.device.type != "cpu":  # the rows of taps are gathered in microseconds
        return None
    kept = kept_of(mask)
    if kept is None or 0 in x_size:
        return None
    key = (grad_input, *_of_call(x_size, options))
    pattern = kept.patterns.get(key)
    if pattern is not None or weight is None or weight.dtype == torch.float64:
        return pattern
    if grad_input and key not in kept.asked:
        kept.asked.add(key)
        return None
    with torch.inference_mode(False), torch.no_grad():
        pattern = _ops.masked_conv2d_pattern(weight, mask, x_size, *options, grad_input)
    _add(kept.patterns, key, pattern)
    return pattern


def prepared(weight: Tensor, mask: Tensor, key: Any, make: Callable[[], _T]) -> _T | None:
    """A value made of a weight and a mask, kept while neither changes.

    Args:
        weight: Whose values went into it.
        mask: The same.
        key: Which value.
        make: Makes it.

    Returns:
        The value; None where none may be kept, or where the weight has just changed: it may do so
        at every call.
    """
    if not is_plain() or not (has_state(weight) and has_state(mask)):
        return None
    kept = kept_of(mask)
    if kept is None:
        return None
    before = found = kept.prepared
    if found is None or not (found[0].is_of(weight) and found[1].is_of(mask)):
        found = kept.prepared = (State(weight), State(mask), {})
        if before is not None:
            return None
    values = found[2]
    value = values.get(key)
    if value is None:
        with torch.inference_mode(False), torch.no_grad():
            value = make()
        _add(values, key, value)
    return value


def kept_conv2d(
    x: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None, options: ConvOptions
) -> Tensor:
    """The sparse convolution without gradients, on kept packed weights where there may be some."""
    packed = None if mask is None else packed_weight(x.shape, weight, mask, options)
    if packed is not None:
        return _ops.masked_conv2d_packed(x, packed, weight.shape, bias, None, False, *options)
    pattern = kept_pattern(x.shape, weight, mask, options)
    return _ops.masked_conv2d(x, weight, mask, bias, *options, pattern)


def packed_weight(
    x_size: Sequence[int], weight: Tensor, mask: Tensor, options: ConvOptions
) -> Tensor | None:
    """The packed weight for inputs of a size, kept; None as for :func:`prepared`."""
    return prepared(
        weight,
        mask,
        (weight.dtype, *_of_call(x_size, options)),
        lambda: _ops.masked_conv2d_pack(weight, mask, x_size, *options),
    )
