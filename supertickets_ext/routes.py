"""Chooses, by measurement, what computes a masked convolution: sparse, dense or compact kernels.

Each choice is timed once on the real shape and kept, in the process and in a file of the user's
cache directory (``SUPERTICKETS_ROUTE_CACHE`` names another; empty keeps it in memory), so that
later runs on this machine take the same routes and repeat bit for bit.

The routes differ in rounding, and in one thing more: pruned weights meet infinite or NaN inputs as
zeros in a dense convolution, while the sparse kernels skip them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from supertickets_ext._conv_options import ConvOptions, conv_options
from supertickets_ext._kept import forget, forget_all, is_captured, is_traced, kept_of
from supertickets_ext._route import ROUTES, Route, layout_of, run_route
from supertickets_ext._route_cases import Case, by, decide, table
from supertickets_ext._structure import MaskStructure, mask_structure
from supertickets_ext._tables import aligned

__all__ = [
    "ROUTES",
    "MaskStructure",
    "Route",
    "RouteReport",
    "choose_route",
    "clear_routes",
    "explain",
    "layout_of",
    "mask_structure",
    "run_route",
]

_UNMEASURED = Route("sparse", "not measured: traced or empty, or on a device of another kind")
_CAPTURED = Route("dense", "not measured: a CUDA graph was captured; call once before")


def choose_route(
    x_size: Sequence[int],
    layout: str,
    weight: Tensor,
    mask: Tensor,
    options: ConvOptions,
    training: bool,
    *,
    scores: bool = False,
) -> Route:
    """Choose the fastest route for a masked convolution; the first call of a kind measures.

    A mask is looked at again when it changed in place; changes through ``mask.data`` are seen
    where the route would no longer be right.

    Args:
        x_size: ``(N, C, H, W)`` of the input.
        layout: Its layout, from :func:`layout_of`.
        weight: ``[O, C / groups, KH, KW]``.
        mask: Bool, of weight's shape.
        options: Normalised options.
        training: Time forward and backward; otherwise forward alone.
        scores: Whether the backward pass gives the straight-through gradient too.

    Returns:
        The route, for :func:`run_route`.
    """
    if torch.compiler.is_compiling():  # what is known is no part of a compiled program
        return _UNMEASURED
    known = kept_of(mask)
    if known is None:
        return _UNMEASURED
    threads = torch.get_num_threads()
    exact = torch.are_deterministic_algorithms_enabled()
    key = (x_size, layout, weight.dtype, options, training, scores, threads, exact)
    route = known.routes.get(key)
    if route is None:
        kind = mask.device.type
        if is_traced() or kind not in ("cpu", "cuda") or 0 in x_size or 0 in mask.shape:
            return _UNMEASURED
        if is_captured():
            return _CAPTURED
        structure = known.structures.get(options.groups)
        if structure is None:
            structure = known.structures[options.groups] = mask_structure(mask, options.groups)
        case = Case(tuple(x_size), layout, weight, mask, options, training, scores, structure)
        route = known.routes[key] = decide(case)
        if route.name == "compact" and known.seen is None:
            known.seen = mask.clone()
    elif route.name == "compact" and not (known.seen is not None and known.seen.equal(mask)):
        forget(mask)  # it was written past its version counter
        return choose_route(x_size, layout, weight, mask, options, training, scores=scores)
    return route


def clear_routes() -> None:
    """Forget every measured time of this machine, in the process and in the cache file.

    What is kept of masks and weights goes too.
    """
    forget_all()
    table.clear()


@dataclass(frozen=True)
class RouteRow:
    """One masked convolution of a report."""

    layer: str
    x_size: tuple[int, ...]
    layout: str
    structure: MaskStructure
    route: Route


@dataclass(frozen=True)
class RouteReport:
    """What :func:`explain` found; printing it gives a table."""

    rows: tuple[RouteRow, ...]
    training: bool

    def __str__(self) -> str:
        if not self.rows:
            return "no masked convolution was called"
        names = ("dense", "sparse", "compact")
        head = ("layer", "input", "layout", "density", "structure")
        lines = [(*head, *(f"{n} us" for n in names), "route", "why")]
        for row in self.rows:
            times = (row.route.times_us.get(name) for name in names)
            lines.append(
                (
                    row.layer or "(itself)",
                    by(row.x_size),
                    row.layout,
                    f"{row.structure.density:.3f}",
                    str(row.structure),
                    *("-" if t is None else f"{t:.0f}" for t in times),
                    row.route.name,
                    row.route.reason,
                )
            )
        timed = "forward and backward" if self.training else "forward"
        return f"{aligned(lines)}\n({timed}, {torch.get_num_threads()} threads)"


def explain(module: nn.Module, example: Any, *, training: bool = False) -> RouteReport:
    """Say which route every masked convolution of a model takes for an input, and why.

    Runs the model once in evaluation mode to see the inputs of its layers; measures what has not
    been measured.

    Args:
        module: A ``MaskedConv2d``, or any module that holds some.
        example: The model's input, or a tuple of its inputs.
        training: Report the routes of training, chosen by forward and backward time.

    Returns:
        A report; ``print`` it.
    """
    seen: list[tuple[str, nn.Conv2d, Any]] = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda m, inputs, name=name: seen.append((name, m, inputs[0]))
        )
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and isinstance(getattr(layer, "mask", None), Tensor)
    ]
    modes = {m: m.training for m in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for hook in hooks:
            hook.remove()
        for m, mode in modes.items():
            m.training = mode
    return RouteReport(tuple(_row(*entry, training) for entry in seen), training)


def _row(name: str, layer: nn.Conv2d, x: Any, training: bool) -> RouteRow:
    if layer.padding_mode == "zeros":
        size, padding = list(x.shape), layer.padding
    else:  # the layer pads by itself, before the convolution
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        size, padding = list(x.shape), (0, 0)
        size[-1] += left + right
        size[-2] += top + bottom
    x_size = (1, *size) if len(size) == 3 else tuple(size)
    kernel = (layer.weight.shape[2], layer.weight.shape[3])
    options = conv_options("explain", kernel, layer.stride, padding, layer.dilation, layer.groups)
    mask: Tensor = layer.get_buffer("mask")
    layout = layout_of(x)
    forced = ROUTES.get(getattr(layer, "route", "auto"))
    scores = getattr(layer, "scores", None) is not None
    route = forced or choose_route(
        x_size, layout, layer.weight, mask, options, training, scores=scores
    )
    return RouteRow(name, x_size, layout, mask_structure(mask, layer.groups), route)
