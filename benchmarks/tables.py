"""Write the tables of README and docs from stored results.

python -m benchmarks.tables            # rewrite them
python -m benchmarks.tables --check    # fail if one is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
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
    """Speed against torch's dense convolution, per shape and density."""
    rows = {(r["shape"], r["density"], r["pass"]): r for r in stored["rows"]}
    shapes = dict.fromkeys(shape for shape, _, _ in rows)
    densities = list(dict.fromkeys(density for _, density, _ in rows))
    kinds = [(kind, density) for kind in ("forward", "train") for density in densities]
    head = " | ".join(f"{kind}, {1 - density:.0%}" for kind, density in kinds)
    lines = [f"| layer | {head} |", f"|{'---|' * (len(kinds) + 1)}"]
    for shape in shapes:
        speeds = (rows[shape, density, kind]["speedup"] for kind, density in kinds)
        lines.append(f"| {shape} | {' | '.join(f'{speed:.2f}x' for speed in speeds)} |")
    means = (stored["summary"][f"speedup_{kind}_density_{density}"] for kind, density in kinds)
    lines.append(f"| geometric mean | {' | '.join(f'{mean:.2f}x' for mean in means)} |")
    return "\n".join([*lines, "", _machine(stored)]) + "\n"


def topk_mask(stored: Mapping[str, Any]) -> str:
    """Time per call beside what a user would take instead."""
    names = list(dict.fromkeys(name for row in stored["rows"] for name in row["timings"]))
    lines = [
        f"| task | scores | {' | '.join(names)} | speed-up over the best other |",
        f"|{'---|' * (len(names) + 3)}",
    ]
    for row in stored["rows"]:
        timings = (row["timings"].get(name) for name in names)
        times = " | ".join(f"{t['median_us'] / 1e3:.2f} ms" if t else "-" for t in timings)
        lines.append(f"| {row['task']} | {row['size']:,} | {times} | {row['speedup']:.2f}x |")
    return "\n".join([*lines, "", _machine(stored)]) + "\n"


def _machine(stored: Mapping[str, Any]) -> str:
    machine = stored["machine"]
    return (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}, torch "
        f"{machine['torch']}, float32; medians of {_samples(stored)} samples, alternating."
    )


def _samples(stored: Mapping[str, Any]) -> int:
    row = stored["rows"][0]
    return int((row.get("ours") or row["timings"]["ours"])["samples"])


def _figure(value: Mapping[str, float | None]) -> str:
    half = value["half_width_95"]
    return f"{value['mean']:.1f}" if half is None else f"{value['mean']:.1f} ± {half:.1f}"


TABLES = {
    "study_jackpot": study_jackpot,
    "masked_conv2d_batch1": masked_conv2d,
    "masked_conv2d_batch32": masked_conv2d,
    "topk_mask": topk_mask,
}
DOCUMENTS = ("README.md", "docs/performance.md")


def render(text: str) -> str:
    """Give the text with every table written anew."""

    def block(match: re.Match[str]) -> str:
        stored = json.loads((RESULTS / f"{match[2]}.json").read_text())
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
