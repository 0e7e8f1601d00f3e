"""The lane kernel of the coupled Gram matrix against the loop of backward passes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from supertickets_ext import _C
from supertickets_ext._graph import record
from supertickets_ext._jacobian_lanes import lanes_cost, lanes_gram, lanes_refusal
from supertickets_ext.reference import ntk_gram as loop_gram


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Conv2d:
    reach = options.get("dilation", 1) * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, bias=False, **{"padding": reach, **options})


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


class Mixed(nn.Module):
    """A node that several operators read, joined by sum, mean and concatenation."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.three, self.one = conv(4, 4, 3, stride=stride), conv(4, 4, 1, stride=stride)
        self.after = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        self.most = nn.MaxPool2d(3, stride, 1)
        self.last = nn.BatchNorm2d(8)
        self.head = nn.Sequential(*head(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        live = self.relu(x)
        one = (self.after(self.three(live)) + self.pool(x)) * 0.5
        two = self.one(self.relu(x)) - self.most(live)
        return self.head(self.relu(self.last(torch.cat([one, two], 1))))


class Factorized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(3, 4), conv(4, 3, 1, stride=2), conv(4, 2, 1, stride=2)
        self.norm, self.head = nn.BatchNorm2d(5), nn.Sequential(*head(5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([self.one(x), self.two(x[:, :, 1:, 1:])], 1)
        return self.head(torch.relu(self.norm(x)))


def chain(*layers: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(*layers, *head(channels))


def _norm(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()]


def _depthwise(kernel: int, **options: int) -> nn.Module:
    deep = conv(4, 4, kernel, groups=4, **options)
    return chain(conv(3, 4), nn.ReLU(), deep, conv(4, 5, 1), *_norm(5), channels=5)


NETWORKS = {
    "no norm": lambda: chain(conv(3, 4), nn.ReLU(), conv(4, 7), channels=7),
    "two norms": lambda: chain(conv(3, 4), *_norm(4), conv(4, 19), *_norm(19), channels=19),
    "bias": lambda: chain(nn.Conv2d(3, 4, 3), *_norm(4), nn.Conv2d(4, 5, 3), *_norm(5), channels=5),
    "norm of relu": lambda: chain(conv(3, 4), nn.ReLU(), *_norm(4), channels=4),
    "norm first": lambda: chain(nn.BatchNorm2d(3), conv(3, 4), nn.ReLU(), channels=4),
    "stride": lambda: chain(conv(3, 4), *_norm(4), conv(4, 5, stride=2), *_norm(5), channels=5),
    "wide stride": lambda: chain(conv(3, 4), *_norm(4), conv(4, 5, 5, stride=2), channels=5),
    "no affine": lambda: chain(conv(3, 4), nn.BatchNorm2d(4, affine=False), nn.ReLU(), channels=4),
    "five": lambda: chain(conv(3, 4, 5), *_norm(4), conv(4, 5, 5, dilation=2), channels=5),
    "depthwise": lambda: _depthwise(3),
    "depthwise stride": lambda: _depthwise(5, stride=2),
    "depthwise dilation": lambda: _depthwise(5, dilation=2),
    "depthwise both": lambda: _depthwise(3, dilation=2, stride=2),
    "depthwise norm": lambda: chain(
        conv(3, 4), nn.ReLU(), conv(4, 4, groups=4), *_norm(4), channels=4
    ),
    "halves": lambda: chain(conv(3, 4), nn.AvgPool2d(2, 2), conv(4, 5, 1), *_norm(5), channels=5),
    "mixed": Mixed,
    "mixed stride": lambda: Mixed(2),
    "factorized": Factorized,
}


def draw(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = NETWORKS[name]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return net


def gram_of(net: nn.Module, x: Tensor, pick: str = "weight") -> Tensor:
    names = [name for name, _ in net.named_parameters() if name.endswith(pick)]
    gram = lanes_gram(record(net, x, coupled=True), names, x.dtype)
    assert gram is not None
    return gram


def error(gram: Tensor, expected: Tensor) -> float:
    return float((gram - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(("images", "size"), [(1, (8, 8)), (5, (9, 7)), (18, (6, 10))])
@pytest.mark.parametrize("name", NETWORKS)
def test_as_the_loop(name: str, images: int, size: tuple[int, int]) -> None:
    net = draw(name, images)
    if name == "factorized":  # its halves fit together for even sizes only
        size = (8, 6)
    x = torch.randn(images, 3, *size)
    expected = loop_gram(net, x, mode="coupled")
    # The gradients are float32 in both; a loop's own error against float64 is as large.
    assert error(gram_of(net, x), expected) < 2e-5


@pytest.mark.parametrize("name", ["two norms", "mixed", "depthwise"])
def test_float64_where_no_gate_flips(name: str) -> None:
    net = draw(name, 1)
    x = torch.randn(7, 3, 6, 6)
    expected = loop_gram(copy.deepcopy(net).double(), x.double(), mode="coupled")
    assert error(gram_of(net, x), expected) < 1e-5


def test_chosen_parameters_only() -> None:
    net, x = draw("mixed", 0), torch.randn(6, 3, 7, 7)
    expected = loop_gram(net, x, mode="coupled", parameters=lambda n, p: n == "three.weight")
    assert error(gram_of(net, x, "three.weight"), expected) < 2e-5


def test_same_bits_for_any_number_of_threads() -> None:
    net, x = draw("mixed stride", 0), torch.randn(19, 3, 9, 9)
    before = torch.get_num_threads()
    try:
        grams = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            graph = record(net, x, coupled=True)
            if not grams:
                fixed = graph
            names = [n for n, _ in net.named_parameters() if n.endswith("weight")]
            grams.append(lanes_gram(fixed, names, x.dtype))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(grams[0], g) for g in grams)


_CHILD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_ntk_lanes import draw, gram_of, loop_gram, error
net = draw("mixed stride", 0)
x = torch.randn(19, 3, 9, 9)
print(error(gram_of(net, x), loop_gram(net, x, mode="coupled")))
"""


@pytest.mark.parametrize("isa", _C.facts()["usable_instruction_sets"])
def test_every_instruction_set(isa: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _CHILD, str(Path(__file__).parent)],
        env={**os.environ, "SUPERTICKETS_ISA": isa}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(run.stdout) < 2e-5


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (chain(conv(3, 4), nn.GELU(), channels=4), "gelu"),
        (chain(conv(3, 4, 7), channels=4), "kernel"),
        (chain(nn.Conv2d(3, 4, (1, 3)), channels=4), "0: kernel"),
        (nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 36, 2)), "averaged maps"),
    ],
)
def test_refuses_by_name(net: nn.Module, reason: str) -> None:
    graph = record(net, torch.randn(2, 3, 6, 6), coupled=True)
    names = [n for n, _ in net.named_parameters() if n.endswith("weight")]
    assert lanes_gram(graph, names, torch.float32) is None
    assert reason in (lanes_refusal(graph, names, torch.float32) or "")


def test_cost_refuses_wide_layers() -> None:
    x = torch.randn(2, 3, 6, 6)
    wide = record(chain(conv(3, 64), channels=64), x, coupled=True)
    narrow = record(chain(conv(3, 4), channels=4), x, coupled=True)
    assert lanes_cost(wide) is None
    assert (lanes_cost(narrow) or 0) > 0


def test_table_is_checked() -> None:
    nodes = torch.zeros(2, 19, dtype=torch.int64)
    links, scales = torch.zeros(1, dtype=torch.int64), torch.ones(2)
    call = torch.ops.supertickets.ntk_lanes_gram
    with pytest.raises(RuntimeError, match=r"ntk_lanes_gram: nodes must be contiguous int64"):
        call(nodes[:, :3], links, scales, [], 2, 0)
    with pytest.raises(RuntimeError, match=r"ntk_lanes_gram: node 0 must have positive sizes"):
        call(nodes, links, scales, [], 2, 0)
    nodes[:, 3:6], nodes[:, 6:13] = 1, -1
    nodes[1, 0], nodes[1, 2], nodes[1, 13:15], nodes[1, 17], nodes[0, 6] = 1, 1, 1, 1, 3
    with pytest.raises(RuntimeError, match=r"value of node 0 must be the number of a tensor"):
        call(nodes, links, scales, [], 2, 0)
    nodes[0, 6], nodes[1, 7] = -1, 0
    with pytest.raises(RuntimeError, match=r"node 1 must have an input whose value is given"):
        call(nodes, links, scales, [torch.ones(1)], 2, 0)
