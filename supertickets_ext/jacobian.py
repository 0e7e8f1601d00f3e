"""Empirical neural tangent kernels and products with a model's Jacobian: public functions.

Two kernels share the name; they differ much, and are never swapped:

- ``mode="coupled"``: batch norms use the statistics of the batch, so that the output of each sample
  is differentiated through the whole batch. It is what TE-NAS computes.
- ``mode="independent"``: the model runs in evaluation mode; samples do not see each other.

Dropout is off in both. The model is left as it was: mode, buffers, gradients, hooks, global RNG.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from supertickets_ext._jacobian_lanes import lanes_gram
from supertickets_ext._jacobian_layers import (
    coupled_gram,
    independent_gram,
    plan_coupled,
    plan_layers,
    takes_lanes,
)
from supertickets_ext._jacobian_loop import loop_gram
from supertickets_ext._jacobian_problem import (
    Parameters,
    Problem,
    check_second_batch,
    problem,
)
from supertickets_ext._jacobian_products import jvp_columns, vjp_rows

__all__ = [
    "ConditionNumber",
    "batched_jvp",
    "batched_vjp",
    "condition_number",
    "ntk_cross",
    "ntk_gram",
]


class ConditionNumber(NamedTuple):
    """What :func:`condition_number` found."""

    value: float
    """Largest by smallest eigenvalue, at least 1; inf if the rank is deficient, NaN for NaN."""
    eigenvalues: Tensor
    """``[N]``, float64, ascending; NaN if the matrix holds NaN or infinity."""
    rank_deficient: bool
    """The smallest eigenvalue is not above rounding."""


def ntk_gram(
    model: nn.Module,
    x: Tensor,
    *,
    mode: str = "coupled",
    reduction: str = "sum",
    parameters: Parameters = "weights",
    memory_budget: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute the Gram matrix of per-sample gradients, without a Jacobian in memory.

    Args:
        model: Maps ``[N, ...]`` to logits ``[N, C]`` (further dimensions are flattened).
        x: ``[N, ...]``, float32 or float64, on the CPU.
        mode: ``"coupled"`` or ``"independent"``, see the head of this module.
        reduction: ``"sum"`` takes the gradient of each sample's summed logits; ``"block"`` of every
            logit.
        parameters: ``"weights"`` for those whose name ends in "weight" (convolutions, linear
            layers, norms' scales), ``"all"``, or a function ``(name, parameter) -> bool``. Only
            parameters that require a gradient count.
        memory_budget: Bytes for intermediate rows; None for a quarter of the machine's memory.
        dtype: Of the result; None for x's. Sums are accumulated in float64, so
            ``torch.float64`` gives more of a matrix of large condition number.

    Returns:
        ``[N, N]``, or ``[N, N, C, C]`` with ``[i, j, a, b]`` the inner product of the gradients of
        logit a of sample i and logit b of sample j. Symmetric to the last bit.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument's value or the model's output does not fit.

    Source: TE-NAS, Chen et al. 2021 (arXiv 2102.11535); per-layer contractions, Novak et al. 2022.
    """
    given = problem("ntk_gram", model, x, mode, parameters, memory_budget, reduction)
    gram = _gram(given, x, None, reduction == "block")
    return _shaped(gram, len(x), len(x), dtype or x.dtype, reduction)


