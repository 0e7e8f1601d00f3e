"""What the dispatcher makes of every layer, density and kind of mask, against dense.

    python -m benchmarks.bench_routes --threads 1 2 --batches 1 32 --out FILE.json

A ``MaskedConv2d`` that chooses its route by itself, in inference, on a channels_last input, beside
``nn.Conv2d`` with the pruned weights set to zero, in the same memory format. A layer that gains
nothing from its mask should take as long as dense: ``speedup`` is about 1 there, never less beyond
noise.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import REPEATS, Timing, compare, geometric_mean, write_results
from benchmarks.shapes import NETWORK_SHAPES, RESNET50_1X1, RESNET50_3X3, ConvShape
from supertickets_ext import explain
from supertickets_ext.nn import MaskedConv2d

DENSITIES = (0.9, 0.5, 0.2, 0.1, 0.05)
NOISE = 0.05  # of a comparison; the dispatcher asks as much of a route before it leaves dense
BUDGET_S = 0.3  # of the samples of one contender
FEWEST = 7
STRUCTURED = (*RESNET50_3X3[1:3], RESNET50_1X1[2])
TOLERANCE = 1e-4  # relative to the largest value: sums of up to 4608 float32 products


def unstructured(shape: ConvShape, density: float) -> Tensor:
    """Each weight is kept with that probability."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape.weight_shape, generator=generator) < density


def n_of_m(shape: ConvShape, n: int, m: int) -> Tensor:
    """Of every ``m`` neighbouring input channels ``n`` are kept, at each filter and position."""
    generator = torch.Generator().manual_seed(0)
    rank = torch.rand(shape.weight_shape, generator=generator).unflatten(1, (-1, m)).argsort(2)
    return (rank.argsort(2) < n).flatten(1, 2)


def whole(shape: ConvShape, dim: int, density: float) -> Tensor:
    """Whole filters (``dim`` 0) or input channels (1) are kept."""
    mask = torch.zeros(shape.weight_shape, dtype=torch.bool)
    count = round(mask.shape[dim] * density)
    kept = torch.randperm(mask.shape[dim], generator=torch.Generator().manual_seed(0))[:count]
    return mask.index_fill_(dim, kept, True)


def blocks(shape: ConvShape) -> Tensor:
    """Four groups of filters, each with a quarter of the input channels."""
    filters, channels = torch.arange(shape.outputs), torch.arange(shape.channels)
    same = filters[:, None] * 4 // shape.outputs == channels * 4 // shape.channels
    return same[:, :, None, None].expand(shape.weight_shape).contiguous()


KINDS: dict[str, Callable[[ConvShape], Tensor]] = {
    "2:4": lambda shape: n_of_m(shape, 2, 4),
    "1:4": lambda shape: n_of_m(shape, 1, 4),
    "unstructured 50%": lambda shape: unstructured(shape, 0.5),
    "unstructured 25%": lambda shape: unstructured(shape, 0.25),
    "half of the filters": lambda shape: whole(shape, 0, 0.5),
    "half of the channels": lambda shape: whole(shape, 1, 0.5),
    "four blocks": blocks,
}


def cases(batch: int, *, structured: bool) -> Iterator[tuple[ConvShape, str, Tensor]]:
    """Layers with the name of their mask's kind and the mask."""
    if structured:
        for shape in STRUCTURED:
            for kind, mask_of in KINDS.items():
                yield replace(shape, batch=batch), kind, mask_of(shape)
        return
    for shape in (*NETWORK_SHAPES, *RESNET50_1X1):
        for density in DENSITIES:
            name = f"unstructured {density:.0%}"
            yield replace(shape, batch=batch), name, unstructured(shape, density)


@torch.inference_mode()
def bench(shape: ConvShape, kind: str, mask: Tensor) -> dict[str, Any]:
    """Time one layer and print it.

    Raises:
        SystemExit: The module's result is off.
    """
    x = shape.inputs(channels_last=True).x
    with torch.inference_mode(False), torch.no_grad():
        dense = nn.Conv2d(shape.channels, shape.outputs, shape.kernel, bias=False, **shape.keywords)
        dense.weight.mul_(mask)
        dense = dense.to(memory_format=torch.channels_last).eval()
        layer = MaskedConv2d.from_dense(copy.deepcopy(dense), mask).eval()
    right = dense(x)
    error = (layer(x) - right).abs().max() / right.abs().max()
    if not error <= TOLERANCE:
        raise SystemExit(f"{shape.name}, {kind}: off by {error:.1e} of the largest value")
    (chosen,) = explain(layer, x).rows
    start = time.perf_counter()
    dense(x)
    repeats = max(FEWEST, min(REPEATS, int(BUDGET_S / (time.perf_counter() - start))))
    contenders = {"routed": lambda: layer(x), "dense": lambda: dense(x)}
    timing: dict[str, Timing] = compare(contenders, repeats=repeats)
    speedup = timing["dense"].median_us / timing["routed"].median_us
    threads = torch.get_num_threads()
    print(
        f"{shape.name:<22} N={shape.batch:<3} {threads} thr. {kind:<21}{chosen.route.name:<8}"
        f"{timing['routed'].median_us:>10.1f} us  dense {timing['dense'].median_us:>10.1f} us"
        f"  x{speedup:<6.2f}spread {timing['routed'].spread:>4.0%}",
        flush=True,
    )
    return {
        "shape": shape.name, "batch": shape.batch, "threads": threads, "mask": kind,
        "structure": str(chosen.structure), "density": chosen.structure.density,
        "route": chosen.route.name, "timings": timing, "speedup": speedup,
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    options.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="images")
    options.add_argument("--structured", action="store_true", help="kinds of masks, few layers")
    options.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = options.parse_args()
    rows = []
    for threads in sorted(set(arguments.threads)):
        torch.set_num_threads(threads)
        for batch in arguments.batches:
            rows += [bench(*case) for case in cases(batch, structured=arguments.structured)]
    speeds = [row["speedup"] for row in rows]
    slower = [row for row in rows if row["speedup"] < 1 - NOISE]
    summary = {
        "slowest": min(speeds), "geometric_mean": geometric_mean(speeds), "cases": len(rows),
        "slower_than_noise": len(slower), "noise": NOISE,
    }  # fmt: skip
    print(
        f"{len(rows)} cases: geometric mean x{summary['geometric_mean']:.2f}, slowest "
        f"x{summary['slowest']:.2f}, {len(slower)} slower than dense by more than {NOISE:.0%}"
    )
    if arguments.out:
        write_results(arguments.out, "routes", rows, summary)


if __name__ == "__main__":
    main()
