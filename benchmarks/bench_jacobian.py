"""Gram matrices of Jacobians beside what a user would write: the loop and torch.func.

Peers: ``loop`` is the published one of TE-NAS, a backward pass for each sample through the graph of
the whole batch (coupled); ``vmap`` is ``torch.func.vmap(grad)`` with a product for each parameter
(independent). Each is checked against the other side first. Long cases are timed few times.

    python -m benchmarks.bench_jacobian --out benchmarks/results/jacobian.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks import proxy_networks
from benchmarks.harness import merged, parser, timing_of, write_results
from supertickets_ext import ntk_explain, ntk_gram

TOLERANCE = 2e-2  # a ReLU gate near zero may take the other side in another algorithm

COLD_ROUNDS = 2  # of a case that is too long for a warm-up


def relu_conv_norm(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(out))


class Cell(nn.Module):
    """A cell of NAS-Bench-201: 3x3 convolutions on five edges, a skip from input to output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(relu_conv_norm(channels, channels) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to a map of the block's size."""
        one = self.edges[0](x)
        two = self.edges[1](x) + self.edges[2](one)
        return x + self.edges[3](one) + self.edges[4](two)


class Reduction(nn.Module):
    """The residual block between two stages."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(relu_conv_norm(channels, out, 2), relu_conv_norm(out, out))
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to a map of the block's size."""
        return self.main(x) + self.down(x)


def nasbench201(channels: int, cells: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
    ]  # fmt: skip
    for stage in range(3):
        if stage:
            layers.append(Reduction(channels, 2 * channels))
            channels *= 2
        layers += [Cell(channels) for _ in range(cells)]
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, 10))


class Basic(nn.Module):
    """A residual block of ResNet-18."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.down: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.down = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to a map of the block's size."""
        return torch.relu(self.main(x) + self.down(x))


def resnet18(width: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    ]  # fmt: skip
    channels = width
    for stage in range(4):
        out = width << stage
        layers += [Basic(channels, out, 2 if stage else 1), Basic(out, out, 1)]
        channels = out
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
    )  # fmt: skip


def loop(net: nn.Module, x: Tensor) -> Tensor:
    net.train()
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    sums = net(x).sum(1)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(s, weights, retain_graph=True)])
        for s in sums
    ]
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def by_vmap(net: nn.Module, x: Tensor) -> Tensor:
    net.eval()
    weights = {n: p.detach() for n, p in net.named_parameters() if n.endswith("weight")}

    def total(moved: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(net, moved, (one[None],)).sum()

    grams = [g.flatten(1) for g in vmap(grad(total), (None, 0))(weights, x).values()]
    return torch.stack([rows @ rows.T for rows in grams]).sum(0)


class Case(NamedTuple):
    """A network, a batch, a mode, and how often it is timed; with 2 rounds the first is cold."""

    name: str
    build: Callable[[], nn.Module]
    batch: int
    mode: str
    rounds: int


CASES = [
    Case("TE-NAS supernet C=3", lambda: proxy_networks.nasbench201(), 72, "coupled", 3),
    Case("DARTS supernet C=1", lambda: proxy_networks.Darts(), 14, "coupled", 5),
    Case("NB201 C=16 N=5", lambda: nasbench201(16, 5), 32, "independent", 4),
    Case("ResNet-18 w64", lambda: resnet18(64), 16, "independent", 3),
    Case("NB201 C=3 N=1", lambda: nasbench201(3, 1), 72, "coupled", 2),
    Case("ResNet-18 w16", lambda: resnet18(16), 16, "coupled", 3),
    Case("ResNet-18 w64", lambda: resnet18(64), 16, "coupled", 2),
    Case("NB201 C=16 N=5", lambda: nasbench201(16, 5), 32, "coupled", 2),
]


BOTH = 2  # of the cases, the proxies, are timed on one thread too


def bench(case: Case, threads: int) -> dict[str, Any]:
    """Check one case, time it, print a line."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net, x = case.build(), torch.randn(case.batch, 3, 32, 32)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    peer_name = "loop" if case.mode == "coupled" else "vmap"
    peer = loop if case.mode == "coupled" else by_vmap
    calls: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ntk_gram(net, x, mode=case.mode),
        peer_name: lambda: peer(net, x),
    }
    micros: dict[str, list[float]] = {name: [] for name in calls}
    first: dict[str, Tensor] = {}
    for _ in range(case.rounds if case.rounds == COLD_ROUNDS else case.rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            gram = call()
            micros[name].append((time.perf_counter() - start) * 1e6)
            first.setdefault(name, gram)
    error = float((first["ours"] - first[peer_name]).norm() / first[peer_name].norm())
    if error > TOLERANCE:
        raise AssertionError(f"{case.name}, {case.mode}: differs from {peer_name} by {error:.1e}")
    if case.rounds != COLD_ROUNDS:
        micros = {name: values[1:] for name, values in micros.items()}
    timing = {name: timing_of(values) for name, values in micros.items()}
    speedup = timing[peer_name].median_us / timing["ours"].median_us
    print(
        f"{case.mode:<12}{case.name:<20} N={case.batch:<4}threads {threads}  "
        f"ours {timing['ours'].median_us / 1e3:>8.1f} ms (spread {timing['ours'].spread:.0%})  "
        f"{peer_name} {timing[peer_name].median_us / 1e3:>8.1f} ms  x{speedup:.2f}  "
        f"difference {error:.0e}",
        flush=True,
    )
    return {
        "network": case.name, "batch": case.batch, "mode": case.mode, "threads": threads,
        "peer": peer_name, "route": ntk_explain(net, x, mode=case.mode).network,
        "timings": timing, "speedup": speedup, "relative_difference": error,
    }  # fmt: skip


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument(
        "--only", default="", help="cases whose mode and network hold this; others in FILE stay"
    )
    arguments = options.parse_args()
    cases = [(case, arguments.threads) for case in (CASES[:1] if arguments.quick else CASES)]
    if not arguments.quick and arguments.threads > 1:
        cases = [(case, 1) for case in CASES[:BOTH]] + cases
    cases = [
        (case, threads)
        for case, threads in cases
        if arguments.only in f"{case.mode} {case.name}, {threads} threads"
    ]
    rows = [bench(case, threads) for case, threads in cases]
    if arguments.out:
        if arguments.only:
            rows = merged(arguments.out, rows, ("network", "mode", "threads"))
        write_results(arguments.out, "jacobian", rows, {})


if __name__ == "__main__":
    main()
