"""Scores candidates: from the store where they are there, else measured by all processes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from torch import Tensor

from supertickets.hashing import digest
from supertickets.machine import usable_cores
from supertickets.rank.images import ScoreImages
from supertickets.rank.indicators import Indicator, get_indicator
from supertickets.rank.probe import INDICATORS, MEASURE, Probe, Unit, split_units
from supertickets.rank.settings import ScoreConfig
from supertickets.rank.store import Score, ScoreKey, ScoreStore
from supertickets.spaces import Candidate
from supertickets.training import is_main_process, on_main, rank, world_size
from supertickets.training.distributed import from_all
from supertickets.training.progress import ProgressBar

# candidates per unit of work, by network: what is lost when a run is killed, and what a process
# takes at once
_UNIT = {"proxy": 3, "thin": 40, "evaluation": 1, "shallow": 1}

Repeats = tuple[Score, ...]


@dataclass(frozen=True)
class Scores:
    """What was measured of one candidate: by indicator, a score per repeat."""

    repeats: Mapping[str, Repeats]

    def values(self, indicator: str) -> list[float | None]:
        """Give the value of each repeat; ``None`` where there is none."""
        return [one.value for one in self.repeats[indicator]]


class Scorer:
    """Scores candidates of one space under one seed.

    Args:
        images: What networks look at.
        config: How they are scored.
        seed: Decides weights and images.
        store: Where scores are kept; ``None`` in processes other than the main one of torchrun.
        workers: Processes on this machine; 0: one per core. Under torchrun its processes are taken.
    """

    def __init__(
        self,
        images: ScoreImages,
        config: ScoreConfig,
        seed: int,
        store: ScoreStore | None,
        workers: int = 0,
    ) -> None:
        self.config = config
        self.measured = 0
        self.reused = 0
        self._images = images
        self._seed = seed
        self._store = store
        self._workers = 1 if world_size() > 1 else workers or usable_cores()
        self._probe = Probe(seed, images.data.num_classes)
        self._pool: ProcessPoolExecutor | None = None
        self._fingerprint = images.fingerprint
        self._settings: dict[str, str] = {}

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def score(
        self,
        draw: str,
        candidates: Sequence[Candidate],
        *,
        built: Candidate | None = None,
        bar: ProgressBar | None = None,
        indicators: Sequence[str] = INDICATORS,
    ) -> list[Scores]:
        """Score candidates that share the weights and images of a draw.

        Args:
            draw: Names the draw; the same name gives the same weights and images.
            candidates: All of one space.
            built: A candidate that holds them all, whose network they share; none: each has a
                network of its own.
            bar: Moves on by one for each candidate.
            indicators: Names of registered ones.

        Returns:
            In the order of ``candidates``; the same whatever measures them.
        """
        names = [get_indicator(name).name for name in indicators]
        places = {
            self._key(draw, repeat, name, one): (repeat, name, one)
            for name in names
            for repeat in range(self.config.repeats)
            for one in dict.fromkeys(candidates)
        }
        found = on_main(lambda: self._store.get(places) if self._store else {})
        self.reused += len(found)
        missing = {key: place for key, place in places.items() if key not in found}
        step = 1 / max(1, len(names) * self.config.repeats)
        moved = _Steps(bar, step)
        moved.forward(len(places) - len(missing))
        for unit, scores in self._measure(list(self._units(draw, missing, built))):
            new = [
                (self._key(draw, unit.repeat, unit.indicator, one), score)
                for one, score in zip(unit.candidates, scores, strict=True)
            ]
            if self._store is not None and is_main_process():
                self._store.put(new)
            found.update(new)
            self.measured += len(new)
            moved.forward(len(new))

        def repeats(name: str, one: Candidate) -> Repeats:
            keys = (self._key(draw, r, name, one) for r in range(self.config.repeats))
            return tuple(found[key] for key in keys)

        return [Scores({name: repeats(name, one) for name in names}) for one in candidates]

    def _key(self, draw: str, repeat: int, indicator: str, candidate: Candidate) -> ScoreKey:
        live = json.dumps(candidate.to_json()["live"], separators=(",", ":"))
        if indicator not in self._settings:
            self._settings[indicator] = self._digest(get_indicator(indicator))
        settings = self._settings[indicator]
        return ScoreKey(candidate.space, settings, self._seed, draw, repeat, indicator, live)

    def _digest(self, chosen: Indicator) -> str:
        """Hash what decides the values of an indicator besides seed, draw and candidate."""
        options: dict[str, object] = {"measure": MEASURE, "images": self._fingerprint}
        if chosen.network == "thin":
            options["samples"] = self.config.region_samples
        else:
            proxy = chosen.network == "proxy"
            options["batch"] = self.config.ntk_batch if proxy else self.config.batch
            options["classes"] = self._images.data.num_classes
        if chosen.code:
            options["code"] = chosen.code
        return digest(options)

    def _inputs(self, chosen: Indicator, draw: str, repeat: int) -> tuple[Tensor, Tensor | None]:
        config, seed = self.config, self._seed
        if chosen.network == "thin":
            return self._images.crops(config.region_samples, seed, draw, repeat), None
        count = config.ntk_batch if chosen.network == "proxy" else config.batch
        images, labels = self._images.batch(count, seed, draw, repeat)
        return images, labels if chosen.needs_labels else None

    def _units(
        self,
        draw: str,
        missing: dict[ScoreKey, tuple[int, str, Candidate]],
        built: Candidate | None,
    ) -> Iterator[Unit]:
        groups: dict[tuple[str, int], list[Candidate]] = {}
        for repeat, name, one in missing.values():
            groups.setdefault((name, repeat), []).append(one)
        for (name, repeat), members in groups.items():
            chosen = get_indicator(name)
            inputs, labels = self._inputs(chosen, draw, repeat)
            size = 1 if built is None else _UNIT[chosen.network]
            for part in split_units(members, size):
                network = built or part[0]
                yield Unit(draw, repeat, name, chosen.module, network, part, inputs, labels)

    def _measure(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Score]]]:
        processes = world_size()
        if processes > 1:
            yield from self._measure_together(units, processes)
        elif self._workers > 1 and len(units) > 1:
            yield from self._measure_in_pool(units)
        else:
            for unit in units:
                yield unit, self._probe.measure(unit)

    def _measure_together(
        self, units: Sequence[Unit], processes: int
    ) -> Iterator[tuple[Unit, list[Score]]]:
        """Measure a unit in each process of torchrun at a time, so that each round is stored."""
        for start in range(0, len(units), processes):
            together = units[start : start + processes]
            mine = rank() < len(together)
            scores = self._probe.measure(together[rank()]) if mine else None
            for unit, found in zip(together, from_all(scores), strict=False):
                assert found is not None
                yield unit, found

    def _measure_in_pool(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Score]]]:
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")  # a forked torch may hang in its threads
            classes = self._images.data.num_classes
            self._pool = ProcessPoolExecutor(
                self._workers, spawn, _start_worker, (self._seed, classes)
            )
        running = {self._pool.submit(_work, unit): unit for unit in units}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            for future in running:
                future.cancel()


class _Steps:
    """Moves a bar that counts candidates by parts of one."""

    def __init__(self, bar: ProgressBar | None, step: float) -> None:
        self._bar, self._step = bar, step
        self._total = 0.0
        self._shown = 0

    def forward(self, count: int) -> None:
        self._total += count * self._step
        whole = int(self._total + 1e-6)
        if self._bar is not None and whole > self._shown:
            self._bar.advance(whole - self._shown)
            self._shown = whole


_worker: Probe


def _start_worker(seed: int, num_classes: int) -> None:
    global _worker
    _worker = Probe(seed, num_classes)


def _work(unit: Unit) -> list[Score]:
    return _worker.measure(unit)
