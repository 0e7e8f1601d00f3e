"""Tables of the operators' speed, from stored results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.table_cells import goal_figure, machine_text, milliseconds, place, threads_text


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
    return "\n".join([*lines, "", machine_text(stored)]) + "\n"


def _kernels_and_module(figures: Mapping[str, Any], end: str) -> str:
    speeds = (figures.get(f"{name}{end}") for name in ("speedup", "module_speedup"))
    return " / ".join(f"{speed:.2f}x" for speed in speeds if speed is not None)


def masked_conv2d_goals(stored: Mapping[str, Any]) -> str:
    """Goals beside what was measured, for each number of threads."""
    goals = stored["summary"]["goals"]
    threads = list(dict.fromkeys(count for goal in goals for count in goal["measured"]))
    lines = [
        f"| case | goal | {' | '.join(map(threads_text, threads))} |",
        f"|{'---|' * (len(threads) + 2)}",
    ]
    for goal in goals:
        sign = "≤" if goal["kind"] == "sparsity" else "≥"
        measured = goal["measured"]
        cells = (
            goal_figure(goal["kind"], measured[count]) if count in measured else "not measured"
            for count in threads
        )
        target = goal_figure(goal["kind"], goal["target"])
        lines.append(f"| {goal['case']} | {sign} {target} | {' | '.join(cells)} |")
    amx = "with" if stored["machine"]["amx"] else "without"
    note = f"{machine_text(stored, threads)} The processor is one {amx} AMX."
    return "\n".join([*lines, "", note]) + "\n"


def masked_conv2d_goals_layers(stored: Mapping[str, Any]) -> str:
    """Every layer behind the goals: speed-up, and what it makes of kept weights per second."""
    rows = {(r["goal"], r["shape"], r["threads"]): r for r in stored["rows"]}
    threads = list(dict.fromkeys(count for _, _, count in rows))
    cases = {g["goal"]: g["case"] for g in stored["summary"]["goals"] if g["kind"] == "speedup"}
    lines = [
        f"| case | layer | {' | '.join(map(threads_text, threads))} |",
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
    return "\n".join([*lines, "", machine_text(stored, threads)]) + "\n"


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
    note = f"Milliseconds per batch. {machine_text(stored, threads)}"
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
    note = f"{machine_text(stored, threads)[:-1]} ({slow} of peers that take longer than 0.2 s)."
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
            f"{row.get('route', '')} | {milliseconds(ours)} | {row['peer']} {milliseconds(peer)} "
            f"| {row['speedup']:.2f}x | {ours['samples']} |"
        )
    return "\n".join([*lines, "", place(stored)]) + "\n"


def activation_patterns(stored: Mapping[str, Any]) -> str:
    """Counts, distances and regions beside what users take."""
    lines = ["| task | threads | ours | beside it |", "|---|---|---|---|"]
    for row in stored["rows"]:
        others = (
            f"{name} {milliseconds(timing)} ({row['speedups'][name]:.2f}x)"
            for name, timing in row["timings"].items()
            if name != "ours"
        )
        mine = milliseconds(row["timings"]["ours"])
        lines.append(f"| {row['task']} | {row['threads']} | {mine} | {', '.join(others)} |")
    return "\n".join([*lines, "", place(stored)]) + "\n"
