"""The number of linear regions of a network that some samples fall into."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.library import register_fake
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._graph import gram_state, modules_of, spare_buffers
from supertickets_ext._library import has_cuda_kernel
from supertickets_ext._region_trace import RefusalError, Table
from supertickets_ext.activation_patterns import activation_patterns, count_patterns

_ops = torch.ops.supertickets

__all__ = ["RegionCounter", "count_regions", "regions_refusal"]


def count_regions(
    model: nn.Module,
    x: Tensor,
    *,
    batch: int | None = None,
    warn: bool = True,
    structure: Hashable = None,
) -> int:
    """Count the distinct activation patterns of samples, batch by batch.

    The number of distinct rows of :func:`supertickets_ext.activation_patterns` over all batches. A
    small network (values of at most 512 numbers a sample) of convolutions, batch norms, pools,
    sums and ReLUs runs as one program with samples in the lanes; any other takes hooks, and
    :func:`regions_refusal` says why. The program adds in another order than torch, so that a
    pre-activation within rounding of zero may fall on the other side.

    Args:
        model: Takes one tensor; left as it was.
        x: ``[N, ...]``, on the CPU.
        batch: Samples whose statistics a batch norm takes together; None for all.
        warn: Warn (``SaturationWarning``) if every sample has a pattern of its own.
        structure: Names what the model runs at present, such as the operators that are switched
            on. While it and the model are the same, the program is made once; weights are read
            at every call. None: the program is made anew.

    Returns:
        Number of linear regions met.

    Raises:
        ValueError: ``batch`` is below 1, or no ReLU with a 4-D input ran.
        TypeError: A ReLU ran on a dtype that is not floating point.

    Source: Chen et al. 2021, TE-NAS (arXiv 2102.11535), section 3.2.
    """
    size = _batch_size("count_regions", x, batch)
    try:
        if structure is None:
            patterns = _traced(model, x).patterns(x, size)
        else:
            patterns = _known_program(model, x, structure).patterns(x, size)
    except RefusalError:
        patterns = torch.cat([activation_patterns(model, part) for part in x.split(size)])
    return count_patterns(patterns, warn=warn)


class RegionCounter:
    """Counts regions of one small network again and again: its program is made once.

    Weights are read at every call, so that they may be drawn anew in place. The structure may not
    change: switch an operator on or off, and a new counter is needed.

    Args:
        model: As for :func:`count_regions`.
        x: A batch like those to come, ``[N, C, H, W]``; its values do not matter.

    Raises:
        ValueError: The network has no such program, or reads weights that are no parameters or
            do not lie in order; :func:`count_regions` takes any.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        try:
            self._program = _program(model, _traced(model, x))
        except RefusalError as refusal:
            raise ValueError(f"RegionCounter: model must be a small network, {refusal}") from None
        if not self._program.lasts:
            raise ValueError(
                "RegionCounter: model must read its own contiguous parameters, got a weight that "
                "was computed or copied"
            )

    def __call__(self, x: Tensor, *, batch: int | None = None, warn: bool = True) -> int:
        """Count the regions of samples; see :func:`count_regions`.

        Raises:
            ValueError: A parameter was replaced, or a module was given hooks.
        """
        size = _batch_size("RegionCounter", x, batch)
        if not self._program.holds():
            raise ValueError(
                "RegionCounter: model must stay as it was, got another parameter or a hook; make "
                "a new counter"
            )
        return count_patterns(self._program.patterns(x, size), warn=warn)


class _Program(NamedTuple):
    """The operator's arguments, and what they are good for.

    It refers to stores of modules, never to modules: it may be kept as long as its model lives.
    """

    arguments: tuple[Any, ...]
    lasts: bool
    """It reads parameters themselves, no copies."""
    owners: Sequence[tuple[Mapping[str, Any], str, Tensor]]
    hooks: Sequence[Mapping[int, Any]]

    def holds(self) -> bool:
        """Whether the parameters are those that it reads, and no hook wants to run."""
        return all(store.get(name) is t for store, name, t in self.owners) and not any(self.hooks)

    def patterns(self, x: Tensor, batch: int) -> Tensor:
        """As of a `Table`."""
        out: Tensor = _ops.region_patterns(*self.arguments, x, batch)
        return out


def _program(model: nn.Module, table: Table) -> _Program:
    modules = modules_of(model)
    places = {
        id(parameter): (module._parameters, name, parameter)
        for module in modules
        if module._parameters
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    owners = [places[id(t)] for t in table.tensors if id(t) in places]
    hooks = [store for m in modules for store in (m._forward_hooks, m._forward_pre_hooks)]
    return _Program(table.arguments(), len(owners) == len(table.tensors), owners, hooks)


_MOST_PROGRAMS = 256  # of a model; a round of a search asks for dozens of structures in turn
_programs: WeakKeyDictionary[nn.Module, dict[Hashable, _Program]] = WeakKeyDictionary()


def _known_program(model: nn.Module, x: Tensor, structure: Hashable) -> _Program:
    _check_input(x)
    known = _programs.setdefault(model, {})
    key = (structure, x.shape[1:], x.device)
    program = known.get(key)
    if program is not None and program.holds():
        return program
    program = _program(model, _traced(model, x))
    if program.lasts:
        known[key] = program
        if len(known) > _MOST_PROGRAMS:
            del known[next(iter(known))]
    return program


def regions_refusal(model: nn.Module, x: Tensor) -> str | None:
    """Say why :func:`count_regions` takes hooks for a model; None if it does not."""
    try:
        _traced(model, x)
    except RefusalError as refusal:
        return str(refusal)
    return None


def _batch_size(op: str, x: Tensor, batch: int | None) -> int:
    size = len(x) if batch is None else batch
    if size < 1:
        raise ValueError(f"{op}: batch must be at least 1, got {size}")
    return size


def _check_input(x: Tensor) -> None:
    if x.dtype != torch.float32 or x.dim() != 4:
        raise RefusalError("the input is not float32 [N, C, H, W]")
    if x.device.type != "cpu" and not (x.is_cuda and has_cuda_kernel("region_patterns")):
        raise RefusalError(f"no kernel for an input on {x.device}")


def _traced(model: nn.Module, x: Tensor) -> Table:
    _check_input(x)
    modules = modules_of(model)
    if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
        raise RefusalError("a module has hooks")
    table = Table(tuple(x.shape), x.device)
    with ExitStack() as stack:
        stack.enter_context(gram_state(model, True, modules))
        stack.enter_context(spare_buffers(modules))
        stack.enter_context(torch.no_grad())
        try:
            model(table.input())
        except RefusalError:
            raise
        except (TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise RefusalError(f"does not run on symbols: {error}") from error
    if not table.bits:
        raise RefusalError("no ReLU on a map")
    return table


@register_fake("supertickets::region_patterns")
def _fake(nodes: Tensor, links: Tensor, scales: Tensor, tensors: list[Tensor], x: Tensor,
          batch: int) -> Tensor:  # fmt: skip
    words = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty((x.shape[0], words), dtype=torch.int64)


def _no_flops(*_: object, **__: object) -> int:
    """The table's values are not known to the counter."""
    return 0


register_flop_formula(torch.ops.supertickets.region_patterns)(_no_flops)
