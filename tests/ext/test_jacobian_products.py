"""Products with a Jacobian, and the kernel of two batches, against the twins in float64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import supertickets_ext as ext
from supertickets_ext import _jacobian_products as products
from supertickets_ext import reference
from tests.ext.jacobian_nets import build, close, seeded


@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("name", ["residual", "depthwise", "masked", "unknown"])
def test_cross_and_products(name: str, mode: str) -> None:
    net, x = build(name)
    other = build(name, 4)[1] + 0.1
    for reduction in ("sum", "block"):
        kwargs: dict[str, Any] = {"mode": mode, "reduction": reduction, "parameters": "all"}
        cross = ext.ntk_cross(net, x, other, **kwargs)
        close(cross, reference.ntk_cross(net, x, other, **kwargs))
    classes = net(x).shape[1]
    cotangents = torch.randn(3, len(x), classes, dtype=x.dtype, generator=seeded())
    ours = ext.batched_vjp(net, x, cotangents, mode=mode)
    for key, value in reference.batched_vjp(net, x, cotangents, mode=mode).items():
        close(ours[key], value)


@pytest.mark.parametrize("mode", ["coupled", "independent"])
def test_jvp(mode: str) -> None:
    net, x = build("residual")
    tangents = {
        n: torch.randn(2, *p.shape, dtype=x.dtype, generator=seeded())
        for n, p in net.named_parameters()
    }
    ours = ext.batched_jvp(net, x, tangents, mode=mode)
    close(ours, reference.batched_jvp(net, x, tangents, mode=mode))


def test_masked_rows_are_zero_outside_the_mask() -> None:
    net, x = build("masked")
    cotangents = torch.ones(1, len(x), 3, dtype=x.dtype)
    for mode in ("coupled", "independent"):
        rows = ext.batched_vjp(net, x, cotangents, mode=mode)
        layer = net.get_submodule("0")
        assert not rows["0.weight"][0][~layer.get_buffer("mask")].any()


def test_bad_products() -> None:
    net, x = nn.Linear(3, 2), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"batched_vjp: cotangents must be \[K, 4, 2\]"):
        ext.batched_vjp(net, x, torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="batched_jvp: tangents must be named like parameters"):
        ext.batched_jvp(net, x, {"other": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"batched_jvp: tangents\['weight'\] must be \[K, 2, 3\]"):
        ext.batched_jvp(net, x, {"weight": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="ntk_cross: x2 must hold samples like x1"):
        ext.ntk_cross(net, x, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="condition_number: gram must be square"):
        ext.condition_number(torch.zeros(2, 3))


@pytest.mark.parametrize("chunks", [True, False])
@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("name", ["residual", "masked", "plain"])
def test_chunks_and_single_vectors_give_the_same(
    name: str, mode: str, chunks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = build(name)
    sizes: list[int] = []

    def timed(run: products.Vectors, begin: int, end: int, _: torch.device) -> float:
        run(begin, end)
        sizes.append(end - begin)
        return 1e-9 if chunks and end - begin > 1 else 1.0 if chunks else 1e-9

    monkeypatch.setattr(products, "_timed", timed)
    cotangents = torch.randn(40, len(x), net(x).shape[1], dtype=x.dtype, generator=seeded())
    ours = ext.batched_vjp(net, x, cotangents, mode=mode)
    for key, value in reference.batched_vjp(net, x, cotangents, mode=mode).items():
        close(ours[key], value)
    tangents = {
        n: torch.randn(40, *p.shape, dtype=x.dtype, generator=seeded())
        for n, p in net.named_parameters()
    }
    close(
        ext.batched_jvp(net, x, tangents, mode=mode),
        reference.batched_jvp(net, x, tangents, mode=mode),
    )
    assert max(sizes) <= 32
    assert not chunks or name == "masked" or max(sizes) > 1, "no chunk was possible"


def test_the_budget_bounds_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = build("plain")
    cotangents = torch.randn(40, len(x), net(x).shape[1], dtype=x.dtype, generator=seeded())
    sizes: list[int] = []
    monkeypatch.setattr(products, "_run", lambda count, most, *_: sizes.append(most))
    for budget in (1, 200_000, 1 << 40):
        ext.batched_vjp(net, x, cotangents, memory_budget=budget)
    assert sizes[0] < 1 < sizes[1] < sizes[2] == 32


_CHUNKS = """
import re, torch
from pathlib import Path
from torch import nn
import supertickets_ext as ext
from supertickets_ext import _jacobian_products as products
torch.set_num_threads(1)
def timed(run, begin, end, *_):  # a chunk always wins
    run(begin, end)
    return 1.0 if end - begin == 1 else 0.0
products._timed = timed
torch.manual_seed(0)
layers = [nn.Conv2d(3, 8, 3, padding=1)]
for _ in range(6):
    layers += [nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1)]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
x = torch.randn(8, 3, 64, 64)
def run(x, budget):
    if "{call}" == "vjp":
        ext.batched_vjp(net, x, torch.randn(34, len(x), 2), memory_budget=budget)
    else:
        tangents = {{n: torch.randn(34, *p.shape) for n, p in net.named_parameters()}}
        ext.batched_jvp(net, x, tangents, memory_budget=budget)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
run(x[:1, :, :8, :8], 1 << 30)  # what is imported at a first call
before = peak()
run(x, {budget})
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("call", ["vjp", "jvp"])
def test_chunks_stay_within_the_budget(call: str) -> None:
    """One forward pass saves 14 MB, so that chunks of 32 vectors take hundreds."""

    def extra_mib(budget: int) -> float:
        run = subprocess.run(
            [sys.executable, "-c", _CHUNKS.format(call=call, budget=budget)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(run.stdout) / 1024

    free, bounded = extra_mib(4 << 30), extra_mib(50 << 20)
    assert free > 100, "a chunk of all vectors must need more than the budget"
    # besides the budget: one forward pass with what it saves, and what imports had not yet touched
    assert bounded < 50 + 40
