"""masked_conv2d against the dense convolution, layer by layer.

    python -m benchmarks.bench_masked_conv2d --batch 32 --out FILE.json    # the table of layers
    python -m benchmarks.bench_masked_conv2d --goals --out FILE.json       # the goals
    python -m benchmarks.bench_masked_conv2d --goals --task 'forward.* 1-thread' --out FILE.json

The baseline is what a user would run instead, in its best setting: ``F.conv2d`` in channels_last.
For inference its weight is masked beforehand; in a training step it is masked in each step.
Beside the sparse kernels, called directly, runs what a user of ``MaskedConv2d`` gets: the module,
which takes the route that measured fastest.
The goals (see ``conv_goals.py``) are measured with one thread and with ``--threads``; with
``--task``, only those of which it finds ``goal layer threads-thread``, and the other rows of the
file stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.conv_goals import KEY, in_order, measure_goals, verdicts_of
from benchmarks.harness import (
    QUICK_REPEATS,
    REPEATS,
    compare,
    geometric_mean,
    merged,
    parser,
    write_results,
)
from benchmarks.shapes import NETWORK_SHAPES, ConvShape
from supertickets_ext import masked_conv2d, reference
from supertickets_ext.nn import MaskedConv2d

DENSITIES = (0.2, 0.1, 0.05)
QUICK_SHAPES = 3
# Against float64, relative to the largest value: sums of up to 4608 float32 products.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

Convolve = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(shape: ConvShape) -> Convolve:
    return lambda x, weight, mask: masked_conv2d(x, weight, mask, **shape.keywords)


def masked_dense(shape: ConvShape) -> Convolve:
    return lambda x, weight, mask: F.conv2d(x, weight * mask, **shape.keywords)


def routed(shape: ConvShape, weight: Tensor, mask: Tensor) -> MaskedConv2d:
    """The module on these weights, without a bias."""
    with torch.device("meta"):
        conv = nn.Conv2d(shape.channels, shape.outputs, shape.kernel, bias=False, **shape.keywords)
    conv.weight = nn.Parameter(weight.detach())
    return MaskedConv2d.from_dense(conv, mask)


def check(shape: ConvShape, x: Tensor, weight: Tensor, mask: Tensor) -> None:
    """Fail if a forward pass or a gradient is off; nothing wrong is ever timed."""

    def results(convolve: Convolve, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, weight)]
        output = convolve(leaves[0], leaves[1], mask)
        return (output, *torch.autograd.grad(output.square().sum(), leaves))

    def twin(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        return reference.masked_conv2d(x, weight, mask, **shape.keywords)

    exact = results(twin, torch.float64)
    for name, mine, right in zip(
        ("output", "grad_x", "grad_weight"), results(ours(shape), x.dtype), exact, strict=True
    ):
        error = (mine.double() - right).abs().max() / right.abs().max().clamp_min(1e-12)
        if not error <= TOLERANCE[x.dtype]:
            raise SystemExit(f"{shape.name}: {name} is off by {error:.2e} of its largest value")


def forward_contenders(
    shape: ConvShape, x: Tensor, weight: Tensor, mask: Tensor
) -> dict[str, Callable[[], object]]:
    """Inference: the dense weight is masked once, outside the timing."""
    pruned = (weight * mask).contiguous(memory_format=torch.channels_last)
    own, options, layer = ours(shape), shape.keywords, routed(shape, weight, mask)

    def run_ours() -> object:
        with torch.inference_mode():
            return own(x, weight, mask)

    def run_dense() -> object:
        with torch.inference_mode():
            return F.conv2d(x, pruned, **options)

    def run_module() -> object:
        with torch.inference_mode():
            return layer(x)

    return {"ours": run_ours, "module": run_module, "dense": run_dense}


def train_contenders(
    shape: ConvShape, x: Tensor, weight: Tensor, mask: Tensor
) -> dict[str, Callable[[], object]]:
    """Forward and both gradients; masking the dense weight is part of each step."""
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    last = leaves[1].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    cotangent = torch.ones_like(ours(shape)(x, weight, mask))
    layer = routed(shape, weight, mask)

    def step(convolve: Convolve, parameter: Tensor) -> Callable[[], object]:
        def run() -> object:
            output = convolve(leaves[0], parameter, mask)
            return torch.autograd.grad(output, [leaves[0], parameter], cotangent)

        return run

    return {
        "ours": step(ours(shape), leaves[1]),
        "module": step(lambda x, weight, mask: layer(x), layer.weight),
        "dense": step(masked_dense(shape), last),
    }


PASSES = {"forward": forward_contenders, "train": train_contenders}


def bench(
    shape: ConvShape, density: float, dtype: torch.dtype, repeats: int
) -> list[dict[str, Any]]:
    """Time one layer at one density."""
    x, weight, mask, _ = shape.inputs(density=density, dtype=dtype, channels_last=True)
    check(shape, x, weight, mask)
    rows = []
    for name, contenders in PASSES.items():
        timing = compare(contenders(shape, x, weight, mask), repeats=repeats)
        mine, module, dense = timing["ours"], timing["module"], timing["dense"]
        speedup, routed_speedup = (dense.median_us / t.median_us for t in (mine, module))
        rows.append(
            {"shape": shape.name, "batch": shape.batch, "dtype": str(dtype), "density": density,
             "pass": name, "ours": mine, "module": module, "dense": dense, "speedup": speedup,
             "module_speedup": routed_speedup}
        )  # fmt: skip
        print(
            f"{shape.name:<22} N={shape.batch:<3} density {density:<5} {name:<8}"
            f"{mine.median_us:>10.1f} us  dense {dense.median_us:>10.1f} us"
            f"  x{speedup:<6.2f} module x{routed_speedup:<6.2f}"
            f"spread {mine.spread:>4.0%} / {dense.spread:.0%}",
            flush=True,
        )
    return rows


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--batch", type=int, default=1, help="images")
    options.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options.add_argument("--goals", action="store_true", help="measure the goals instead")
    options.add_argument("--task", default="", help="only rows of goals that this pattern finds")
    arguments = options.parse_args()
    if arguments.goals:
        bench_goals(arguments)
    else:
        bench_layers(arguments)


def bench_goals(arguments: argparse.Namespace) -> None:
    """Measure the goals, and print them with what was reached by each number of threads."""
    rows = measure_goals(sorted({1, arguments.threads}), arguments.task, quick=arguments.quick)
    if arguments.task and arguments.out:  # the others stay as stored
        rows = in_order(merged(arguments.out, rows, KEY))
    verdicts = verdicts_of(rows, quick=arguments.quick)
    print("", *(verdict for verdict in verdicts if verdict.measured), sep="\n")
    if arguments.out:
        summary = {"goals": [verdict.stored() for verdict in verdicts]}
        write_results(arguments.out, "masked_conv2d_goals", rows, summary)


def bench_layers(arguments: argparse.Namespace) -> None:
    """Time the layers of the networks at one batch size."""
    torch.set_num_threads(arguments.threads)
    shapes = NETWORK_SHAPES[:QUICK_SHAPES] if arguments.quick else NETWORK_SHAPES
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    rows = [
        row
        for shape in shapes
        for density in DENSITIES
        for row in bench(
            replace(shape, batch=arguments.batch), density, getattr(torch, arguments.dtype), repeats
        )
    ]
    summary = {}
    for density in DENSITIES:
        for name in PASSES:
            chosen = [r for r in rows if r["density"] == density and r["pass"] == name]
            for kind in ("speedup", "module_speedup"):
                mean = geometric_mean(r[kind] for r in chosen)
                summary[f"{kind}_{name}_density_{density}"] = mean
                print(f"geometric mean, {kind}, {name}, density {density}: x{mean:.2f}")
    if arguments.out:
        write_results(arguments.out, "masked_conv2d", rows, summary)


if __name__ == "__main__":
    main()
