"""What the rows of the distillation study say: ranking, boards, and the paths that are taken."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.distill.select import Scored, best_of, evolve
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSpace, Path

Row = Mapping[str, Any]
Array = NDArray[np.float64]

PLAIN = "none"
_LEVEL = 0.95
_NEAR = 0.1  # MACs within a tenth count as equal


class Truth:
    """Stand-alone accuracies of every path, in the order of the space.

    Args:
        space: The space.
        rows: A row for each path and run.

    Attributes:
        paths: All paths.
        runs: ``[runs, paths]``, test accuracy in ``[0, 1]``.
        mean: ``[paths]``, over the runs.
    """

    def __init__(self, space: ChoiceSpace, rows: Sequence[Row]) -> None:
        self.space = space
        self.paths = list(space.paths())
        by_path: dict[Path, dict[int, float]] = {path: {} for path in self.paths}
        for row in rows:
            by_path[tuple(row["path"])][row["seed"]] = row["accuracy"]
        runs = min(len(found) for found in by_path.values())
        self.runs: Array = np.array(
            [[by_path[p][seed] for p in self.paths] for seed in range(runs)]
        )
        self.mean: Array = self.runs.mean(axis=0)

    def percentile(self, path: Path) -> float:
        """Give the share of paths that are worse, in percent."""
        own = self.mean[self.paths.index(path)]
        return float(100 * (self.mean < own).mean())

    def figures(self) -> dict[str, Any]:
        """Say how far the paths differ, and how well a run of one's own predicts the other runs."""
        others = [np.delete(self.runs, i, axis=0).mean(axis=0) for i in range(len(self.runs))]
        pairs = zip(self.runs, others, strict=True)
        alone = statistics.mean(tau(run, other) for run, other in pairs)
        single = statistics.mean(
            tau(a, b) for i, a in enumerate(self.runs) for b in self.runs[i + 1 :]
        )
        shares = [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
        return {
            "paths": len(self.paths),
            "runs": len(self.runs),
            "accuracy_quantiles": np.quantile(self.mean, shares).tolist(),
            "sd_of_paths": float(self.mean.std()),
            "sd_of_runs": float(np.sqrt(self.runs.var(axis=0, ddof=1).mean())),
            "tau_of_two_runs": single,
            "tau_of_a_run_with_the_mean_of_the_others": alone,
            "tau_that_knowing_the_expected_accuracy_would_have": oracle_tau(single, len(self.runs)),
        }


def tau(one: Array, other: Array) -> float:
    """Kendall's tau-b."""
    from scipy.stats import kendalltau

    return float(kendalltau(one, other).statistic)


def oracle_tau(single: float, runs: int) -> float:
    """Give the tau of the expected accuracy with a mean of runs, from the tau of two runs.

    For jointly normal values ``r = sin(pi tau / 2)``; the correlation of two runs is their
    reliability, and Spearman and Brown's formula gives that of a mean.
    """
    reliability = np.sin(np.pi * single / 2)
    of_mean = runs * reliability / (1 + (runs - 1) * reliability)
    return float(2 / np.pi * np.arcsin(np.sqrt(of_mean)))


def interval(differences: Sequence[float]) -> dict[str, float]:
    """Give the mean of paired differences with its 95 % t-interval and two-sided p-value."""
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    reach = error * float(t.isf((1 - _LEVEL) / 2, len(values) - 1))
    p = float(2 * t.sf(abs(mean) / error, len(values) - 1)) if error else 1.0
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p": p, "seeds": len(values)}


def ranking(truth: Truth, rows: Sequence[Row]) -> dict[str, Any]:
    """B2, B3, B4: each arm's supernet accuracy and rank correlations, and the paired differences.

    Args:
        truth: The truth.
        rows: A row for each arm and seed.
    """
    measures: dict[str, Callable[[Row], float]] = {
        "tau_accuracy": lambda row: tau(np.array(row["accuracy"]), truth.mean),
        "tau_loss": lambda row: tau(-np.array(row["loss"]), truth.mean),
        "spearman_accuracy": lambda row: spearman(np.array(row["accuracy"]), truth.mean),
        "mean_accuracy": lambda row: statistics.mean(row["accuracy"]),
    }
    plain = {row["seed"]: row for row in rows if row["arm"] == PLAIN}
    found: dict[str, Any] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm and row["seed"] in plain]
        found[arm] = {"seeds": len(own), "train_s": statistics.median(r["train_s"] for r in own)}
        for name, measure in measures.items():
            values = [measure(row) for row in own]
            found[arm][name] = statistics.mean(values)
            if arm != PLAIN:
                less = [
                    value - measure(plain[row["seed"]])
                    for value, row in zip(values, own, strict=True)
                ]
                found[arm][f"{name}_less_plain"] = interval(less)
    return found


