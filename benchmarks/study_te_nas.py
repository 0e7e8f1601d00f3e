"""What training-free ranking is worth on NAS-Bench-201: the search, the scores, the joined ranking.

    python -m benchmarks.study_te_nas --data ../shared/data            # the study, about 40 minutes
    python -m benchmarks.study_te_nas --data ../shared/data --quick    # a short look

The folder holds ``cifar10_small.npz`` (images) and ``nasbench201.csv.gz`` (accuracies). Every score
is kept in an SQLite file as soon as it is measured, so a study that was cut off goes on where it
was; the result file is written anew after every part. Accuracies are never looked at by a search,
and the joined ranking was chosen on the other half of the cells.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import ROOT, commit
from supertickets.data import ImageData, from_tensors
from supertickets.files import write_json
from supertickets.machine import machine, versions
from supertickets.rank import (
    AccuracyTable,
    Ranking,
    ScoreConfig,
    ScoreImages,
    Scorer,
    ScoreStore,
    combined_choice,
    correlation_figures,
    halves,
    needed_indicators,
    rank_candidates,
    read_table,
    search,
    sizes,
)
from supertickets.rank.combined import WEIGHTS
from supertickets.seeds import generator
from supertickets.spaces import cell_space

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("size", "combined", "scores", "search")
COLUMNS = ("c10_test_200e", "c100_test_200e")
PAPER = ScoreConfig(ntk_batch=72, repeats=3)
TWICE = ScoreConfig(ntk_batch=32, repeats=2)
ONCE = ScoreConfig(ntk_batch=72, repeats=1)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    seeds: int = 5
    regions: int = 1500
    kappa: int = 300
    held_out: int = 200
    bootstrap: int = 300
    search: ScoreConfig = field(default_factory=lambda: PAPER)
    score: ScoreConfig = field(default_factory=lambda: TWICE)


QUICK = Plan(2, 100, 20, 20, 30, *[ScoreConfig(ntk_batch=16, repeats=1)] * 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of images and accuracies")
    parser.add_argument("--quick", action="store_true", help="few cells, small kernels")
    parser.add_argument("--seeds", type=int, help="searches (default: 5; quick: 2)")
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="only this; the others stay as stored"
    )
    parser.add_argument("--workers", type=int, default=1, help="scoring processes; 0: every core")
    parser.add_argument("--store", type=Path, help="SQLite file of the scores (default: in runs/)")
    parser.add_argument("--out", type=Path, help="result file (default: in benchmarks/results/)")
    given = parser.parse_args(arguments)
    name = "study_te_nas_quick" if given.quick else "study_te_nas"
    store = given.store or ROOT / "runs" / f"{name}.sqlite"
    out = given.out or RESULTS / f"{name}.json"
    with ScoreStore(store) as scores:
        plan = QUICK if given.quick else Plan()
        plan = replace(plan, seeds=given.seeds or plan.seeds)
        Study(plan, given.data, scores, given.workers, out).run(given.part or PARTS)
    print(f"stored in {out}")


class Study:
    """The parts of the study and the file that keeps their figures.

    Args:
        plan: How much is measured.
        data: Folder of images and accuracies.
        store: Keeps every score.
        workers: Scoring processes.
        out: The result file.
    """

    def __init__(self, plan: Plan, data: Path, store: ScoreStore, workers: int, out: Path) -> None:
        self._plan, self._store, self._workers, self._out = plan, store, workers, out
        self._table = read_table(data / "nasbench201.csv.gz", COLUMNS)
        self._images = ScoreImages(cifar_images(data / "cifar10_small.npz"))
        stored = json.loads(out.read_text("utf-8")) if out.is_file() else {}
        self._figures: dict[str, Any] = {name: stored[name] for name in PARTS if name in stored}

    def run(self, parts: Sequence[str]) -> None:
        """Measure part by part; scores that are stored are not measured again."""
        for name in parts:
            print(name, flush=True)
            self._figures[name] = getattr(self, name)()
            self._save()

    def size(self) -> dict[str, Any]:
        """Agreement of parameters and MACs with accuracy over every cell."""
        table = self._table
        everything = Ranking(table.candidates, (), tuple(sizes(table.candidates)), ())
        return self._correlations(everything, table)

    def combined(self) -> dict[str, Any]:
        """The joined ranking on held-out cells, in one repeat."""
        _, held = halves(len(self._table.candidates))
        part = self._table.take(held[: self._plan.held_out])
        ranking, seconds = self._rank(part, ONCE, needed_indicators(), seed=0)
        return {
            "rule": WEIGHTS,
            "seconds_a_cell": {**seconds, "all": math.fsum(seconds.values())},
            **self._correlations(ranking, part),
        }

    def scores(self) -> dict[str, Any]:
        """Agreement of R over many cells, and of kappa and both over fewer of them."""
        rng = generator(0, "study", "cells")
        drawn = torch.randperm(len(self._table.candidates), generator=rng).tolist()
        many = self._table.take(drawn[: self._plan.regions])
        few = self._table.take(drawn[: self._plan.kappa])
        of_many, thin = self._rank(many, self._plan.score, ["regions"], seed=0)
        both, proxy = self._rank(few, self._plan.score, ["regions", "kappa"], seed=0)
        return {
            "seconds_a_repeat": {
                name: total / self._plan.score.repeats
                for name, total in {**thin, "kappa": proxy["kappa"]}.items()
            },
            "repeats": self._plan.score.repeats,
            "regions": self._correlations(of_many, many),
            "both": self._correlations(both, few),
            "without_value": sum(value is None for value in both.values("kappa")),
        }

    def search(self) -> dict[str, Any]:
        """The pruning search from several seeds, and what its cells reach when trained."""
        table, space = self._table, cell_space("nasbench201")
        rows = []
        for seed in range(self._plan.seeds):
            with self._scorer(self._plan.search, seed) as scorer:
                found = search(space, scorer, prune=1, progress=True)
            with self._scorer(self._plan.search.model_copy(update={"repeats": 1}), seed) as scorer:
                finished = combined_choice(found, scorer)
            accuracies, combined = table.of(found.path), table.of(finished.path)
            assert accuracies is not None
            assert combined is not None
            spent = [
                score.seconds
                for one in found.rounds
                for scores in (one.scores, *(removal.scores for removal in one.removals))
                for repeats in scores.repeats.values()
                for score in repeats
            ]
            rows.append(
                {
                    "seed": seed,
                    "arch": space.format(found.path),
                    **accuracies,
                    "cpu_s": math.fsum(spent),
                    "combined": {"arch": space.format(finished.path), **combined},
                }
            )
            print(f"seed {seed}: {accuracies}, finish combined: {combined}", flush=True)
        reachable = [
            row
            for row, cell in enumerate(table.candidates)
            if all(operations != ("none",) for operations in cell.live)
        ]
        columns = {name: [row[name] for row in rows] for name in COLUMNS}
        return {
            "rows": rows,
            "mean_combined": {
                name: statistics.mean(row["combined"][name] for row in rows) for name in COLUMNS
            },
            "mean": {name: statistics.mean(values) for name, values in columns.items()},
            "lowest": {name: min(values) for name, values in columns.items()},
            "median_of_reachable": {
                name: statistics.median(table.accuracies[name][row] for row in reachable)
                for name in COLUMNS
            },
        }

    def _scorer(self, config: ScoreConfig, seed: int) -> Scorer:
        return Scorer(self._images, config, seed, self._store, self._workers)

    def _rank(
        self, part: AccuracyTable, config: ScoreConfig, indicators: Sequence[str], *, seed: int
    ) -> tuple[Ranking, dict[str, float]]:
        """Score cells; give also the mean time of a cell, by indicator, all repeats together."""
        with self._scorer(config, seed) as scorer:
            ranking = rank_candidates(part.candidates, scorer, indicators=indicators)
        seconds = {
            name: statistics.mean(
                math.fsum(one.seconds for one in scores.repeats[name]) for scores in ranking.scores
            )
            for name in ranking.indicators
        }
        return ranking, seconds

    def _correlations(self, ranking: Ranking, part: AccuracyTable) -> dict[str, Any]:
        found = correlation_figures(
            ranking, dict(part.accuracies), bootstrap=self._plan.bootstrap if ranking.scores else 30
        )
        return {"cells": len(part.candidates), "correlations": found}

    def _save(self) -> None:
        plan = self._plan
        write_json(
            self._out,
            {
                "study": "te_nas",
                "units": "accuracy in percent (trained, 200 epochs); seconds on one core",
                "settings": {
                    "seeds": plan.seeds,
                    "search": plan.search.model_dump(),
                    "scores": plan.score.model_dump(),
                },
                "machine": machine(),
                "versions": versions(),
                "commit": commit(),
                "aims": aims(self._figures),
                **self._figures,
            },
        )


def cifar_images(file: Path) -> ImageData:
    """Take the 1,000 training images of ``cifar10_small.npz``, with the usual crops and flips."""
    with np.load(file) as stored:
        images, labels = torch.from_numpy(stored["xtr"]), torch.from_numpy(stored["ytr"])
    return from_tensors(
        images.permute(0, 3, 1, 2).contiguous(),
        labels.long(),
        augment="crop-flip",
        validation_fraction=0.02,
        test_fraction=0.02,
    )


def aims(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Set what was measured so far beside what was aimed at."""
    found: list[dict[str, Any]] = []

    def aim(what: str, value: float, target: float, *, least: bool = True) -> None:
        met = value >= target if least else value <= target
        found.append({"aim": what, "target": target, "measured": value, "met": met})

    def tau(part: Mapping[str, Any], column: str, accuracy: str = COLUMNS[0]) -> float:
        return float(part["correlations"][accuracy][column]["kendall"]["value"])

    if "combined" in figures:
        part = figures["combined"]
        aim("tau of the combined ranking, held-out cells, CIFAR-10", tau(part, "combined"), 0.70)
        seconds = part["seconds_a_cell"]["all"]
        aim("seconds a cell of the combined ranking", seconds, 1.0, least=False)
    if "scores" in figures:
        part = figures["scores"]
        aim("tau of R, CIFAR-10", tau(part["regions"], "regions"), 0.50)
        aim("tau of kappa, CIFAR-10", tau(part["both"], "kappa"), -0.45, least=False)
        aim("tau of kappa and R, CIFAR-10", tau(part["both"], "both"), 0.62)
    if "search" in figures:
        part = figures["search"]
        for name, target in zip(COLUMNS, (93.3, 70.3), strict=True):
            aim(f"mean accuracy of the search, {name}", part["mean"][name], target)
            value = part["mean_combined"][name]
            aim(f"mean accuracy with the combined finish, {name}", value, target)
            median = part["median_of_reachable"][name]
            aim(f"lowest accuracy of the search, {name}", part["lowest"][name], median)
    return found


if __name__ == "__main__":
    main()
