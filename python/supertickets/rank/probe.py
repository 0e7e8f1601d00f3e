"""Measures indicators of candidates that share weights and images."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.rank.indicators import (
    Indicator,
    get_indicator,
    import_indicators,
    indicator_names,
)
from supertickets.rank.store import Score
from supertickets.seeds import generator
from supertickets.spaces import Candidate, cell_space, initialise_
from supertickets_ext.activation_patterns import SaturationWarning

KAPPA = "kappa"
REGIONS = "regions"
INDICATORS = (KAPPA, REGIONS)
"""What the search of TE-NAS reads."""

MEASURE = 3
"""Part of every score's key; raised when the same settings give another number."""

_CHANNELS = 3
# options that leave the evaluation network one normal cell a stage
_SHALLOW: dict[str, dict[str, int]] = {"nasbench201": {"cells": 1}, "darts": {"layers": 5}}


@dataclass(frozen=True)
class Unit:
    """Work for one process: candidates under one draw of weights and images.

    Attributes:
        draw: Names the draw, such as ``"round 1"``.
        repeat: Which of its repeats.
        indicator: Its registered name.
        module: What registers it, should a process not know it yet.
        built: What the network is built with; every candidate lies within it.
        candidates: What is scored.
        inputs: Images ``[N, 3, 32, 32]``, or crops ``[N, 1, 3, 3]`` for a thin network.
        labels: Of the images, int64 ``[N]``; ``None`` for an indicator that reads none.
    """

    draw: str
    repeat: int
    indicator: str
    module: str
    built: Candidate
    candidates: tuple[Candidate, ...]
    inputs: Tensor
    labels: Tensor | None = None


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
        chosen = _known(unit)
        threads = torch.get_num_threads()
        # sums of convolutions depend on the number of threads, and a score must not
        torch.set_num_threads(1)
        try:
            return [self._timed(chosen, candidate, unit) for candidate in unit.candidates]
        finally:
            torch.set_num_threads(threads)

    def _timed(self, chosen: Indicator, candidate: Candidate, unit: Unit) -> Score:
        started = time.process_time()
        net = self._net(chosen.network, unit)
        if chosen.network in ("proxy", "thin"):
            net.set_live(candidate)  # type: ignore[operator]
        draws = generator(self._seed, "rank", "draws", chosen.name, unit.draw, unit.repeat)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SaturationWarning)  # the score's note says it
            value = chosen.score(net, unit.inputs, unit.labels, draws)
        note = _note(chosen, value, len(unit.inputs))
        seconds = round(time.process_time() - started, 6)
        return Score(value if math.isfinite(value) else None, note, seconds)

    def _net(self, kind: str, unit: Unit) -> nn.Module:
        draw = (unit.draw, unit.repeat)
        built, net = self._nets.get(kind, (None, None))
        if net is None or built != unit.built:
            # the constructors draw from the global generator, which is the user's
            with torch.random.fork_rng(devices=[]):
                net = self._build(kind, unit.built)
            self._nets[kind] = (unit.built, net)
            self._drawn.pop(kind, None)
        if self._drawn.get(kind) != draw:
            weights = generator(self._seed, "rank", "weights", kind, *draw)
            initialise_(net, weights, fan="fan_in" if kind == "thin" else "fan_out")
            self._drawn[kind] = draw
        return net

    def _build(self, kind: str, built: Candidate) -> nn.Module:
        space, classes = cell_space(built.space), self._num_classes
        if kind == "proxy":
            return space.proxy_net(built, num_classes=classes)
        if kind == "thin":
            return space.thin_net(built, num_classes=classes)
        if not built.is_path:
            raise InputError("indicator: only a single path has an evaluation network")
        options = _SHALLOW[built.space] if kind == "shallow" else {}
        return space.network(built, num_classes=classes, channels=_CHANNELS, **options)


def _known(unit: Unit) -> Indicator:
    """Find the unit's indicator, in a process that may not have registered it."""
    if unit.indicator not in indicator_names():
        import_indicators(unit.module)
    if unit.indicator not in indicator_names():
        raise InputError(
            f"indicator {unit.indicator!r}: module {unit.module!r} does not register it in other "
            "processes; put it into a module that can be imported, or take one process (workers=1)"
        )
    return get_indicator(unit.indicator)


def _note(chosen: Indicator, value: float, inputs: int) -> str:
    """Say why a value is none, or that a count has reached its end."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "rank-deficient" if chosen.network == "proxy" else "infinite"
    return "saturated" if chosen.name == REGIONS and value == inputs else ""


def split_units(candidates: Sequence[Candidate], size: int) -> list[tuple[Candidate, ...]]:
    """Cut a list into runs of ``size``."""
    return [tuple(candidates[i : i + size]) for i in range(0, len(candidates), size)]