def spearman(one: Array, other: Array) -> float:
    """Spearman's rho."""
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def score_kinds(truth: Truth, rows: Sequence[Row]) -> dict[str, Any]:
    """Compare the tau of validation accuracy and loss on the same supernets."""
    base = [tau(np.array(row["accuracy"]), truth.mean) for row in rows]
    values = [tau(-np.array(row["loss"]), truth.mean) for row in rows]
    less = [value - other for value, other in zip(values, base, strict=True)]
    return {
        "accuracy": statistics.mean(base),
        "loss": statistics.mean(values),
        "loss_less_accuracy": interval(less),
    }


def boards(truth: Truth, rows: Sequence[Row]) -> dict[str, Any]:
    """B1: true percentiles of the board's members, when it was first full and at the end."""
    found: dict[str, Any] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        first, last, inserted = [], [], []
        for row in rows:
            if row["arm"] != arm:
                continue
            size = len(row["board"])
            inserts = [tuple(path) for _, kind, path in row["events"] if kind == "insert"]
            first.append(statistics.mean(truth.percentile(p) for p in inserts[:size]))
            last.append(statistics.mean(truth.percentile(tuple(p)) for p, _ in row["board"]))
            inserted.append(len(inserts) - size)
        found[arm] = {
            "first_full_percentile": statistics.mean(first),
            "last_percentile": statistics.mean(last),
            "gain": interval([b - a for a, b in zip(first, last, strict=True)]),
            "replacements": statistics.mean(inserted),
        }
    return found


def final_paths(truth: Truth, rows: Sequence[Row]) -> dict[str, Any]:
    """B5: true accuracy of the path that is taken from the board, beside other ways to take one.

    Evolution and random search score as many paths as the board has. ``largest`` is the path with
    the most MACs; ``equal_macs`` is the mean over all paths of about the taken one's MACs.
    """
    true = dict(zip(truth.paths, truth.mean.tolist(), strict=True))
    largest = max(truth.paths, key=truth.space.macs)
    found: dict[str, Any] = {
        "random_mean": float(truth.mean.mean()),
        "best": float(truth.mean.max()),
        "largest": true[largest],
    }
    for arm in dict.fromkeys(row["arm"] for row in rows):
        taken, evolved, drawn, equal = [], [], [], []
        for row in (row for row in rows if row["arm"] == arm):
            table = _table(truth, row)
            board = [table[tuple(path)] for path, _ in row["board"]]
            chosen = best_of(board).path
            taken.append(true[chosen])
            equal.append(_at_equal_macs(truth, chosen))
            rng = generator(row["seed"], "study", "evolution")
            sizes = [len(layer.operations) for layer in truth.space.layers]
            evolution = evolve(
                table.__getitem__,
                truth.space.sample,
                lambda path: True,
                sizes,
                evaluations=len(board),
                generator=rng,
            )
            evolved.append(true[best_of(evolution).path])
            sampled = [truth.space.sample(rng) for _ in board]
            drawn.append(true[best_of(table[path] for path in sampled).path])
        mean = found["random_mean"]
        found[arm] = {
            "board": statistics.mean(taken),
            "evolution": statistics.mean(evolved),
            "best_of_random": statistics.mean(drawn),
            "equal_macs": statistics.mean(equal),
            "board_less_random_mean": interval([value - mean for value in taken]),
            "board_less_largest": interval([value - true[largest] for value in taken]),
            "board_less_equal_macs": _paired(taken, equal),
            "board_less_evolution": _paired(taken, evolved),
            "board_less_best_of_random": _paired(taken, drawn),
        }
    return found


def _table(truth: Truth, row: Row) -> dict[Path, Scored]:
    columns = (truth.paths, row["accuracy"], row["loss"])
    return {
        path: Scored(path, accuracy, loss, truth.space.macs(path))
        for path, accuracy, loss in zip(*columns, strict=True)
    }


def _at_equal_macs(truth: Truth, path: Path) -> float:
    macs = truth.space.macs(path)
    near = [abs(truth.space.macs(other) - macs) <= _NEAR * macs for other in truth.paths]
    return float(truth.mean[near].mean())


def _paired(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    return interval([a - b for a, b in zip(one, other, strict=True)])
