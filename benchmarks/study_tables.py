"""Tables of the studies, from stored results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.table_cells import figure, threads_text

COLUMNS = {
    "jackpot": "jackpot",
    "magnitude-bn": "magnitude, BN re-estimated",
    "magnitude": "magnitude",
    "random": "random mask",
    "random-start": "random-start search",
}


# The second data set, as the study names it; both at 14 x 14 pixels.
DATA_SETS = {"idx": "Fashion-MNIST", "mnist10k": "MNIST"}


def study_jackpot(study: Mapping[str, Any]) -> str:
    """Test accuracy of each arm against sparsity, for every net of the study."""
    machine, seeds = study["machine"], 0
    lines = [
        f"| network | sparsity | dense | {' | '.join(COLUMNS.values())} |",
        f"|{'---|' * (len(COLUMNS) + 3)}",
    ]
    for key, part in study["summary"].items():
        experiment, _, net = key.partition("/")
        if experiment not in ("compare", "images"):
            continue
        name = f"{net}, {DATA_SETS[study['second_data_set']]}" if experiment == "images" else net
        for sparsity, figures in part.items():
            accuracy = figures["test_accuracy_percent"]
            seeds = accuracy["jackpot"]["n"]
            cells = [figure(accuracy[row]) for row in ("dense", *COLUMNS)]
            lines.append(f"| {name} | {float(sparsity):.0%} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Test accuracy in percent, mean and 95 % interval over {seeds} seeds; weights are never "
        "retrained; choices are made on a validation split. "
        "From `benchmarks/results/study_jackpot.json` (`make study`; "
        f"{machine['cpu']}, torch {study['versions']['torch']}).",
    ]
    return "\n".join(lines) + "\n"


def study_sparse_training(stored: Mapping[str, Any]) -> str:
    """Time per training step and loss of each arm."""
    summary = stored["summary"]
    lines = ["| arm | a step | last loss |", "|---|---|---|"]
    for row in stored["rows"]:
        time = row["step"]["median_us"] / 1e3
        lines.append(f"| {row['arm']} | {time:.1f} ms | {row['last_loss']:.4f} |")
    machine = stored["machine"]
    note = (
        f"{summary['net']} on {summary['data']} images, {1 - summary['density']:.0%} sparse, batch "
        f"{summary['batch']}, {summary['steps']} steps: {summary['speedup']:.2f}x as fast as "
        f"{summary['best_dense']}. Losses differ by at most {summary['loss_difference']:.1e} in "
        f"float32 (two dense runs by {summary['loss_difference_of_dense_runs']:.1e}) and by "
        f"{summary['loss_difference_float64']:.1e} in float64 ({summary['float64_steps']} steps). "
        f"{machine['cpu']}, {threads_text(machine['threads'])}, torch {machine['torch']}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def study_te_nas(stored: Mapping[str, Any]) -> str:
    """Rank correlations of scores and baselines, and what the searches found."""
    columns = {"c10_test_200e": "CIFAR-10", "c100_test_200e": "CIFAR-100"}
    lines = [
        f"| score | cells | {' | '.join(f'tau, {name}' for name in columns.values())} |",
        f"|{'---|' * (len(columns) + 2)}",
    ]
    names = {"regions": "R", "both": "kappa and R", "macs": "MACs"}
    parts = [("all cells", stored["size"])]
    if "scores" in stored:
        parts += [("a sample", stored["scores"]["regions"]), ("a sample", stored["scores"]["both"])]
    if "combined" in stored:
        parts.append(("held out", stored["combined"]))
    for which, part in parts:
        for score in part["correlations"]["c10_test_200e"]:
            taus = (part["correlations"][column][score]["kendall"] for column in columns)
            cells = " | ".join(_tau(one, exact=which == "all cells") for one in taus)
            lines.append(f"| {names.get(score, score)} | {part['cells']:,}, {which} | {cells} |")
    lines += ["", "Kendall's tau with 95 % bootstrap intervals; accuracies after 200 epochs."]
    if "scores" in stored:
        of = stored["settings"]["scores"]
        lines[-1] += f" Kappa of {of['ntk_batch']} images; {of['repeats']} repeats of kappa and R."
    if "combined" in stored:
        seconds = stored["combined"]["seconds_a_cell"]["all"]
        lines[-1] += f" The combined ranking costs {seconds:.2f} s of one core a cell."
    if "search" in stored:
        lines += ["", *_searches(stored["search"], columns)]
    machine = stored["machine"]
    lines += [
        "",
        "From `benchmarks/results/study_te_nas.json` (`python -m benchmarks.study_te_nas`; "
        f"{machine['cpu']}, torch {stored['versions']['torch']}).",
    ]
    return "\n".join(lines) + "\n"


def cream_released(stored: Mapping[str, Any]) -> str:
    """Exact costs of the released architectures beside what was published."""
    lines = [
        "| architecture | pixels | as listed, M MACs | as built, M MACs | parameters, M | "
        "as the authors count, M | published, M |",
        f"|{'---|' * 7}",
    ]
    for row in stored["rows"]:
        listed, built = row["listed"], row["built"]
        lines.append(
            f"| `{row['name']}` | {row['resolution']} | {listed['macs'] / 1e6:.1f} | "
            f"{built['macs'] / 1e6:.1f} | {built['parameters'] / 1e6:.2f} | "
            f"{built['counted_by_the_authors'] / 1e6:.1f} | {row['published_millions']} |"
        )
    source = (
        "From `benchmarks/results/cream_released.json` (`python -m benchmarks.cream_released`)."
    )
    return "\n".join([*lines, "", source]) + "\n"


def _tau(found: Mapping[str, float], *, exact: bool) -> str:
    if exact:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.2f}, {found['high']:.2f}]"


def _searches(found: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    heads = [f"{head}{finish}" for finish in ("", ", combined finish") for head in columns.values()]
    lines = [f"| search | {' | '.join(heads)} | s of one core |", f"|{'---|' * (len(heads) + 2)}"]

    def line(name: str, parts: Sequence[Mapping[str, Any]], seconds: str = "") -> None:
        cells = " | ".join(f"{part[column]:.2f}" for part in parts for column in columns)
        lines.append(f"| {name} | {cells} | {seconds} |")

    for row in found["rows"]:
        line(f"seed {row['seed']}", (row, row["combined"]), f"{row['cpu_s']:.0f}")
    line("mean", (found["mean"], found["mean_combined"]))
    line("median of all that it can reach", (found["median_of_reachable"],) * 2)
    return lines
