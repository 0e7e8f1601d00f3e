"""Write the tables of README and docs from stored results.

python -m benchmarks.tables            # rewrite them
python -m benchmarks.tables --check    # fail if one is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
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
            cells = [_figure(accuracy[row]) for row in ("dense", *COLUMNS)]
            lines.append(f"| {name} | {float(sparsity):.0%} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Test accuracy in percent, mean and 95 % interval over {seeds} seeds; weights are never "
        "retrained; choices are made on a validation split. "
        "From `benchmarks/results/study_jackpot.json` (`make study`; "
        f"{machine['cpu']}, torch {study['versions']['torch']}).",
    ]
    return "\n".join(lines) + "\n"


def masked_conv2d(stored: Mapping[str, Any]) -> str:
    """Speed against torch's dense convolution, per shape and density: kernels, then module."""
    rows = {(r["shape"], r["density"], r["pass"]): r for r in stored["rows"]}
    shapes = dict.fromkeys(shape for shape, _, _ in rows)
    densities = list(dict.fromkeys(density for _, density, _ in rows))
    kinds = [(kind, density) for kind in ("forward", "train") for density in densities]
    head = " | ".join(f"{kind}, {1 - density:.0%}" for kind, density in kinds)
    lines = [f"| layer | {head} |", f"|{'---|' * (len(kinds) + 1)}"]
    for shape in shapes:
        cells = (_kernels_and_module(rows[shape, density, kind], "") for kind, density in kinds)
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    ends = (f"_{kind}_density_{density}" for kind, density in kinds)
    means = (_kernels_and_module(stored["summary"], end) for end in ends)
    lines.append(f"| geometric mean | {' | '.join(means)} |")
    return "\n".join([*lines, "", _machine(stored)]) + "\n"


def _kernels_and_module(figures: Mapping[str, Any], end: str) -> str:
    speeds = (figures.get(f"{name}{end}") for name in ("speedup", "module_speedup"))
    return " / ".join(f"{speed:.2f}x" for speed in speeds if speed is not None)


def masked_conv2d_goals(stored: Mapping[str, Any]) -> str:
    """Goals beside what was measured, for each number of threads."""
    goals = stored["summary"]["goals"]
    threads = list(dict.fromkeys(count for goal in goals for count in goal["measured"]))
    lines = [
        f"| case | goal | {' | '.join(map(_threads, threads))} |",
        f"|{'---|' * (len(threads) + 2)}",
    ]
    for goal in goals:
        sign = "≤" if goal["kind"] == "sparsity" else "≥"
        measured = goal["measured"]
        cells = (
            _goal_figure(goal["kind"], measured[count]) if count in measured else "not measured"
            for count in threads
        )
        target = _goal_figure(goal["kind"], goal["target"])
        lines.append(f"| {goal['case']} | {sign} {target} | {' | '.join(cells)} |")
    amx = "with" if stored["machine"]["amx"] else "without"
    note = f"{_machine(stored, threads)} The processor is one {amx} AMX."
    return "\n".join([*lines, "", note]) + "\n"


