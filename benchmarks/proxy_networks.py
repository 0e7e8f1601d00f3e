"""The proxy networks that TE-NAS scores with Gram matrices: small supernets of two search spaces.

An edge is the mean of its live operators. Written out here so that the kernels can be measured
without the pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SUPERNET = (("skip", "conv1", "conv3", "pool"),) * 6
PATH = (("conv3",), ("conv3",), ("conv3",), ("skip",), ("conv3",), ("conv3",))


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(outputs))


def _operation(name: str, channels: int) -> nn.Module:
    if name == "skip":
        return nn.Identity()
    if name == "pool":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return _conv_norm(channels, channels, {"conv1": 1, "conv3": 3}[name])


class Edge(nn.Module):
    """Mean of several operators."""

    def __init__(self, operations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)

    def forward(self, x: Tensor) -> Tensor:
        """Give the mean."""
        out = sum(operation(x) for operation in self.operations)
        return out * (1 / len(self.operations)) if len(self.operations) > 1 else out


class _Cell201(nn.Module):
    def __init__(self, channels: int, live: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            Edge([_operation(name, channels) for name in names]) for names in live
        )

    def forward(self, x: Tensor) -> Tensor:
        states, edge = [x], 0
        for _ in range(3):
            states.append(sum(self.edges[edge + i](s) for i, s in enumerate(states)))
            edge += len(states) - 1
        return states[-1]


class _Reduction(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = _conv_norm(inputs, outputs, 3, 2), _conv_norm(outputs, outputs, 3)
        self.down = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x) + self.b(self.a(x))


def nasbench201(
    channels: int = 3, cells: int = 1, live: Sequence[Sequence[str]] = SUPERNET, classes: int = 10
) -> nn.Module:
    """Stem, three stages of cells with residual reductions between, BN-ReLU, pool, linear."""
    stem = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(channels)]
    for stage in range(3):
        if stage:
            layers.append(_Reduction(channels, 2 * channels))
            channels *= 2
        layers += [_Cell201(channels, live) for _ in range(cells)]
    return nn.Sequential(*layers, *_head(channels, classes))


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(channels, classes)]  # fmt: skip


def _depthwise(channels: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, kernel, stride, dilation * (kernel // 2), dilation,
                     channels, bias=False)  # fmt: skip
    point = nn.Conv2d(channels, channels, 1, bias=False)
    return [nn.ReLU(), conv, point, nn.BatchNorm2d(channels)]


class _Factorized(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu, self.norm = nn.ReLU(), nn.BatchNorm2d(outputs)
        self.a = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.b = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.norm(torch.cat([self.a(x), self.b(x[:, :, 1:, 1:])], 1))


def _darts_operations(channels: int, stride: int) -> list[nn.Module]:
    pools = (nn.MaxPool2d(3, stride, 1), nn.AvgPool2d(3, stride, 1, count_include_pad=False))
    return [
        *(nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False)) for pool in pools),
        nn.Identity() if stride == 1 else _Factorized(channels, channels),
        *(nn.Sequential(*_depthwise(channels, k, stride, 1), *_depthwise(channels, k, 1, 1))
          for k in (3, 5)),
        *(nn.Sequential(*_depthwise(channels, k, stride, 2)) for k in (3, 5)),
    ]  # fmt: skip


class _CellDarts(nn.Module):
    def __init__(self, before: int, last: int, channels: int, *, reduces: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_conv_norm(c, channels, 1) for c in (before, last))
        self.edges = nn.ModuleList(
            Edge(_darts_operations(channels, 2 if reduces and j < 2 else 1))
            for i in range(4)
            for j in range(2 + i)
        )

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        states, edge = [self.heads[0](one), self.heads[1](two)], 0
        for _ in range(4):
            states.append(sum(self.edges[edge + i](s) for i, s in enumerate(states)))
            edge += len(states) - 1
        return torch.cat(states[-4:], 1)


class Darts(nn.Module):
    """Stem, a normal and a reduction cell with all operators live, BN-ReLU, pool, linear."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 1, 1, bias=False),
                                  nn.BatchNorm2d(channels))  # fmt: skip
        self.normal = _CellDarts(channels, channels, channels, reduces=False)
        self.reduction = _CellDarts(channels, 4 * channels, 2 * channels, reduces=True)
        self.head = nn.Sequential(*_head(8 * channels, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``[N, classes]``."""
        stem = self.stem(x)
        logits: Tensor = self.head(self.reduction(stem, self.normal(stem, stem)))
        return logits


def kaiming(net: nn.Module, seed: int) -> nn.Module:
    """Draw weights as TE-NAS does: Kaiming normal, fan out."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu",
                                    generator=generator)  # fmt: skip
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net
