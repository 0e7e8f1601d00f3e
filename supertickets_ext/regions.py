"""The number of linear regions of a network that some samples fall into."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.library import register_fake
from torch.utils.flop_counter import register_flop_formula

from supertickets_ext._graph import gram_state, modules_of, spare_buffers
from supertickets_ext._region_trace import RefusalError, Table
from supertickets_ext.activation_patterns import activation_patterns, count_patterns

__all__ = ["RegionCounter", "count_regions", "regions_refusal"]


def count_regions(
    model: nn.Module, x: Tensor, *, batch: int | None = None, warn: bool = True
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

    Returns:
        Number of linear regions met.

    Raises:
        ValueError: ``batch`` is below 1, or no ReLU with a 4-D input ran.
        TypeError: A ReLU ran on a dtype that is not floating point.

    Source: Chen et al. 2021, TE-NAS (arXiv 2102.11535), section 3.2.
    """
    size = _batch_size("count_regions", x, batch)
    try:
        patterns = _traced(model, x).patterns(x, size)
    except RefusalError:
        patterns = torch.cat([activation_patterns(model, part) for part in x.split(size)])
    return count_patterns(patterns, warn=warn)


class RegionCounter:
    """Counts regions of one small network again and again: its program is made once.

    Weights are read at every call, so that they may be drawn anew in place. The structure may not
    change: switch an operator on or off, replace a parameter, and a new counter is needed.

    Args:
        model: As for :func:`count_regions`.
        x: A batch like those to come, ``[N, C, H, W]``; its values do not matter.

    Raises:
        ValueError: The network has no such program; :func:`count_regions` takes any.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        try:
            self._arguments = _traced(model, x).arguments()
        except RefusalError as refusal:
            raise ValueError(f"RegionCounter: model must be a small network, {refusal}") from None

    def __call__(self, x: Tensor, *, batch: int | None = None, warn: bool = True) -> int:
        """Count the regions of samples; see :func:`count_regions`."""
        size = _batch_size("RegionCounter", x, batch)
        patterns = torch.ops.supertickets.region_patterns(*self._arguments, x, size)
        return count_patterns(patterns, warn=warn)


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


def _traced(model: nn.Module, x: Tensor) -> Table:
    if x.dtype != torch.float32 or x.dim() != 4 or x.device.type != "cpu":
        raise RefusalError("the input is not float32 [N, C, H, W] on the CPU")
    modules = modules_of(model)
    if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
        raise RefusalError("a module has hooks")
    table = Table(tuple(x.shape))
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
