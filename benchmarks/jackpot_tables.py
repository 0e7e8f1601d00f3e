"""From cells to means, intervals and the printed tables of the jackpot study."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student

Cells = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Experiment and net, such as ``compare/digits`` -> seed -> result."""

ROWS = (
    "dense",
    "jackpot",
    "published-start",
    "random-start",
    "magnitude-bn",
    "magnitude-bn-equal",
    "magnitude",
    "random",
)


LIBRARY_BYTES = 2**26


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Give mean, sample sd and the half-width of the 95 % t-interval of the mean."""
    n = len(values)
    sd = statistics.stdev(values) if n > 1 else None
    half = None if sd is None else float(student.ppf(0.975, n - 1)) * sd / n**0.5
    return {"mean": statistics.mean(values), "sd": sd, "half_width_95": half, "n": n}


def summarise(cells: Cells, sparsities: Sequence[float]) -> dict[str, Any]:
    """Summarise every experiment that has cells."""
    summary: dict[str, Any] = {}
    for key, seeds in cells.items():
        experiment = key.partition("/")[0]
        results = list(seeds.values())
        if experiment in ("compare", "images"):
            summary[key] = {str(s): _comparison(results, str(s)) for s in sparsities}
        elif experiment == "restrict":
            summary[key] = {s: _restriction(results, s) for s in results[0]}
        elif experiment == "control":
            summary[key] = _control(results)
        else:
            summary[key] = dict(results[0])
    return summary


def verdicts(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold every aim against its figure: met or missed."""
    found: list[dict[str, Any]] = []

    def hold(aim: str, value: float, met: bool) -> None:
        found.append({"aim": aim, "value": value, "met": met})

    for key, part in summary.items():
        experiment = key.partition("/")[0]
        if experiment in ("compare", "images"):
            for name, least in (("0.9", 5), ("0.95", 20), ("0.98", 40)):
                if name in part:
                    gain = part[name]["paired_points"]["jackpot - magnitude-bn"]["mean"]
                    aim = f"{key} {name}: jackpot - magnitude-bn >= {least} points"
                    hold(aim, gain, gain >= least)
            for name, most in (("0.9", 2), ("0.95", 4)):
                if name in part:
                    loss = part[name]["paired_points"]["dense - jackpot"]["mean"]
                    hold(f"{key} {name}: dense - jackpot <= {most} points", loss, loss <= most)
            if "0.9" in part:
                ratio = part["0.9"]["overlap_over_chance"]["mean"]
                hold(f"{key} 0.9: overlap with magnitude >= 2 x chance", ratio, ratio >= 2)
        if experiment == "compare" and "0.98" in part:
            speed = part["0.98"]["speed"]
            least = speed["random_epochs"] or len(speed["mean_curves"]["random"]) + 1
            hold(f"{key} 0.98: random start needs >= 9 epochs for 3", least, least >= 9)
        if experiment == "control":
            gap = part["trained - untrained"]["mean"]
            hold(f"{key}: trained - untrained >= 5 points", gap, gap >= 5)
        if experiment == "restrict":
            for name, kinds in part.items():
                change = kinds["ratio"]["accuracy_change_points"]["mean"]
                fewer = kinds["ratio"]["swaps_change"]["mean"]
                met = change >= -0.5 and fewer < 0
                hold(f"{key} {name}: fewer swaps, accuracy change >= -0.5 points", change, met)
        if experiment == "cost":
            hold(f"{key}: search epoch <= 2 x dense epoch", part["ratio"], part["ratio"] <= 2)
            needed = part["weights_and_activations_bytes"]
            if needed > LIBRARY_BYTES:  # below it, what the libraries take once decides
                memory = part["peak_extra_bytes"] / needed
                hold(f"{key}: memory <= 3 x weights + activations", memory, memory <= 3)
    return found


def print_tables(summary: Mapping[str, Any]) -> None:
    """Print one table per experiment and net, then every aim, met or missed."""
    for key, part in summary.items():
        experiment = key.partition("/")[0]
        print(f"\n{key}")
        if experiment in ("compare", "images"):
            for sparsity, figures in part.items():
                _print_comparison(sparsity, figures)
        elif experiment == "restrict":
            for sparsity, kinds in part.items():
                _print_restriction(sparsity, kinds)
        else:
            for name, value in part.items():
                print(f"  {name:32} {_show(value)}")
    print("\naims")
    for verdict in verdicts(summary):
        word = "met   " if verdict["met"] else "MISSED"
        print(f"  {word} {verdict['value']:>8.2f}  {verdict['aim']}")


