"""Replaces, in a model with pruned weights, what sparse kernels compute faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from supertickets_ext._sparsify_copy import plain_copy, set_masks
from supertickets_ext._sparsify_layouts import apply_dense, apply_layouts, choose_layouts
from supertickets_ext._sparsify_measure import measure
from supertickets_ext._sparsify_table import SparsifyRow, SparsifyTable, row_of, unmeasured_row
from supertickets_ext._sparsify_trace import is_plain_conv, is_sparse
from supertickets_ext._timing import race

__all__ = ["SparsifyRow", "SparsifyTable", "sparsify"]

_BUDGET_S = 0.5
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 3e-1}
"""Norm of the difference over the norm: sums in another order, amplified by a deep network. Two
bfloat16 runs of ResNet-50 differ by 0.17, results of a wrong layout by about 1."""


def sparsify(
    model: nn.Module,
    example: Any,
    *,
    mask_from: str | Mapping[str, Tensor] = "zeros",
    verbose: bool = True,
) -> nn.Module:
    """Return a faster copy of a pruned model, for inference.

    Batch norm, residual sums and ReLU are fused into the convolutions; each convolution is timed
    dense and sparse in the layouts it could run in, and the layouts of the whole graph are chosen
    such that the times of all calls and conversions together are least. The result computes the
    same to rounding, which is checked on the example; it takes other batch and image sizes too, but
    the choices are best for the example's and for the present number of threads.

    Args:
        model: Any module; not changed. Pruned by zeros in its weights, ``MaskedConv2d`` or
            ``torch.nn.utils.prune``.
        example: Its input, or a tuple of its inputs, of the sizes to be fast at.
        mask_from: ``"zeros"``, or masks by the name of the weight, set to zero first.
        verbose: Print the table.

    Returns:
        The new model in evaluation mode, whose attribute ``table`` lists each convolution.

    Raises:
        ValueError: ``mask_from`` is unknown, or names what the model has not.
        TypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"sparsify: model must be nn.Module, got {type(model).__name__}")
    inputs = _cloned(example if isinstance(example, tuple) else (example,))
    with torch.no_grad():
        plain = plain_copy(model, inputs)
        set_masks(plain, mask_from)
        result, table = _Rewriter().run(plain, inputs)
    result.eval()
    result.table = table  # type: ignore[assignment]
    if verbose:
        print(table)
    return result


# --- rewriting ----------------------------------------------------------------------------------


class _Rewriter:
    """Replaces modules from the outside in, and keeps a row for every convolution."""

    def __init__(self) -> None:
        self._rows: dict[str, SparsifyRow] = {}
        self._times: dict[str, float] = {}

    def run(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, SparsifyTable]:
        """Rewrite a whole model, which may itself be changed."""
        convs = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        left = {name: unmeasured_row(name, conv) for name, conv in convs}
        before = copy.deepcopy(model)
        result = self._rewrite(model, inputs, "")
        table = SparsifyTable(self._rows.get(name, row) for name, row in left.items())
        if not self._times and any(not row.route.startswith("dense") for row in table):
            calls = {"before": lambda: before(*inputs), "now": lambda: result(*inputs)}
            self._times = race(calls, _BUDGET_S)
        table.times_us = self._times
        return result, table

    def _rewrite(self, module: nn.Module, inputs: tuple[Any, ...], name: str) -> nn.Module:
        """Give what replaces a module: the module itself, perhaps changed inside, or another."""
        if not any(is_sparse(m) for m in module.modules()):
            return module
        if is_plain_conv(module):
            result = self._rewrite_graph(nn.Sequential(module), inputs, lambda _: name)
            return module if result is None else result
        start = f"{name}." if name else ""
        result = self._rewrite_graph(module, inputs, lambda target: start + target)
        if result is None:
            self._rewrite_children(module, inputs, start)
            return module
        return result

    def _rewrite_graph(
        self, module: nn.Module, inputs: tuple[Any, ...], full_name: Callable[[str], str]
    ) -> nn.Module | None:
        """Rewrite as a graph; None if that cannot be, or computes something else."""
        measured = measure(module, inputs)
        if measured is None:
            return None
        choose_layouts(measured)
        graphs: dict[str, nn.Module] = {"before": module, "dense": apply_dense(measured)}
        if any(call.is_sparse for call in measured.units.values()):
            graphs["sparse"] = apply_layouts(measured)
        expected = _run(module, inputs)
        if not all(_agrees(expected, graph, inputs) for graph in graphs.values()):
            return None
        times = race({n: _caller(graph, inputs) for n, graph in graphs.items()}, _BUDGET_S)
        best = min(times, key=lambda name: times[name])
        for target, call in measured.units.items():
            name = full_name(measured.names[target])
            self._rows[name] = row_of(name, call, best == "sparse")
        if full_name("") == "":
            self._times = {**times, "now": times[best]}
        for target, (inner, arguments) in measured.opaque.items():
            new = self._rewrite(inner, arguments, full_name(target))
            graphs[best].set_submodule(target, new)
        return graphs[best]

    def _rewrite_children(self, module: nn.Module, inputs: tuple[Any, ...], start: str) -> None:
        """Rewrite each part that is called by itself; put back what the module needs as it was."""
        expected = _run(module, inputs)
        arguments = _arguments_inside(module, inputs)
        for name, child in list(_outermost(module, arguments)):
            rows = dict(self._rows)
            kept = copy.deepcopy(child)
            module.set_submodule(name, self._rewrite(child, arguments[child], start + name))
            if not _agrees(expected, module, inputs):
                module.set_submodule(name, kept)
                self._rows = rows


def _caller(module: nn.Module, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: module(*inputs)


def _run(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Call a module on copies, which it may change."""
    return module(*_cloned(inputs))


def _cloned(inputs: Any) -> Any:
    return tree_map(lambda i: i.clone() if isinstance(i, Tensor) else i, inputs)


def _agrees(expected: Any, module: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether a module runs and gives what is expected, to rounding."""
    try:
        leaves = tree_leaves(_run(module, inputs))
    except Exception:  # a model's own code may read what a replaced module has not
        return False
    wanted = tree_leaves(expected)
    return len(leaves) == len(wanted) and all(map(_close, leaves, wanted))


def _close(given: Any, expected: Any) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(given, Tensor):
        return type(given) is type(expected)
    if given.shape != expected.shape or given.dtype != expected.dtype:
        return False
    if expected.dtype not in _TOLERANCE:
        return bool(torch.equal(given, expected))
    difference = torch.linalg.vector_norm((given - expected).double())
    return float(difference) <= _TOLERANCE[expected.dtype] * float(
        torch.linalg.vector_norm(expected.double())
    )


def _arguments_inside(
    module: nn.Module, inputs: tuple[Any, ...]
) -> dict[nn.Module, tuple[Any, ...]]:
    """The arguments of the first call of every module inside that takes positional ones only."""
    arguments: dict[nn.Module, tuple[Any, ...]] = {}

    def keep(inner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not kwargs:
            arguments.setdefault(inner, args)

    hooks = [
        inner.register_forward_pre_hook(keep, with_kwargs=True)
        for inner in module.modules()
        if inner is not module and any(is_sparse(m) for m in inner.modules())
    ]
    try:
        _run(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return arguments


def _outermost(
    module: nn.Module, arguments: Mapping[nn.Module, Any], start: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose arguments are known, not those inside of them; by name."""
    for name, child in module.named_children():
        if child in arguments:
            yield start + name, child
        else:
            yield from _outermost(child, arguments, f"{start}{name}.")
