"""Networks for the tests of Jacobian operators, and what torch.func makes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from supertickets_ext.nn import MaskedConv2d, MaskedLinear


class Residual(nn.Module):
    """Shared ReLUs, two branches, an in-place sum, and a mean of edges with mixing weights."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.one = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.two = nn.Conv2d(6, 6, 1, bias=False)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.alpha_weight = nn.Parameter(torch.zeros(2))
        self.last, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        mix = self.alpha_weight.softmax(0)
        y = self.one(F.relu(x)) * mix[0] + self.two(F.relu(x)) * mix[1]
        y += self.pool(x) / 2
        return self.head(self.relu(self.last(y)).mean((2, 3)))


class Twice(nn.Module):
    """A weight that is used two times, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.idle = nn.Linear(2, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(F.relu(self.conv(x)))).mean((2, 3)))


class PerToken(nn.Module):
    """A linear layer that sees several rows for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(8, 5), nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.inner(x.flatten(2)[..., :8]))).mean(1))


def conv_net(*layers: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def masked(conv: nn.Conv2d) -> MaskedConv2d:
    layer = MaskedConv2d.from_dense(conv)
    generator = torch.Generator().manual_seed(1)
    layer.set_mask(torch.rand(conv.weight.shape, generator=generator) < 0.4)
    return layer


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: conv_net(nn.Conv2d(3, 5, 3), nn.ReLU(), channels=5),
    "strided": lambda: conv_net(nn.Conv2d(3, 9, 3, 2, 1), nn.BatchNorm2d(9), channels=9),
    "dilated": lambda: conv_net(
        nn.Conv2d(3, 4, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.MaxPool2d(2), channels=4),
    "grouped": lambda: conv_net(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.GroupNorm(2, 4),
        channels=4),
    "depthwise": lambda: conv_net(
        nn.Conv2d(3, 18, 1), nn.ReLU(), nn.Conv2d(18, 18, 5, padding=2, groups=18),
        nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 4, 1), channels=4),
    "depthwise-strided": lambda: conv_net(
        nn.Conv2d(3, 3, 3, 2, groups=3, bias=False), nn.BatchNorm2d(3), channels=3),
    "masked": lambda: conv_net(
        masked(nn.Conv2d(3, 6, 3, padding=1)), nn.BatchNorm2d(6), nn.ReLU(),
        masked(nn.Conv2d(6, 4, (3, 2), bias=False)), channels=4),
    "masked-linear": lambda: nn.Sequential(
        nn.Flatten(), MaskedLinear(3 * 7 * 8, 4), nn.ReLU(), nn.Linear(4, 2)),
    "layer-norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 5, 6)), nn.SiLU(), nn.Flatten(), nn.Linear(120, 2)),
    "norm-alone": lambda: conv_net(
        nn.AvgPool2d(2), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False),
        channels=3),
    "residual": lambda: Residual(False),
    "residual-in-place": lambda: Residual(True),
    "shared": Twice,
    "tokens": PerToken,
    "unknown": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3), nn.PReLU(), nn.Conv2d(4, 3, 3), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(3 * 7 * 8, 2)),
}  # fmt: skip


def build(name: str, batch: int = 5) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = NETS[name]().double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.uniform_(-0.5, 0.5)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, -1, 1)
                    nn.init.uniform_(module.bias, -1, 1)
        return net, torch.randn(batch, 3, 7, 8, dtype=torch.float64)


def by_jacrev(net: nn.Module, x: Tensor, mode: str, reduction: str, parameters: str) -> Tensor:
    """The same by torch.func, on a copy; masked layers become dense ones of masked weights."""
    work = copy.deepcopy(net).train(mode == "coupled")
    for module in work.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
        if isinstance(module, nn.BatchNorm2d) and mode == "coupled":
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    chosen = {
        n: p.detach()
        for n, p in work.named_parameters()
        if parameters == "all" or n.endswith("weight")
    }

    def logits(weights: dict[str, Tensor]) -> Tensor:
        if mode == "coupled":
            out = functional_call(work, weights, (x,))
        else:
            out = torch.cat(
                [functional_call(work, weights, (x[i : i + 1],)) for i in range(len(x))]
            )
        return out.sum(1) if reduction == "sum" else out

    jacobian = jacrev(logits)(chosen)
    depth = 1 if reduction == "sum" else 2
    rows = torch.cat([j.flatten(depth) for j in jacobian.values()], -1)
    return rows @ rows.T if depth == 1 else torch.einsum("iap,jbp->ijab", rows, rows)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    assert a.shape == b.shape
    a, b = a.detach(), b.detach()
    assert float((a - b).abs().max()) <= tolerance * (1e-6 + float(b.abs().max()))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