def _comparison(results: Sequence[Mapping[str, Any]], sparsity: str) -> dict[str, Any]:
    cells = [result[sparsity] for result in results]
    accuracy = {row: [100 * cell["test_accuracy"][row] for cell in cells] for row in ROWS}
    pairs = [
        ("jackpot", "magnitude-bn"),
        ("jackpot", "magnitude-bn-equal"),
        ("dense", "jackpot"),
        ("jackpot", "published-start"),
        ("jackpot", "random-start"),
    ]
    ratio = [cell["overlap"]["magnitude"] / cell["overlap"]["expected"] for cell in cells]
    return {
        "test_accuracy_percent": {row: interval(values) for row, values in accuracy.items()},
        "paired_points": {f"{a} - {b}": _paired(accuracy[a], accuracy[b]) for a, b in pairs},
        "density": interval([cell["density"] for cell in cells]),
        "effective_macs": interval([cell["effective_macs"] for cell in cells]),
        "overlap": {
            name: interval([cell["overlap"][name] for cell in cells])
            for name in ("magnitude", "snip", "expected")
        },
        "overlap_over_chance": interval(ratio),
        "speed": _speed(cells),
    }


def _speed(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give the epochs that a random start needs for what magnitude has after three (B2)."""
    curves = {
        start: [statistics.mean(column) for column in zip(*rows, strict=True)]
        for start in ("magnitude", "random", "published")
        if (rows := [cell["validation_curve"][start] for cell in cells])
    }
    target = curves["magnitude"][min(2, len(curves["magnitude"]) - 1)]
    per_seed = [
        _first(c["validation_curve"]["random"], c["validation_curve"]["magnitude"][:3][-1])
        for c in cells
    ]
    return {
        "target": target,
        "random_epochs": _first(curves["random"], target),
        "random_epochs_per_seed": per_seed,
        "mean_curves": curves,
    }


def _first(curve: Sequence[float], target: float) -> int | None:
    """Give the first epoch, from 1, that reaches the target; None: never."""
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= target), None)


def _paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float | int | None]:
    return interval([a - b for a, b in zip(first, second, strict=True)])


def _control(results: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    accuracy = {kind: [100 * cell[kind] for cell in results] for kind in results[0]}
    figures = {kind: interval(values) for kind, values in accuracy.items()}
    return figures | {"trained - untrained": _paired(accuracy["trained"], accuracy["untrained"])}


def _restriction(results: Sequence[Mapping[str, Any]], sparsity: str) -> dict[str, Any]:
    kinds: dict[str, list[Mapping[str, Any]]] = {
        kind: [result[sparsity][kind] for result in results] for kind in results[0][sparsity]
    }
    free = kinds["none"]
    return {
        kind: {
            "test_accuracy_percent": interval([100 * c["test_accuracy"] for c in cells]),
            "accuracy_change_points": _paired(
                [100 * c["test_accuracy"] for c in cells], [100 * c["test_accuracy"] for c in free]
            ),
            "swaps": interval([sum(c["swaps_per_epoch"]) for c in cells]),
            "swaps_change": interval(
                [
                    sum(c["swaps_per_epoch"]) / sum(f["swaps_per_epoch"]) - 1
                    for c, f in zip(cells, free, strict=True)
                ]
            ),
            "loss_sd": interval([c["loss_sd"] for c in cells]),
            "loss_sd_change": _paired([c["loss_sd"] for c in cells], [c["loss_sd"] for c in free]),
            "epochs_to_target": [c["epochs_to_target"] for c in cells],
        }
        for kind, cells in kinds.items()
    }


def _print_comparison(sparsity: str, figures: Mapping[str, Any]) -> None:
    print(f"  sparsity {sparsity}, density {figures['density']['mean']:.4f}: test accuracy, %")
    for row, value in figures["test_accuracy_percent"].items():
        print(f"    {row:20} {_show(value)}")
    for pair, value in figures["paired_points"].items():
        print(f"    {pair:36} {_show(value)} points")
    shares = {name: value["mean"] for name, value in figures["overlap"].items()}
    print("    overlap " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
    speed = figures["speed"]
    print(
        f"    magnitude start after 3 epochs: {100 * speed['target']:.1f} % on validation; "
        f"random start needs {speed['random_epochs'] or 'more than all'} epochs"
    )


def _print_restriction(sparsity: str, kinds: Mapping[str, Any]) -> None:
    print(f"  sparsity {sparsity}")
    for kind, figures in kinds.items():
        print(
            f"    {kind:6} accuracy {_show(figures['test_accuracy_percent'])} % "
            f"({figures['accuracy_change_points']['mean']:+.2f}), swaps "
            f"{figures['swaps']['mean']:.0f} ({100 * figures['swaps_change']['mean']:+.0f} %), "
            f"loss sd {figures['loss_sd']['mean']:.4f}, "
            f"epochs to target {figures['epochs_to_target']}"
        )


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        half = value["half_width_95"]
        spread = "" if half is None else f" +- {half:.2f} (sd {value['sd']:.2f}, n {value['n']})"
        return f"{value['mean']:.2f}{spread}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
