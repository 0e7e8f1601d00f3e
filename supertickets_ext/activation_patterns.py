"""Which ReLUs are on, as packed bits: patterns, their number, their distances.

The results are integers, so nothing here is differentiable; inputs are read without gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.library import register_fake, register_vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._graph import gram_state
from supertickets_ext._library import LIBRARY as LIBRARY
from supertickets_ext._library import check_device

_ops = torch.ops.supertickets
_aten = torch.ops.aten
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class SaturationWarning(UserWarning):
    """Every sample has a pattern of its own: the count says nothing about the network."""


def activation_patterns(model: nn.Module, x: Tensor) -> Tensor:
    """Run ``model(x)`` and give the on/off pattern of all its ReLUs, packed as they run.

    Every ReLU whose input is 4-D counts, modules and ``F.relu`` alike, in order of execution; one
    that runs twice counts twice. Batch norms use the statistics of the batch, dropout is off. The
    model is left as it was: mode, buffers, gradients and hooks. A compiled model hides its ReLUs.

    Args:
        model: Takes one tensor.
        x: ``[N, ...]``, its input, on the CPU or, with CUDA kernels, a GPU.

    Returns:
        int64 ``[N, words]``. Bit ``b`` of a row is bit ``b % 64`` of its word ``b // 64``, set
        where the input of the ReLU is > 0 (not for NaN, 0.0 and -0.0). A ReLU on ``[N, C, H, W]``
        adds C * H * W bits in that order, right after those before it; bits past the last are zero.

    Raises:
        ValueError: No ReLU with a 4-D input ran, or one ran on another batch or device.
        TypeError: A ReLU ran on a dtype that is not floating point.

    Source: Chen et al. 2021, TE-NAS (arXiv 2102.11535), section 3.2.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    watch = _Watch(x.shape[0])
    with gram_state(model, coupled=True), torch.no_grad(), watch:
        functional_call(model, buffers, (x,))
    if watch.rows is None:
        raise ValueError("activation_patterns: model must run a ReLU on a 4-D input, got none")
    return watch.rows.finish()


