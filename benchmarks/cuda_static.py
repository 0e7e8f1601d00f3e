"""What nvcc says of the CUDA kernels, for every target: registers, shared memory, spills.

    python -m benchmarks.cuda_static --out benchmarks/results/cuda_static.json

Nothing runs on a GPU. Fails if a kernel spills registers or keeps variables in local memory.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (80, 86, 89, 90, 100, 120)
_FLAGS = ("-std=c++20", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings", "-cubin")
_FUNCTION = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def compile_kernel(source: Path, target: int) -> list[dict[str, Any]]:
    """Compile one file for one target, and read what ptxas reports of each kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        command = ["nvcc", *_FLAGS, f"-arch=sm_{target}", "-o", cubin.name, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    kernels: list[dict[str, Any]] = []
    for line in done.stderr.splitlines():
        if match := _FUNCTION.search(line):
            kernels.append({"file": source.name, "target": target, "kernel": match[1]})
        elif (match := _STACK.search(line)) and kernels:
            kernels[-1] |= {"local_bytes": int(match[1]), "spill_bytes": int(match[2])}
        elif (match := _USED.search(line)) and kernels:
            shared = _SHARED.search(line)
            kernels[-1] |= {
                "registers": int(match[1]),
                "shared_bytes": int(shared[1]) if shared else 0,
            }
    return kernels


def main(arguments: list[str] | None = None) -> int:
    """Compile everything, write the table, and tell what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--target", type=int, nargs="*", default=list(TARGETS))
    options = parser.parse_args(arguments)
    sources = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    work = [(source, target) for target in options.target for source in sources]
    with ThreadPoolExecutor(2) as pool:
        kernels = [k for part in pool.map(lambda w: compile_kernel(*w), work) for k in part]
    bad = [k for k in kernels if k["local_bytes"] or k["spill_bytes"]]
    for kernel in bad:
        print(f"uses local memory: {kernel}", file=sys.stderr)
    most = max(k["registers"] for k in kernels)
    print(
        f"{len(kernels)} kernels for {len(options.target)} targets, at most {most} registers; "
        f"{len(bad)} use local memory (compiled, not run)"
    )
    if options.out:
        version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
        facts = {"nvcc": version.stdout.strip().splitlines()[-1], "run_on_gpu": False}
        options.out.write_text(json.dumps(facts | {"kernels": kernels}, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
