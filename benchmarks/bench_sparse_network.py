"""Whole pruned networks: ``sparsify`` against dense engines and DeepSparse.

    python -m benchmarks.bench_sparse_network --out benchmarks/results/sparse_network.json

Each case is timed with one thread and with ``--threads``. Every engine runs the same network on
the same images, its output is compared with float64 first, and samples alternate between engines.
DeepSparse takes part if ``--deepsparse-python`` names the Python of an environment of its own:

    python3.11 -m venv DIR && DIR/bin/pip install deepsparse==1.8.0

Per layer, the gap to the paper limit is stated: kept FLOPs over what the cores could do at best.
Without ``--limit-gfs`` that rate is a dense float32 convolution's, timed here.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.engines import (
    DeepSparseEngine,
    OnnxRuntimeEngine,
    TorchEngine,
    compiled,
    eager,
    export,
)
from benchmarks.harness import (
    QUICK_REPEATS,
    REPEATS,
    Timing,
    compare,
    geometric_mean,
    parser,
    write_results,
)
from benchmarks.networks import IMAGE, NETWORKS, build_network, convolution_work
from benchmarks.shapes import RESNET50_3X3
from supertickets_ext.sparsify import sparsify

OURS, OURS_BF16, DEEPSPARSE = "sparsify", "sparsify bf16", "deepsparse"
DENSE = ("torch", "torch compiled", "onnxruntime")
DENSE_BF16 = ("torch bf16", "torch compiled bf16")
# Distance to the float64 logits relative to their norm: torch's own is a matter of dtype and depth,
# and the bound on it only catches a broken network; an engine may be off by SLACK times as much.
SLACK = 4
BOUND, BOUND_BF16 = 1e-3, 0.3
LIMIT_SHAPE = next(s for s in RESNET50_3X3 if s.name == "resnet50-c4-3x3")

Engine = TorchEngine | OnnxRuntimeEngine | DeepSparseEngine


class Case(NamedTuple):
    """What is timed at a time."""

    network: str
    density: float
    batch: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.network}, density {self.density}, batch {self.batch}, {self.threads} thread(s)"
        )


class Limit(NamedTuple):
    """What one core does at best."""

    gfs_per_core: float
    source: str


class Engines:
    """Every engine on one network and one batch.

    Args:
        model: In evaluation mode.
        images: ``[N, 3, H, W]``.
        arguments: Of the command line.
        stack: Ends other processes and removes files.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, arguments: argparse.Namespace, stack: ExitStack
    ) -> None:
        torch._dynamo.reset()  # no code of another case, or of another thread count, is taken
        bf16 = torch.bfloat16
        self.network = sparsify(model, images, verbose=False)
        half_images = images.to(bf16)
        half = sparsify(copy.deepcopy(model).to(bf16), half_images, verbose=False)
        self.running: dict[str, Engine] = {
            OURS: TorchEngine(self.network, images),
            OURS_BF16: TorchEngine(half, half_images),
            "torch": eager(model, images),
            "torch bf16": eager(model, images, bf16),
        }
        self.missing: dict[str, str] = {}
        if arguments.compile:
            self._compile("torch compiled", model, images, torch.float32)
            self._compile("torch compiled bf16", model, images, bf16)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = export(model, images, folder / "network.onnx")
        self.running["onnxruntime"] = OnnxRuntimeEngine(path, images)
        if python := arguments.deepsparse_python:
            path = export(model, images, folder / "old.onnx", for_deepsparse=True)
            peer = DeepSparseEngine(python, path, images, folder)
            self.running[DEEPSPARSE] = stack.enter_context(closing(peer))

    def _compile(self, name: str, model: nn.Module, images: Tensor, dtype: torch.dtype) -> None:
        try:
            self.running[name] = compiled(model, images, dtype)
        except RuntimeError as error:  # no compiler on this machine, say
            self.missing[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            print(f"{name} is left out: {self.missing[name]}")

    def check(self, exact: Tensor) -> dict[str, float]:
        """Compare every output with the float64 one; nothing wrong is ever timed.

        Raises:
            SystemExit: An engine is off.
        """
        with torch.inference_mode():
            errors = {
                name: float((engine.output() - exact).norm() / exact.norm())
                for name, engine in self.running.items()
            }
        for name, error in errors.items():
            half = name.endswith("bf16")
            bound = BOUND_BF16 if half else BOUND
            allowed = min(SLACK * errors["torch bf16" if half else "torch"], bound)
            if not error <= allowed:
                raise SystemExit(f"{name}: off by {error:.1e} of the norm, allowed {allowed:.1e}")
        return errors


def bench(case: Case, limit: Limit, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one case and print it."""
    torch.set_num_threads(case.threads)
    model = build_network(case.network, case.density)
    images = torch.randn(case.batch, *IMAGE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = copy.deepcopy(model).double()(images.double())
    print(f"\n{case}", flush=True)
    with ExitStack() as stack:
        engines = Engines(model, images, arguments, stack)
        errors = engines.check(exact)
        repeats = QUICK_REPEATS if arguments.quick else REPEATS
        timing = compare(engines.running, repeats=repeats, settle=True)
    layers = layer_rows(model, engines.network, case, limit)
    row = {
        **case._asdict(), "timings": timing, "errors": errors, "missing": engines.missing,
        **verdict(timing), "layers": layers,
    }  # fmt: skip
    print_layers(layers)
    for name, time in sorted(timing.items(), key=lambda item: item[1].median_us):
        ratio = time.median_us / timing[OURS].median_us
        print(
            f"{name:<20}{time.median_us / 1e3:>9.2f} ms  x{ratio:<6.2f} spread {time.spread:>4.0%}"
            f"  error {errors[name]:.1e}",
            flush=True,
        )
    return row


def verdict(timing: dict[str, Timing]) -> dict[str, Any]:
    """Compare with the best dense engine of each kind, and with DeepSparse."""
    ours = min(timing[name].median_us for name in (OURS, OURS_BF16))

    def best(names: tuple[str, ...]) -> str:
        return min((n for n in names if n in timing), key=lambda n: timing[n].median_us)

    def speedup(name: str, mine: float) -> float:
        return timing[name].median_us / mine

    found: dict[str, Any] = {
        "best_dense": best(DENSE),
        "speedup": speedup(best(DENSE), timing[OURS].median_us),
        "best_dense_bf16": best(DENSE_BF16),
        "speedup_bf16": speedup(best(DENSE_BF16), ours),
    }
    if DEEPSPARSE in timing:
        found["speedup_deepsparse"] = speedup(DEEPSPARSE, timing[OURS].median_us)
    return found


def layer_rows(model: nn.Module, sparse: Any, case: Case, limit: Limit) -> list[dict[str, Any]]:
    """Join what ``sparsify`` measured per layer with the work of the layer.

    A layer that ``sparsify`` had no reason to measure has no times.
    """
    measured = {row.layer: row for row in sparse.table}
    rows = []
    for work in convolution_work(model):
        row = measured[work.name]
        time_us = row.dense_us if row.route.startswith("dense") else row.sparse_us
        kilo_flops = 2e-3 * work.kept_macs * case.batch
        rows.append(
            {
                "layer": work.name,
                "kind": work.kind,
                "density": work.density,
                "route": row.route,
                "why": row.why,
                "dense_us": row.dense_us,
                "sparse_us": row.sparse_us,
                "time_us": time_us,
                "useful_gfs": time_us and kilo_flops / time_us,
                "limit_us": kilo_flops / (limit.gfs_per_core * case.threads),
            }
        )
    return rows


def print_layers(rows: list[dict[str, Any]]) -> None:
    """Print one line per convolution."""
    print(f"{'layer':<24}{'density':>8} {'route':<16}{'dense us':>9}{'sparse us':>10}", end="")
    print(f"{'useful GF/s':>12}{'limit us':>9}{'gap':>7}")
    for row in rows:
        times = (row["dense_us"], row["sparse_us"])
        dense, sparse = ("-" if time is None else f"{time:.0f}" for time in times)
        line = f"{row['layer']:<24}{row['density']:>8.2f} {row['route']:<16}{dense:>9}{sparse:>10}"
        if row["time_us"] is not None:
            gap = row["time_us"] / row["limit_us"]
            line += f"{row['useful_gfs']:>12.1f}{row['limit_us']:>9.0f}{gap:>6.1f}x"
        print(line)


def measured_limit() -> Limit:
    """Time a dense float32 convolution, the best use of multiply-adds there is, on one core."""
    torch.set_num_threads(1)
    shape = replace(LIMIT_SHAPE, batch=32)
    x, weight, _, _ = shape.inputs(channels_last=True)
    weight = weight.contiguous(memory_format=torch.channels_last)
    flops = 2 * weight.numel() * shape.batch * shape.image[0] * shape.image[1]
    time = compare({"dense": lambda: F.conv2d(x, weight, **shape.keywords)}, repeats=REPEATS)
    gfs = flops / time["dense"].low_us / 1e3
    return Limit(gfs, f"dense float32 convolution {shape.name}, batch {shape.batch}, measured")


def cases(arguments: argparse.Namespace) -> list[Case]:
    """List the cases that the command line asks for."""
    threads = sorted({1, arguments.threads})
    return [
        Case(network, density, batch, count)
        for network, batch, count, density in itertools.product(
            arguments.networks, arguments.batches, threads, arguments.densities
        )
    ]


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--densities", nargs="+", type=float, default=[0.1, 0.05])
    options.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="images")
    options.add_argument("--no-compile", dest="compile", action="store_false",
                         help="leave torch.compile out")  # fmt: skip
    options.add_argument("--deepsparse-python", type=Path, help="Python that has deepsparse 1.8.0")
    options.add_argument("--limit-gfs", type=float, help="useful GF/s that a core does at best")
    arguments = options.parse_args()
    if arguments.limit_gfs:
        limit = Limit(arguments.limit_gfs, "given by --limit-gfs")
    else:
        limit = measured_limit()
    print(f"limit of a core: {limit.gfs_per_core:.0f} GF/s, {limit.source}")
    rows = [bench(case, limit, arguments) for case in cases(arguments)]
    summary: dict[str, Any] = {"limit": limit._asdict()}
    for name in ("speedup", "speedup_bf16", "speedup_deepsparse"):
        ratios = [row[name] for row in rows if name in row]
        if ratios:
            summary[name] = geometric_mean(ratios)
            print(f"geometric mean, {name}: x{summary[name]:.2f}")
    if arguments.out:
        write_results(arguments.out, "sparse_network", rows, summary)


if __name__ == "__main__":
    main()
