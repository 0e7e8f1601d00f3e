"""Write the tables of README and docs from stored results.

python -m benchmarks.tables            # rewrite them
python -m benchmarks.tables --check    # fail if one is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks import cuda_tables, kernel_tables, study_tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES = {
    "cuda_static": cuda_tables.cuda_estimates,
    "cuda_static_layers": cuda_tables.cuda_kernels,
    "study_jackpot": study_tables.study_jackpot,
    "masked_conv2d_batch1": kernel_tables.masked_conv2d,
    "masked_conv2d_batch32": kernel_tables.masked_conv2d,
    "masked_conv2d_goals": kernel_tables.masked_conv2d_goals,
    "masked_conv2d_goals_layers": kernel_tables.masked_conv2d_goals_layers,
    "routes_batch1": kernel_tables.routes,
    "routes_batch32": kernel_tables.routes,
    "routes_structured": kernel_tables.routes,
    "sparse_network": kernel_tables.sparse_network,
    "sparse_network_layers": kernel_tables.sparse_network_layers,
    "study_sparse_training": study_tables.study_sparse_training,
    "study_te_nas": study_tables.study_te_nas,
    "cream_released": study_tables.cream_released,
    "topk_mask": kernel_tables.topk_mask,
    "jacobian": kernel_tables.jacobian,
    "activation_patterns": kernel_tables.activation_patterns,
}
DOCUMENTS = (
    "README.md",
    "docs/cream.md",
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
