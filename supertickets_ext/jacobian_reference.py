"""Plain-PyTorch twins of the Jacobian operators: one backward pass per sample or vector.

Nothing here is shared with the operators; `reference` exports the functions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

Parameters = str | Callable[[str, nn.Parameter], bool]


class ReferenceConditionNumber(NamedTuple):
    """The fields of ``supertickets_ext.ConditionNumber``."""

    value: float
    eigenvalues: Tensor
    rank_deficient: bool


def ntk_gram(
    model: nn.Module,
    x: Tensor,
    *,
    mode: str = "coupled",
    reduction: str = "sum",
    parameters: Parameters = "weights",
) -> Tensor:
    """Gram matrix of per-sample gradients, ``J J^T``.

    Args:
        model: Maps ``[N, ...]`` to logits ``[N, C]``.
        x: ``[N, ...]``.
        mode: ``"coupled"`` or ``"independent"``.
        reduction: ``"sum"`` or ``"block"``.
        parameters: ``"weights"``, ``"all"`` or a predicate of name and parameter.

    Returns:
        ``[N, N]``, or ``[N, N, C, C]`` for ``"block"``.

    Source: TE-NAS, Chen et al. 2021 (arXiv 2102.11535), section 3.1.1.
    """
    return ntk_cross(model, x, x, mode=mode, reduction=reduction, parameters=parameters)


def ntk_cross(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor,
    *,
    mode: str = "coupled",
    reduction: str = "sum",
    parameters: Parameters = "weights",
) -> Tensor:
    """Inner products of the gradients of two batches; arguments as in :func:`ntk_gram`.

    Returns:
        ``[N1, N2]``, or ``[N1, N2, C, C]``.
    """
    one, two = (_rows(model, x, mode, reduction, parameters) for x in (x1, x2))
    if reduction == "sum":
        return one.flatten(1) @ two.flatten(1).T
    return torch.einsum("iap,jbp->ijab", one, two)


def condition_number(gram: Tensor) -> ReferenceConditionNumber:
    """Largest by smallest eigenvalue; infinite where rounding leaves none of the smallest.

    Args:
        gram: ``[N, N]``, symmetric.

    Returns:
        Value, float64 eigenvalues in ascending order, and whether the rank is deficient.
    """
    if not torch.isfinite(gram).all():
        nothing = torch.full((len(gram),), math.nan, dtype=torch.float64)
        return ReferenceConditionNumber(math.nan, nothing, False)
    values = torch.linalg.eigvalsh(gram.double())
    deficient = bool(values[0] <= len(gram) * torch.finfo(gram.dtype).eps * values[-1])
    value = math.inf if deficient else float(values[-1] / values[0])
    return ReferenceConditionNumber(value, values, deficient)


def batched_vjp(
    model: nn.Module,
    x: Tensor,
    cotangents: Tensor,
    *,
    mode: str = "coupled",
    parameters: Parameters = "weights",
) -> dict[str, Tensor]:
    """Gradients of ``<cotangents[k], model(x)>`` for every k.

    Args:
        model: Maps ``[N, ...]`` to ``[N, C]``.
        x: ``[N, ...]``.
        cotangents: ``[K, N, C]``.
        mode: As in :func:`ntk_gram`.
        parameters: As in :func:`ntk_gram`.

    Returns:
        ``[K, *shape]`` by parameter name.
    """
    work = _prepared(model, mode)
    chosen = _chosen(work, parameters)
    out = work(x)
    rows = [
        torch.autograd.grad(
            out, list(chosen.values()), c, retain_graph=True, materialize_grads=True
        )
        for c in cotangents
    ]
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(chosen)}


def batched_jvp(
    model: nn.Module, x: Tensor, tangents: dict[str, Tensor], *, mode: str = "coupled"
) -> Tensor:
    """Derivatives of the logits along every direction of the parameters.

    Args:
        model: Maps ``[N, ...]`` to ``[N, C]``.
        x: ``[N, ...]``.
        tangents: ``[K, *shape]`` by parameter name; parameters without one stand still.
        mode: As in :func:`ntk_gram`.

    Returns:
        ``[K, N, C]``.
    """
    work = _prepared(model, mode)
    names = list(tangents)
    state = {name: p.detach() for name, p in work.named_parameters()}

    def logits(*moved: Tensor) -> Tensor:
        return torch.func.functional_call(
            work, {**state, **dict(zip(names, moved, strict=True))}, (x,)
        )

    points = tuple(state[name] for name in names)
    columns = [
        torch.autograd.functional.jvp(logits, points, tuple(tangents[name][k] for name in names))[1]
        for k in range(len(tangents[names[0]]))
    ]
    return torch.stack(columns)


def _prepared(model: nn.Module, mode: str) -> nn.Module:
    """A copy in the mode of the matrix, without dropout."""
    work = copy.deepcopy(model).train(mode == "coupled")
    for module in work.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return work


def _chosen(model: nn.Module, parameters: Parameters) -> dict[str, nn.Parameter]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if parameters == "all":
        return named
    if parameters == "weights":
        return {name: p for name, p in named.items() if name.endswith("weight")}
    assert callable(parameters)
    return {name: p for name, p in named.items() if parameters(name, p)}


def _rows(model: nn.Module, x: Tensor, mode: str, reduction: str, parameters: Parameters) -> Tensor:
    """Gradients ``[N, 1, P]`` of the summed logits, or ``[N, C, P]`` of each."""
    work = _prepared(model, mode)
    chosen = list(_chosen(work, parameters).values())
    rows = []
    together = work(x).reshape(len(x), -1) if mode == "coupled" else None
    for i in range(len(x)):
        logits = together[i] if together is not None else work(x[i : i + 1]).reshape(-1)
        outputs = logits.sum()[None] if reduction == "sum" else logits
        for output in outputs:
            grads = torch.autograd.grad(output, chosen, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows).reshape(len(x), -1, sum(p.numel() for p in chosen))
