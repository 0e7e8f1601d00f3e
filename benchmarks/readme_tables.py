"""Write the README's tables from stored results.

python -m benchmarks.readme_tables            # rewrite README.md
python -m benchmarks.readme_tables --check    # fail if it is out of date
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
        name = net if experiment == "compare" else f"{net}, {study['second_data_set']}"
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


def _figure(value: Mapping[str, float | None]) -> str:
    half = value["half_width_95"]
    return f"{value['mean']:.1f}" if half is None else f"{value['mean']:.1f} ± {half:.1f}"


TABLES = {"study_jackpot": study_jackpot}


def render(text: str) -> str:
    """Give the text with every table written anew."""

    def block(match: re.Match[str]) -> str:
        stored = json.loads((RESULTS / f"{match[2]}.json").read_text())
        return f"{match[1]}{TABLES[match[2]](stored)}{match[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Rewrite or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    readme = ROOT / "README.md"
    text = readme.read_text()
    wanted = render(text)
    if parser.parse_args().check:
        sys.exit(text != wanted and "README.md is out of date: python -m benchmarks.readme_tables")
    readme.write_text(wanted)


if __name__ == "__main__":
    main()