def ntk_cross(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor,
    *,
    mode: str = "coupled",
    reduction: str = "sum",
    parameters: Parameters = "weights",
    memory_budget: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute inner products of the gradients of two batches.

    Args:
        model: As for :func:`ntk_gram`.
        x1: ``[N1, ...]``; with ``mode="coupled"`` each batch has its own statistics.
        x2: ``[N2, ...]``, samples of x1's shape and dtype.
        mode: As for :func:`ntk_gram`.
        reduction: As for :func:`ntk_gram`.
        parameters: As for :func:`ntk_gram`.
        memory_budget: As for :func:`ntk_gram`.
        dtype: As for :func:`ntk_gram`.

    Returns:
        ``[N1, N2]``, or ``[N1, N2, C, C]`` for ``"block"``.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument's value or the model's output does not fit.
    """
    given = problem("ntk_cross", model, x1, mode, parameters, memory_budget, reduction)
    check_second_batch("ntk_cross", x1, x2)
    gram = _gram(given, x1, x2, reduction == "block")
    return _shaped(gram, len(x1), len(x2), dtype or x1.dtype, reduction)


def _gram(given: Problem, x: Tensor, other: Tensor | None, block: bool) -> Tensor:
    plan = (plan_coupled if given.coupled and other is None else plan_layers)(given, x)
    gram: Tensor | None = None
    if given.coupled:
        if other is None:
            gram = None if block or not takes_lanes(given, plan) else lanes_gram(
                plan.graph, given.names, x.dtype
            )  # fmt: skip
            if gram is None:
                gram = coupled_gram(given, plan, x, block)
    elif plan.direct:
        gram = independent_gram(given, plan, x, other, block)
        if gram is not None and plan.generic:
            gram += loop_gram(replace(given, names=tuple(plan.generic)), x, other, block)
    return loop_gram(given, x, other, block) if gram is None else gram


def _shaped(gram: Tensor, one: int, two: int, dtype: torch.dtype, reduction: str) -> Tensor:
    if reduction == "block":
        gram = gram.reshape(one, len(gram) // one, two, -1).permute(0, 2, 1, 3).contiguous()
    return gram.to(dtype)


def condition_number(gram: Tensor, *, row_dtype: torch.dtype | None = None) -> ConditionNumber:
    """Divide the largest eigenvalue of a Gram matrix by the smallest, in float64.

    Args:
        gram: ``[N, N]``, symmetric, floating point.
        row_dtype: What the rows behind a float64 matrix were computed in, such as float32: then
            eigenvalues below ``(N eps)^2`` of the largest are rounding too, with this dtype's eps.

    Returns:
        The quotient with the eigenvalues. Where the smallest is at most ``N eps`` of the largest,
        with eps of gram's dtype, the rank is deficient and the quotient infinite, never negative.
        A matrix with NaN or infinity gives NaN, which is no rank deficiency.

    Raises:
        TypeError: ``gram`` is no floating-point tensor.
        ValueError: ``gram`` is not square, or empty.
    """
    op = "condition_number"
    if not isinstance(gram, Tensor) or not gram.is_floating_point():
        given = gram.dtype if isinstance(gram, Tensor) else type(gram).__name__
        raise TypeError(f"{op}: gram must be a floating-point tensor, got {given}")
    if gram.dim() != 2 or gram.shape[0] != gram.shape[1] or len(gram) == 0:
        raise ValueError(f"{op}: gram must be square [N, N], got shape {tuple(gram.shape)}")
    matrix = gram.detach().double()
    n = len(matrix)
    if not bool(torch.isfinite(matrix).all()):
        return ConditionNumber(math.nan, matrix.new_full((n,), math.nan), False)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    rounding = n * torch.finfo(gram.dtype).eps
    if row_dtype is not None:
        rounding = max(rounding, (n * torch.finfo(row_dtype).eps) ** 2)
    smallest, largest = float(values[0]), float(values[-1])
    if smallest <= rounding * largest:
        return ConditionNumber(math.inf, values, True)
    return ConditionNumber(largest / smallest, values, False)


def batched_vjp(
    model: nn.Module,
    x: Tensor,
    cotangents: Tensor,
    *,
    mode: str = "coupled",
    parameters: Parameters = "weights",
    memory_budget: int | None = None,
) -> dict[str, Tensor]:
    """Multiply K vectors with a model's Jacobian from the left: K gradients of one forward pass.

    Args:
        model: As for :func:`ntk_gram`.
        x: ``[N, ...]``.
        cotangents: ``[K, N, C]``, of x's dtype.
        mode: As for :func:`ntk_gram`.
        parameters: As for :func:`ntk_gram`.
        memory_budget: As for :func:`ntk_gram`. Vectors run in chunks that fit it, if a first chunk
            takes less time a vector than one alone.

    Returns:
        By parameter name ``[K, *shape]``, the gradient of ``(cotangents[k] * model(x)).sum()``;
        zero for a parameter that the model did not use.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument's value or shape does not fit.
    """
    given = problem("batched_vjp", model, x, mode, parameters, memory_budget)
    return vjp_rows(given, x, cotangents, lambda out: _check_cotangents(cotangents, out))


def _check_cotangents(cotangents: Tensor, out: Tensor) -> None:
    if cotangents.dtype != out.dtype:
        raise TypeError(
            f"batched_vjp: cotangents must have x's dtype {out.dtype}, got {cotangents.dtype}"
        )
    if cotangents.dim() != 3 or cotangents.shape[1:] != out.shape:
        raise ValueError(
            f"batched_vjp: cotangents must be [K, {out.shape[0]}, {out.shape[1]}], "
            f"got shape {tuple(cotangents.shape)}"
        )


def batched_jvp(
    model: nn.Module,
    x: Tensor,
    tangents: dict[str, Tensor],
    *,
    mode: str = "coupled",
    memory_budget: int | None = None,
) -> Tensor:
    """Multiply a model's Jacobian with K vectors: derivatives along K directions of the weights.

    Args:
        model: As for :func:`ntk_gram`.
        x: ``[N, ...]``.
        tangents: By parameter name ``[K, *shape]``; other parameters stand still.
        mode: As for :func:`ntk_gram`.
        memory_budget: As for :func:`batched_vjp`.

    Returns:
        ``[K, N, C]``.

    Raises:
        TypeError: An argument is of another type.
        ValueError: A name is unknown, or a shape does not fit.
    """
    given = problem("batched_jvp", model, x, mode, "all", memory_budget)
    count = _check_tangents(dict(model.named_parameters()), tangents)
    return jvp_columns(given, x, tangents, count)


def _check_tangents(named: dict[str, nn.Parameter], tangents: dict[str, Tensor]) -> int:
    op = "batched_jvp"
    if not isinstance(tangents, dict) or not tangents:
        raise TypeError(f"{op}: tangents must be a dict of tensors by parameter name")
    counts = {len(t) if t.dim() else -1 for t in tangents.values()}
    for name, tangent in tangents.items():
        if name not in named:
            raise ValueError(f"{op}: tangents must be named like parameters, got {name!r}")
        if tangent.shape[1:] != named[name].shape:
            raise ValueError(
                f"{op}: tangents[{name!r}] must be [K, {', '.join(map(str, named[name].shape))}], "
                f"got shape {tuple(tangent.shape)}"
            )
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"{op}: tangents must all hold the same number K >= 1, got {counts}")
    return counts.pop()