def pack_signs(values: Tensor | Iterable[Tensor]) -> Tensor:
    """Pack ``values > 0`` into rows of bits.

    Args:
        values: ``[N, ...]`` float32, bfloat16, float16, float64 or bool, or several of the same N,
            which follow one another in each row; they are not concatenated.

    Returns:
        int64 ``[N, words]``, ``words = ceil(bits / 64)``; see :func:`activation_patterns`.

    Raises:
        ValueError: There is no tensor, or N differs.
        TypeError: The dtype does not fit.
    """
    tensors = [values] if isinstance(values, Tensor) else list(values)
    if not tensors:
        raise ValueError("pack_signs: values must hold at least one tensor, got none")
    for tensor in tensors:
        if tensor.dtype != torch.bool:
            _check_floats("pack_signs", tensor, " or bool")
        _check_shape("pack_signs", tensor, tensors[0].shape[:1])
    flat = [t.detach().reshape(t.shape[0], t.shape[1:].numel()) for t in tensors]
    words = -(-sum(t.shape[1] for t in flat) // 64)
    patterns = torch.zeros(flat[0].shape[0], words, dtype=torch.int64, device=flat[0].device)
    bit = 0
    for tensor in flat:
        _ops.pack_signs_(patterns, tensor, bit)
        bit += tensor.shape[1]
    return patterns


def count_patterns(patterns: Tensor, *, warn: bool = True) -> int:
    """Count the distinct rows, exactly: rows of equal hash are compared.

    Args:
        patterns: int64 ``[N, words]``.
        warn: Warn (:class:`SaturationWarning`) if all of more than one row differ.

    Returns:
        Number of distinct rows.

    Raises:
        ValueError: ``patterns`` is not 2-D, or its device has no kernel.
        TypeError: ``patterns`` is not int64.

    Source: Chen et al. 2021, TE-NAS (arXiv 2102.11535), section 3.2: linear regions.
    """
    _check_patterns("count_patterns", patterns)
    count = int(_ops.count_patterns(patterns))
    if warn and count == patterns.shape[0] > 1:
        warnings.warn(
            f"count_patterns: saturated, all {count} samples have patterns of their own "
            f"({patterns.shape[1] * 64} bits or fewer each); take more samples, smaller inputs or "
            "a thinner network",
            SaturationWarning,
            stacklevel=2,
        )
    return count


def hamming_gram(patterns: Tensor) -> Tensor:
    """Count the bits in which each two rows differ.

    Args:
        patterns: int64 ``[N, words]``.

    Returns:
        int32 ``[N, N]``, symmetric.

    Raises:
        ValueError: ``patterns`` is not 2-D, or its device has no kernel.
        TypeError: ``patterns`` is not int64.
    """
    _check_patterns("hamming_gram", patterns)
    return _ops.hamming_gram(patterns)


class _Rows:
    """Rows that grow: a buffer twice as wide whenever the bits do not fit."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self.bits = 0
        self.words = torch.zeros(batch, 8, dtype=torch.int64, device=device)

    def append(self, values: Tensor) -> None:
        neurons = values.shape[1:].numel()
        needed = -(-(self.bits + neurons) // 64)
        if needed > self.words.shape[1]:
            wider = self.words.new_zeros(self.words.shape[0], 2 * needed)
            wider[:, : self.words.shape[1]] = self.words
            self.words = wider
        _ops.pack_signs_(self.words, values.reshape(values.shape[0], neurons), self.bits)
        self.bits += neurons

    def finish(self) -> Tensor:
        return self.words[:, : -(-self.bits // 64)].contiguous()


class _Watch(TorchDispatchMode):
    """Packs the signs of what ReLUs read, below modules and functions."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.rows: _Rows | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket in (_aten.relu, _aten.relu_) and args[0].dim() == 4:
            _check_floats("activation_patterns", args[0])
            _check_shape("activation_patterns", args[0], torch.Size([self.batch]))
            self.rows = self.rows or _Rows(self.batch, args[0].device)
            self.rows.append(args[0])
        return func(*args, **(kwargs or {}))


def _check_floats(op: str, values: Tensor, more: str = "") -> None:
    if values.dtype not in _FLOATS:
        raise TypeError(
            f"{op}: values must be float32, bfloat16, float16, float64{more}, got {values.dtype}"
        )


def _check_shape(op: str, values: Tensor, batch: torch.Size) -> None:
    if values.dim() == 0 or values.shape[:1] != batch:
        raise ValueError(
            f"{op}: values must be [{', '.join(map(str, batch))}, ...], got {tuple(values.shape)}"
        )
    check_device(op, "values", values)


def _check_patterns(op: str, patterns: Tensor) -> None:
    if patterns.dtype != torch.int64:
        raise TypeError(f"{op}: patterns must be int64, got {patterns.dtype}")
    if patterns.dim() != 2:
        raise ValueError(f"{op}: patterns must be [N, words], got {tuple(patterns.shape)}")
    check_device(op, "patterns", patterns)


@register_fake("supertickets::pack_signs_")
def _fake_pack(patterns: Tensor, values: Tensor, bit: int) -> None:
    return None


@register_fake("supertickets::count_patterns")
def _fake_count(patterns: Tensor) -> Tensor:
    return patterns.new_empty(())


@register_fake("supertickets::hamming_gram")
def _fake_hamming(patterns: Tensor) -> Tensor:
    return patterns.new_empty((patterns.shape[0], patterns.shape[0]), dtype=torch.int32)


@register_vmap("supertickets::count_patterns")
def _vmap_count(info: Any, dims: tuple[Any, ...], patterns: Tensor) -> tuple[Tensor, int]:
    return torch.stack([_ops.count_patterns(p) for p in patterns.unbind(dims[0])]), 0


@register_vmap("supertickets::hamming_gram")
def _vmap_hamming(info: Any, dims: tuple[Any, ...], patterns: Tensor) -> tuple[Tensor, int]:
    return torch.stack([_ops.hamming_gram(p) for p in patterns.unbind(dims[0])]), 0


def _no_flops(*_: Any, **__: Any) -> int:
    """Bits are compared and counted; there is no floating-point arithmetic."""
    return 0


for _op in (_ops.pack_signs_, _ops.count_patterns, _ops.hamming_gram):
    register_flop_formula(_op)(_no_flops)