def masked_conv2d_goals_layers(stored: Mapping[str, Any]) -> str:
    """Every layer behind the goals: speed-up, and what it makes of kept weights per second."""
    rows = {(r["goal"], r["shape"], r["threads"]): r for r in stored["rows"]}
    threads = list(dict.fromkeys(count for _, _, count in rows))
    cases = {g["goal"]: g["case"] for g in stored["summary"]["goals"] if g["kind"] == "speedup"}
    lines = [
        f"| case | layer | {' | '.join(map(_threads, threads))} |",
        f"|{'---|' * (len(threads) + 2)}",
    ]
    for name, shape in dict.fromkeys((name, shape) for name, shape, _ in rows if name in cases):
        found = (rows.get((name, shape, count)) for count in threads)
        cells = (
            f"{r['speedup']:.2f}x, {r['useful_gfs']:.0f} of dense {r['dense_gfs']:.0f} GF/s"
            if r is not None
            else "not measured"
            for r in found
        )
        lines.append(f"| {cases[name]} | {shape} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _machine(stored, threads)]) + "\n"


def routes(stored: Mapping[str, Any]) -> str:
    """What the dispatcher takes for every layer and mask, and its speed against dense."""
    rows = {(r["shape"], r["batch"], r["threads"], r["mask"]): r for r in stored["rows"]}
    masks = list(dict.fromkeys(mask for *_, mask in rows))
    lines = [
        f"| layer | batch | threads | {' | '.join(masks)} |",
        f"|{'---|' * (len(masks) + 3)}",
    ]
    for shape, batch, threads in dict.fromkeys(key[:3] for key in rows):
        found = (rows[shape, batch, threads, mask] for mask in masks)
        cells = (f"{row['speedup']:.2f}x {row['route']}" for row in found)
        lines.append(f"| {shape} | {batch} | {threads} | {' | '.join(cells)} |")
    summary, machine = stored["summary"], stored["machine"]
    note = (
        f"Geometric mean of {summary['cases']} cases {summary['geometric_mean']:.2f}x, slowest "
        f"{summary['slowest']:.2f}x, {summary['slower_than_noise']} slower than dense by more than "
        f"{summary['noise']:.0%}. {machine['cpu']}, {machine['instruction_set']}, torch "
        f"{machine['torch']}, float32; medians of 7 to 30 samples, alternating."
    )
    return "\n".join([*lines, "", note]) + "\n"


def sparse_network(stored: Mapping[str, Any]) -> str:
    """Milliseconds per batch of every engine, and speed-ups over the best dense ones."""
    engines = list(dict.fromkeys(name for row in stored["rows"] for name in row["timings"]))
    ratios = {
        "speedup": "best dense float32",
        "speedup_bf16": "best dense bf16",
        "speedup_deepsparse": "deepsparse",
    }
    ratios = {k: v for k, v in ratios.items() if any(k in row for row in stored["rows"])}
    heads = [*engines, *(f"against {name}" for name in ratios.values())]
    lines = [
        f"| network | sparsity | batch | threads | {' | '.join(heads)} |",
        f"|{'---|' * (len(heads) + 4)}",
    ]
    for row in stored["rows"]:
        times = (row["timings"].get(name) for name in engines)
        cells = [f"{time['median_us'] / 1e3:.2f}" if time else "-" for time in times]
        cells += [f"{row[ratio]:.2f}x" if ratio in row else "-" for ratio in ratios]
        head = f"{row['network']} | {1 - row['density']:.0%} | {row['batch']} | {row['threads']}"
        lines.append(f"| {head} | {' | '.join(cells)} |")
    threads = list(dict.fromkeys(row["threads"] for row in stored["rows"]))
    note = f"Milliseconds per batch. {_machine(stored, threads)}"
    return "\n".join([*lines, "", note]) + "\n"


def sparse_network_layers(stored: Mapping[str, Any]) -> str:
    """How far the convolutions are from the paper limit on one thread, by kind of layer."""
    limit = stored["summary"]["limit"]
    lines = [
        "| network | sparsity | batch | layer | route | layers | time, us | limit, us | gap |",
        f"|{'---|' * 9}",
    ]
    for row in stored["rows"]:
        if row["threads"] != 1:
            continue
        head = f"{row['network']} | {1 - row['density']:.0%} | {row['batch']}"
        for (kind, route), layers in _by_kind(row["layers"]).items():
            time = sum(layer["time_us"] for layer in layers)
            least = sum(layer["limit_us"] for layer in layers)
            lines.append(
                f"| {head} | {kind} | {route} | {len(layers)} | {time:,.0f} | {least:,.0f} "
                f"| {time / least:.1f}x |"
            )
    note = (
        f"Limit: FLOPs of kept weights at {limit['gfs_per_core']:.0f} GF/s a core "
        f"({limit['source']}). Times are those that `sparsify` measured layer by layer, with one "
        "thread; layers that it had no reason to measure are left out."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _by_kind(layers: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for layer in layers:
        if layer["time_us"] is not None:
            route = layer["route"].partition(",")[0]  # the layout follows
            groups.setdefault((layer["kind"], route), []).append(layer)
    return dict(sorted(groups.items()))


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
        f"{machine['cpu']}, {_threads(machine['threads'])}, torch {machine['torch']}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def topk_mask(stored: Mapping[str, Any]) -> str:
    """Time of each task with 1 thread and 2, beside what a user would take instead."""
    lines = ["| task | scores | threads | ours | beside it |", "|---|---|---|---|---|"]
    for row in stored["rows"]:
        mine = row["timings"]["ours"]["median_us"] / row["calls"]
        time = f"{mine:.1f} us" if mine < 1000 else f"{mine / 1e3:.2f} ms"
        others = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in row["ratios"].items())
        lines.append(f"| {row['task']} | {row['size']:,} | {row['threads']} | {time} | {others} |")
    threads = sorted({row["threads"] for row in stored["rows"]})
    slow = min(t["samples"] for row in stored["rows"] for t in row["timings"].values())
    note = f"{_machine(stored, threads)[:-1]} ({slow} of peers that take longer than 0.2 s)."
    return "\n".join([*lines, "", note]) + "\n"


def jacobian(stored: Mapping[str, Any]) -> str:
    """Gram matrices beside the loop or vmap."""
    lines = [
        "| mode | network | N | threads | route | ours | beside it | ratio | samples |",
        f"|{'---|' * 9}",
    ]
    for row in stored["rows"]:
        ours, peer = (row["timings"][name] for name in ("ours", row["peer"]))
        lines.append(
            f"| {row['mode']} | {row['network']} | {row['batch']} | {row['threads']} | "
            f"{row.get('route', '')} | {_milliseconds(ours)} | {row['peer']} {_milliseconds(peer)} "
            f"| {row['speedup']:.2f}x | {ours['samples']} |"
        )
    return "\n".join([*lines, "", _place(stored)]) + "\n"


def activation_patterns(stored: Mapping[str, Any]) -> str:
    """Counts, distances and regions beside what users take."""
    lines = ["| task | threads | ours | beside it |", "|---|---|---|---|"]
    for row in stored["rows"]:
        others = (
            f"{name} {_milliseconds(timing)} ({row['speedups'][name]:.2f}x)"
            for name, timing in row["timings"].items()
            if name != "ours"
        )
        mine = _milliseconds(row["timings"]["ours"])
        lines.append(f"| {row['task']} | {row['threads']} | {mine} | {', '.join(others)} |")
    return "\n".join([*lines, "", _place(stored)]) + "\n"


def _milliseconds(timing: Mapping[str, Any]) -> str:
    spread = (timing["high_us"] - timing["low_us"]) / timing["median_us"]
    return f"{timing['median_us'] / 1e3:.3g} ms ± {spread / 2:.0%}"


def _place(stored: Mapping[str, Any]) -> str:
    machine = stored["machine"]
    return (
        f"{machine['cpu']}, {machine['instruction_set']}, torch {machine['torch']}, float32; "
        "medians, ± half the distance between the outer deciles; alternating in one process."
    )


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


def _threads(count: int | str) -> str:
    return "1 thread" if str(count) == "1" else f"{count} threads"


def _goal_figure(kind: str, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.2f}x" if kind == "speedup" else f"{value:.0%}"


def _machine(stored: Mapping[str, Any], threads: Sequence[int | str] = ()) -> str:
    machine = stored["machine"]
    counts = " and ".join(map(str, threads or [machine["threads"]]))
    dtype = "float32 unless said" if threads else "float32"
    return (
        f"{machine['cpu']}, {counts} thread{'' if counts == '1' else 's'}, "
        f"{machine['instruction_set']}, torch {machine['torch']}, {dtype}; medians of "
        f"{_samples(stored)} samples, alternating."
    )


def _samples(stored: Mapping[str, Any]) -> int:
    row = stored["rows"][0]
    timing = row["ours"] if "ours" in row else next(iter(row["timings"].values()))
    return int(timing["samples"])


def _figure(value: Mapping[str, float | None]) -> str:
    half = value["half_width_95"]
    return f"{value['mean']:.1f}" if half is None else f"{value['mean']:.1f} ± {half:.1f}"


def cuda_estimates(stored: Mapping[str, Any]) -> str:
    """The least time that each card allows for a call."""
    rows = stored["estimates_not_run"]
    cards = list(dict.fromkeys(row["card"] for row in rows))
    lines = [f"| estimated, not run | {' | '.join(cards)} |", f"|{'---|' * (len(cards) + 1)}"]
    calls = dict.fromkeys((row["operator"], row["size"]) for row in rows)
    for operator, size in calls:
        found = {r["card"]: r for r in rows if (r["operator"], r["size"]) == (operator, size)}
        cells = (f"{found[c]['least_us']:.0f}, {found[c]['bound']}" for c in cards)
        lines.append(f"| `{operator}`, {size} | {' | '.join(cells)} |")
    lines += [
        "",
        "Microseconds that a call takes at least, and what bounds it: bytes over the bandwidth of "
        "memory or of the first caches, or operations over the float32 peak, by the cards' data "
        "sheets. **No kernel was run on any of them.** From `benchmarks/results/cuda_static.json` "
        "(`make cuda-check`).",
    ]
    return "\n".join(lines) + "\n"


def cuda_kernels(stored: Mapping[str, Any]) -> str:
    """Registers, occupancy and wide loads of the kernels in each file, over all targets."""
    files: dict[str, list[Mapping[str, Any]]] = {}
    for kernel in stored["kernels"]:
        files.setdefault(kernel["file"], []).append(kernel)
    lines = [
        "| file | kernels | registers | shared memory | threads that fit | 128-bit loads |",
        f"|{'---|' * 6}",
    ]
    for file, kernels in files.items():
        loads = sum(k.get("global_loads", 0) for k in kernels)
        wide = sum(k.get("global_loads_128", 0) for k in kernels)
        occupancies = [k["occupancy"] for k in kernels]
        least, most = f"{min(occupancies):.0%}", f"{max(occupancies):.0%}"
        cells = (
            f"`{file}`",
            str(len({k["kernel"] for k in kernels if k["target"] == kernels[0]["target"]})),
            f"at most {max(k['registers'] for k in kernels)}",
            f"at most {max(k['shared_bytes'] for k in kernels):,} bytes",
            least if least == most else f"{least} to {most}",
            f"{wide / loads:.0%} of {loads}" if loads else "not read",
        )
        lines.append(f"| {' | '.join(cells)} |")
    targets = sorted({k["target"] for k in stored["kernels"]})
    spilling = sum(k["spill_bytes"] > 0 or k["local_bytes"] > 0 for k in stored["kernels"])
    lines += [
        "",
        f"Compiled for sm_{', sm_'.join(map(str, targets))}; {spilling or 'none'} of the kernels "
        "uses local memory. Threads that fit are the "
        "share of a multiprocessor's threads that its registers, shared memory and blocks leave "
        "room for; loads are instructions in the machine code, not how often they run.",
    ]
    return "\n".join(lines) + "\n"


TABLES = {
    "cuda_static": cuda_estimates,
    "cuda_static_layers": cuda_kernels,
    "study_jackpot": study_jackpot,
    "masked_conv2d_batch1": masked_conv2d,
    "masked_conv2d_batch32": masked_conv2d,
    "masked_conv2d_goals": masked_conv2d_goals,
    "masked_conv2d_goals_layers": masked_conv2d_goals_layers,
    "routes_batch1": routes,
    "routes_batch32": routes,
    "routes_structured": routes,
    "sparse_network": sparse_network,
    "sparse_network_layers": sparse_network_layers,
    "study_sparse_training": study_sparse_training,
    "study_te_nas": study_te_nas,
    "topk_mask": topk_mask,
    "jacobian": jacobian,
    "activation_patterns": activation_patterns,
}
DOCUMENTS = (
    "README.md",
    "docs/cuda.md",
    "docs/jacobian.md",
    "docs/performance.md",
    "docs/te-nas.md",
)


def render(text: str) -> str:
    """Give the text with every table written anew."""

    def block(match: re.Match[str]) -> str:
        name = match[2].removesuffix("_layers")  # a second table from the same results
        stored = json.loads((RESULTS / f"{name}.json").read_text())
        return f"{match[1]}{TABLES[match[2]](stored)}{match[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Rewrite or check the documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check = parser.parse_args().check
    for name in DOCUMENTS:
        document = ROOT / name
        text = document.read_text()
        wanted = render(text)
        if check and text != wanted:
            sys.exit(f"{name} is out of date: python -m benchmarks.tables")
        document.write_text(wanted)


if __name__ == "__main__":
    main()
