"""The generic route of the Jacobian operators: backward passes one by one, under a memory budget.

Right for every model. Rows are written where they stay; nothing is concatenated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from supertickets_ext._jacobian_problem import Problem

Rows = Callable[[int, int], Tensor]


def loop_gram(problem: Problem, x: Tensor, other: Tensor | None, block: bool) -> Tensor:
    """Gram matrix ``[N1 Q, N2 Q]`` in float64; Q is 1, or C for ``block``.

    Where ``N Q`` rows do not fit the budget, blocks of rows meet pair by pair and are computed
    again for each pair.
    """
    with problem.forward() as (logits, leaves):
        one = _rows(problem, logits, x, list(leaves.values()), block)
        two = one if other is None else _rows(problem, logits, other, list(leaves.values()), block)
        return _pairs(problem, one, two)


class _RowSource:
    """Rows of a Jacobian by number."""

    def __init__(self, count: int, width: int, like: Tensor, rows: Rows) -> None:
        self.count, self.width, self.rows = count, width, rows
        self.dtype, self.device = like.dtype, like.device


def _rows(
    problem: Problem,
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    leaves: Sequence[Tensor],
    block: bool,
) -> _RowSource:
    width = sum(leaf.numel() for leaf in leaves)
    together = logits(x) if problem.coupled else None
    classes = (logits(x[:1]) if together is None else together).shape[1]
    outputs = classes if block else 1

    def rows(begin: int, end: int) -> Tensor:
        out = x.new_empty(end - begin, width)
        single: Tensor | None = None
        for r in range(begin, end):
            sample, output = divmod(r, outputs)
            if together is not None:
                values = together[sample]
            else:
                if single is None or output == 0:
                    single = logits(x[sample : sample + 1])
                values = single[0]
            write_row(out[r - begin], values[output] if block else values.sum(), leaves)
        return out

    return _RowSource(len(x) * outputs, width, x, rows)


def write_row(row: Tensor, output: Tensor, leaves: Sequence[Tensor]) -> None:
    """Put the gradient of one number into a row."""
    grads: Sequence[Tensor | None] = [None] * len(leaves)
    if output.requires_grad:
        grads = torch.autograd.grad(output, leaves, retain_graph=True, allow_unused=True)
    parts = row.split([leaf.numel() for leaf in leaves])
    for part, leaf, grad in zip(parts, leaves, grads, strict=True):
        if grad is None:
            part.zero_()
        else:
            part.view(leaf.shape).copy_(grad)


def _pairs(problem: Problem, one: _RowSource, two: _RowSource) -> Tensor:
    same = one is two
    bytes_each = max(1, one.width * one.dtype.itemsize)
    fit = max(1, problem.budget // bytes_each)
    gram = torch.empty(one.count, two.count, dtype=torch.float64, device=one.device)
    if one.count + (0 if same else two.count) <= fit:
        first = one.rows(0, one.count)
        second = first if same else two.rows(0, two.count)
        return inner_products(first, second)
    size = max(1, fit // 2)
    for i in range(0, one.count, size):
        first = one.rows(i, min(i + size, one.count))
        for j in range(i if same else 0, two.count, size):
            second = first if same and i == j else two.rows(j, min(j + size, two.count))
            products = inner_products(first, second)
            gram[i : i + size, j : j + size] = products
            if same:
                gram[j : j + size, i : i + size] = products.T
    return gram


_COLUMNS = 1 << 14  # of a product that is summed in the rows' own precision


def inner_products(one: Tensor, two: Tensor) -> Tensor:
    """``one @ two.T`` in float64, from products of a few thousand columns each."""
    if one.dtype == torch.float64:
        return one @ two.T
    gram = torch.zeros(len(one), len(two), dtype=torch.float64, device=one.device)
    for begin in range(0, one.shape[1], _COLUMNS):
        gram += one[:, begin : begin + _COLUMNS] @ two[:, begin : begin + _COLUMNS].T
    return gram
