"""Measures kappa and R of candidates that share weights and images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.rank.store import Score
from supertickets.seeds import generator
from supertickets.spaces import Candidate, cell_space, initialise_
from supertickets_ext import condition_number, count_regions, ntk_gram

KAPPA = "kappa"
REGIONS = "regions"
INDICATORS = (KAPPA, REGIONS)
SIGNS = {KAPPA: -1, REGIONS: 1}
"""1 where more is better."""

MEASURE = 1
"""Part of every score's key; raised when the same settings give another number."""


@dataclass(frozen=True)
class Unit:
    """Work for one process: candidates under one draw of weights and images.

    Attributes:
        draw: Names the draw, such as ``"round 1"``.
        repeat: Which of its repeats.
        indicator: ``"kappa"`` or ``"regions"``.
        built: What the network is built with; every candidate lies within it.
        candidates: What is scored.
        inputs: Images ``[N, 3, 32, 32]``, or crops ``[N, 1, 3, 3]``.
        batch: How many inputs batch norm sees together.
    """

    draw: str
    repeat: int
    indicator: str
    built: Candidate
    candidates: tuple[Candidate, ...]
    inputs: Tensor
    batch: int


class Probe:
    """Holds the network of the last unit, so that the next one with the same draw costs nothing.

    Args:
        seed: The user's seed.
        num_classes: Outputs of the networks; kappa depends on them.
    """

    def __init__(self, seed: int, num_classes: int) -> None:
        self._seed = seed
        self._num_classes = num_classes
        self._nets: dict[str, tuple[Candidate, nn.Module]] = {}
        self._drawn: dict[str, tuple[str, int]] = {}

    def measure(self, unit: Unit) -> list[Score]:
        """Score the candidates of a unit, in order."""
        threads = torch.get_num_threads()
        # sums of convolutions depend on the number of threads, and a score must not
        torch.set_num_threads(1)
        try:
            net = self._net(unit)
            return [_timed(net, candidate, unit) for candidate in unit.candidates]
        finally:
            torch.set_num_threads(threads)

    def _net(self, unit: Unit) -> nn.Module:
        name, draw = unit.indicator, (unit.draw, unit.repeat)
        built, net = self._nets.get(name, (None, None))
        if net is None or built != unit.built:
            space = cell_space(unit.built.space)
            build = space.proxy_net if name == KAPPA else space.thin_net
            # the constructors draw from the global generator, which is the user's
            with torch.random.fork_rng(devices=[]):
                net = build(unit.built, num_classes=self._num_classes)
            self._nets[name] = (unit.built, net)
            self._drawn.pop(name, None)
        if self._drawn.get(name) != draw:
            weights = generator(self._seed, "rank", "weights", name, *draw)
            initialise_(net, weights, fan="fan_out" if name == KAPPA else "fan_in")
            self._drawn[name] = draw
        return net


def _timed(net: nn.Module, candidate: Candidate, unit: Unit) -> Score:
    started = time.perf_counter()
    net.set_live(candidate)  # type: ignore[operator]
    measure = _kappa if unit.indicator == KAPPA else _regions
    value, note = measure(net, unit.inputs, unit.batch)
    return Score(value, note, round(time.perf_counter() - started, 6))


def _kappa(net: nn.Module, inputs: Tensor, batch: int) -> tuple[float | None, str]:
    gram = ntk_gram(net, inputs, mode="coupled", dtype=torch.float64)
    found = condition_number(gram, row_dtype=torch.float32)
    if found.rank_deficient:
        return None, "rank-deficient"
    if found.value != found.value:
        return None, "not finite"
    return float(found.value), ""


def _regions(net: nn.Module, inputs: Tensor, batch: int) -> tuple[float | None, str]:
    count = count_regions(net, inputs, batch=batch, warn=False)
    return float(count), "saturated" if count == len(inputs) else ""


def split_units(candidates: Sequence[Candidate], size: int) -> list[tuple[Candidate, ...]]:
    """Cut a list into runs of ``size``."""
    return [tuple(candidates[i : i + size]) for i in range(0, len(candidates), size)]
