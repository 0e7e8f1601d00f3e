"""What the CUDA kernels compile to, for every target: registers, spills, occupancy, wide loads.

    python -m benchmarks.cuda_static --out benchmarks/results/cuda_static.json

Nothing runs on a GPU. Fails if a kernel spills registers or keeps variables in local memory. With
nvdisasm (of CUDA, or ``pip install nvidia-cuda-nvdisasm``) the machine code is read as well.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cuda_limits import estimates, occupancy

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (80, 86, 89, 90, 100, 120)
_FLAGS = ("-std=c++20", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings", "-cubin")
_FUNCTION = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_THREADS = re.compile(r"\.entry (\w+)\(.*?\)\s*\.maxntid (\d+)", re.DOTALL)
_SECTION = re.compile(r"^\.text\.(\w+):", re.MULTILINE)
_LOAD = re.compile(r"\bLDG\.[\w.]*")
_DYNAMIC = 256  # threads of the few kernels whose launch does not bound them


def compile_kernels(source: Path, target: int, nvdisasm: str | None) -> list[dict[str, Any]]:
    """Compile one file for one target, and read what came of each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = ["nvcc", *_FLAGS, "--keep", "--keep-dir", folder, f"-arch=sm_{target}"]
        command += ["-o", str(cubin), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        ptx = next(Path(folder).glob("*.ptx")).read_text()
        loads = _loads(cubin, nvdisasm) if nvdisasm else {}
    threads = {name: int(count) for name, count in _THREADS.findall(ptx)}
    kernels = _reported(done.stderr, source.name, target)
    for kernel in kernels:
        kernel["threads"] = threads.get(kernel["kernel"], _DYNAMIC)
        kernel |= occupancy(target, kernel["threads"], kernel["registers"], kernel["shared_bytes"])
        kernel |= loads.get(kernel["kernel"], {})
    return kernels


def _reported(log: str, file: str, target: int) -> list[dict[str, Any]]:
    """What ptxas says of each kernel."""
    kernels: list[dict[str, Any]] = []
    for line in log.splitlines():
        if match := _FUNCTION.search(line):
            kernels.append({"file": file, "target": target, "kernel": match[1]})
        elif (match := _STACK.search(line)) and kernels:
            kernels[-1] |= {"local_bytes": int(match[1]), "spill_bytes": int(match[2])}
        elif (match := _USED.search(line)) and kernels:
            shared = _SHARED.search(line)
            kernels[-1] |= {
                "registers": int(match[1]),
                "shared_bytes": int(shared[1]) if shared else 0,
            }
    return kernels


def _loads(cubin: Path, nvdisasm: str) -> dict[str, dict[str, int]]:
    """Instructions that load from global memory, and those of them that load 128 bits."""
    done = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=True)
    parts = _SECTION.split(done.stdout)
    found = {}
    for name, code in zip(parts[1::2], parts[2::2], strict=True):
        loads = _LOAD.findall(code)
        wide = sum(".128" in load for load in loads)
        found[name] = {"global_loads": len(loads), "global_loads_128": wide}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Compile everything, write the table, and tell what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--target", type=int, nargs="*", default=list(TARGETS))
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"), help="disassembler")
    options = parser.parse_args(arguments)
    sources = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    work = [(source, target) for target in options.target for source in sources]
    with ThreadPoolExecutor(2) as pool:
        kernels = [
            k
            for part in pool.map(lambda w: compile_kernels(*w, options.nvdisasm), work)
            for k in part
        ]
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
        rest = {"estimates_not_run": estimates(), "kernels": kernels}
        options.out.write_text(json.dumps(facts | rest, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
