"""Patterns: their number, their distances, and regions of thin networks, beside what users take.

python -m benchmarks.bench_activation_patterns --threads 1 --out FILE
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import proxy_networks
from benchmarks.harness import QUICK_REPEATS, REPEATS, compare, merged, parser, write_results
from supertickets_ext import (
    RegionCounter,
    count_patterns,
    count_regions,
    hamming_gram,
    pack_signs,
    regions_refusal,
)

SAMPLES, NEURONS = 2000, 8192
REGION_SAMPLES, BATCH = 3000, 1000  # of one channel and 3x3 pixels, as TE-NAS takes them


def published(signs: Tensor) -> int:
    """TE-NAS: Hamming distances by a product of 0/1 matrices, in float32."""
    one_way = signs @ (1 - signs).T
    same = (one_way + one_way.T) == 0
    return round(float((1 / same.sum(1).double()).sum()))


def packbits_set(flags: Tensor) -> int:
    return len({row.tobytes() for row in np.packbits(flags.numpy(), axis=1)})


def naswot(signs: Tensor) -> Tensor:
    """NASWOT: number of equal bits, by two products."""
    return signs @ signs.T + (1 - signs) @ (1 - signs).T


def tasks(signs: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """Contenders by task, each with its input in the form that it takes best.

    "of bits" starts from packed rows, as a network leaves them; "of flags" from bool, for the
    published product from the same as float32; "of floats" from float32 for all.
    """
    patterns, flags = pack_signs(signs), signs > 0
    packed = np.packbits(signs.numpy() > 0, axis=1)
    if not count_patterns(patterns, warn=False) == published(signs) == packbits_set(flags):
        raise SystemExit("count_patterns is wrong")
    if not torch.equal(NEURONS - hamming_gram(patterns), naswot(signs).int()):
        raise SystemExit("hamming_gram is wrong")
    return {
        "count, of bits": {
            "ours": lambda: count_patterns(patterns, warn=False),
            "set of bytes": lambda: len({row.tobytes() for row in packed}),
            "torch.unique": lambda: len(torch.unique(patterns, dim=0)),
        },
        "count, of floats": {
            "ours": lambda: count_patterns(pack_signs(signs), warn=False),
            "packbits + set": lambda: packbits_set(signs > 0),
            "published product": lambda: published(signs),
        },
        "count, of flags": {
            "ours": lambda: count_patterns(pack_signs(flags), warn=False),
            "packbits + set": lambda: packbits_set(flags),
            "published product": lambda: published(signs),
        },
        "Hamming, of bits": {
            "ours": lambda: hamming_gram(patterns),
            "NASWOT products": lambda: naswot(signs),
        },
    }


def thin_network(live: Sequence[Sequence[str]]) -> nn.Module:
    """TE-NAS's network for region counts in NAS-Bench-201: one cell of one channel."""
    cell = proxy_networks.nasbench201(1, 1, live)[2]
    head = [nn.BatchNorm2d(1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 10)]
    return proxy_networks.kaiming(nn.Sequential(cell, *head), 0)


def hooked(net: nn.Module, x: Tensor, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """What every ReLU gives, by forward hooks, samples in rows."""
    found: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _, __, out: found.append(out.flatten(1)))
        for module in net.modules()
        if isinstance(module, nn.ReLU)
    ]
    rows = []
    with torch.no_grad():
        for part in x.split(BATCH):
            found.clear()
            net(part)
            rows.append(finish(torch.cat(found, 1)))
    for handle in handles:
        handle.remove()
    return torch.cat(rows)


def region_tasks(x: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """The number of regions of thin networks, forward passes included."""
    nets = {"supernet": thin_network(proxy_networks.SUPERNET),
            "path": thin_network(proxy_networks.PATH)}  # fmt: skip
    tasks: dict[str, dict[str, Callable[[], object]]] = {}
    for name, net in nets.items():
        if regions_refusal(net, x) is not None:
            raise SystemExit(f"{name}: takes hooks, {regions_refusal(net, x)}")
        tasks[f"regions, {name}"] = {
            "ours": partial(RegionCounter(net, x), x, batch=BATCH, warn=False),
            "ours, structure named": partial(
                count_regions, net, x, batch=BATCH, warn=False, structure=name
            ),
            "ours, program made anew": partial(count_regions, net, x, batch=BATCH, warn=False),
            "packbits + set": lambda net=net: packbits_set(hooked(net, x, lambda v: v > 0)),
            "published product": lambda net=net: published(
                hooked(net, x, lambda v: (v > 0).float())
            ),
        }
        if len({call() for call in tasks[f"regions, {name}"].values()}) != 1:
            raise SystemExit(f"count_regions is wrong for {name}")
    return tasks


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument(
        "--only", default="", help="tasks whose name holds this; others in FILE stay"
    )
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    signs = (torch.rand(SAMPLES, NEURONS, generator=generator) < 0.5).float()
    signs[SAMPLES // 2 :: 2] = signs[: SAMPLES // 4]  # repeated rows
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    rows: list[dict[str, Any]] = []
    crops = torch.randn(REGION_SAMPLES, 1, 3, 3, generator=generator)
    for task, contenders in {**tasks(signs), **region_tasks(crops)}.items():
        if arguments.only not in task:
            continue
        timing = compare(contenders, repeats=repeats)
        speedups = {n: t.median_us / timing["ours"].median_us for n, t in timing.items()}
        rows.append(
            {"task": task, "threads": arguments.threads, "timings": timing, "speedups": speedups}
        )
        for name, t in timing.items():
            print(f"{task:<18}{name:<20}{t.median_us:>10.0f} us  spread {t.spread:.0%}"
                  f"  {speedups[name]:.1f}x", flush=True)  # fmt: skip
    if arguments.out:
        if arguments.only:
            rows = merged(arguments.out, rows, ("task", "threads"))
        sizes = {"samples": SAMPLES, "neurons": NEURONS, "region_samples": REGION_SAMPLES,
                 "batch": BATCH}  # fmt: skip
        write_results(arguments.out, "activation_patterns", rows, sizes)


if __name__ == "__main__":
    main()
