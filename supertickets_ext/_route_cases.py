"""One kind of convolution whose routes are timed: what its times depend on, and the timing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from supertickets_ext._conv_options import ConvOptions
from supertickets_ext._route import Route, prepared_call, run_route
from supertickets_ext._route_table import RouteTable, Times
from supertickets_ext._structure import MaskStructure, Part
from supertickets_ext._timing import race

NOISE = 0.05  # a route must be this much faster than dense to be taken
_DENSITIES = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

table = RouteTable()


@dataclass(frozen=True)
class Case:
    x_size: tuple[int, ...]
    layout: str
    weight: Tensor
    mask: Tensor
    options: ConvOptions
    training: bool
    scores: bool
    structure: MaskStructure

    @property
    def key(self) -> str:
        """What the times depend on, besides the machine."""
        o = self.options
        groups = [
            ("train" if self.training else "forward") + ("+scores" if self.scores else ""),
            self.layout,
            by(self.x_size),
            by(self.weight.shape),
            f"stride {by(o.stride)}",
            f"padding {by(o.padding)}",
            f"dilation {by(o.dilation)}",
            f"groups {o.groups}",
            str(self.weight.dtype).removeprefix("torch."),
            self._place,
            f"density bucket {bisect_right(_DENSITIES, self.structure.density)}",
            str(self.structure),
        ]
        if self.parts is not None:  # the compact route's time depends on how much is left
            work = sum(len(p.filters) * len(p.channels) // p.groups for p in self.parts)
            groups.append(f"{len(self.parts)} parts of {work}")
        return ", ".join(groups)

    @property
    def _place(self) -> str:
        """What computes."""
        if not self.mask.is_cuda:
            return f"threads {torch.get_num_threads()}"
        exact = ", deterministic" if torch.are_deterministic_algorithms_enabled() else ""
        return f"{torch.cuda.get_device_name(self.mask.device)}{exact}"

    @property
    def parts(self) -> tuple[Part, ...] | None:
        """Parts of the compact route; it has no gradient for the scores of what it leaves out.

        Nor has it any gradient where nothing is kept: its zeros depend on nothing.
        """
        without = self.scores or not self.structure.parts
        return None if self.training and without else self.structure.parts


def by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def decide(case: Case) -> Route:
    key = case.key
    times = table.get(key)
    if times is None:
        times = table.add(key, _measure(case))
    name, reason = _best(times)
    return Route(name, reason, times, case.parts)


def _best(times: Times) -> tuple[str, str]:
    dense = times["dense"]
    fastest = min(times, key=lambda name: times[name])
    if fastest == "dense":
        return "dense", "fastest as measured"
    if times[fastest] > (1 - NOISE) * dense:
        return "dense", f"{fastest} is not faster by more than noise ({NOISE:.0%})"
    return fastest, f"{dense / times[fastest]:.2f}x as fast as dense"


def _measure(case: Case) -> Times:
    """Time every route on this shape, apart from whatever the caller has switched on."""
    routes = {name: Route(name, "", parts=case.parts) for name in ("dense", "sparse")}
    if case.parts is not None:
        routes["compact"] = Route("compact", "", parts=case.parts)
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.set_grad_enabled(case.training),
        torch.autocast(case.mask.device.type, enabled=False),
    ):
        weight, mask = case.weight.detach().clone(), case.mask.clone()
        calls = {name: _call(case, route, weight, mask) for name, route in routes.items()}
        return race(calls, device=case.mask.device)


def _call(case: Case, route: Route, weight: Tensor, mask: Tensor) -> Callable[[], object]:
    x = weight.new_full(case.x_size, 0.5)
    if case.layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    leaves = [x, weight.clone() if case.training else weight]  # what is kept is of one weight
    wrap: Callable[[Tensor], Any] = lambda t: t  # noqa: E731
    unwrap: Callable[[Any], Tensor] = lambda t: t  # noqa: E731
    if case.layout == "lanes":
        from supertickets_ext.lanes import LaneTensor, to_lanes

        batch = case.x_size[0]
        leaves[0] = to_lanes(x).lanes
        wrap, unwrap = lambda t: LaneTensor(t, batch), lambda t: t.lanes
    scores = torch.ones_like(weight) if case.scores else None
    if case.scores and scores is not None:
        leaves.append(scores)
    if not case.training:
        prepared = None  # what a module runs, as far as there is such a thing
        if case.layout != "lanes":
            prepared = prepared_call(route, leaves[0], leaves[1], mask, case.options)
        if prepared is not None:
            return lambda: prepared(leaves[0], None)
        return lambda: run_route(route, wrap(leaves[0]), leaves[1], mask, None, case.options)
    for leaf in leaves:
        leaf.requires_grad_()
    cotangent: list[Tensor] = []

    def step() -> object:
        y = unwrap(run_route(route, wrap(leaves[0]), leaves[1], mask, None, case.options, scores))
        if not cotangent:
            cotangent.append(torch.ones_like(y))
        return torch.autograd.grad(y, leaves, cotangent)

    return step
