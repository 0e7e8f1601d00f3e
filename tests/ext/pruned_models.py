"""Small models of the kinds that users have, pruned at random, for the tests of sparsify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, **rest: Any
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, **rest)
    return [conv, nn.BatchNorm2d(outputs)]


class Basic(nn.Module):
    """Two convolutions and a shortcut, everything in place, as in torchvision."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride)
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3, groups=2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(*conv_bn(inputs, outputs, 1, stride)) if stride > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNetLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *conv_bn(3, 8, 5, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.layers = nn.Sequential(Basic(8, 8, 1), Basic(8, 16, 2), Basic(16, 16, 1))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.layers(self.stem(x)))
        return self.fc(torch.flatten(x, 1))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.body = nn.Sequential(
            *conv_bn(inputs, wide, 1), nn.ReLU6(inplace=True),
            *conv_bn(wide, wide, 3, stride, groups=wide), nn.ReLU6(inplace=True),
            *conv_bn(wide, outputs, 1),
        )  # fmt: skip
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class NormAct(nn.BatchNorm2d):
    """Batch norm and activation in one module, with a check of the shape, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "expected 4 dimensions")
        mean, var = self.running_mean, self.running_var
        return F.silu(
            F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps), inplace=True
        )


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.scale = nn.AdaptiveAvgPool2d(1), nn.Sigmoid()
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(self.fc2(F.silu(self.fc1(self.pool(x)))))


class EfficientNetLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 8, 3, 2), nn.SiLU(inplace=True))
        self.wide = nn.Sequential(*conv_bn(8, 24, 1), nn.SiLU(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 5, padding=2, groups=24, bias=False), NormAct(24)
        )
        self.excite = SqueezeExcite(24)
        self.narrow = nn.Sequential(*conv_bn(24, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.narrow(self.excite(self.depthwise(self.wide(x))))
        return self.head((x + y).mean([2, 3]))


class DenseNetLike(nn.Module):
    """Concatenation, a batch norm before its convolution, and an activation read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.grow = nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect")
        self.last = nn.Conv2d(16, 6, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.relu(x)  # changes x, which is read again below
        grown = self.grow(self.norm(y))
        return self.last(torch.cat([x, grown], 1)).amax((2, 3))


class Branching(nn.Module):
    """Its forward asks for values, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv_bn(3, 8, 3), nn.ReLU())
        self.blocks = nn.ModuleList([Basic(8, 8, 1), Basic(8, 16, 2)])
        self.last = nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            return x
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Wrapping(nn.Module):
    """Traceable around a part that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv_bn(3, 3, 3), nn.ReLU())
        self.inner = Branching()
        self.last = nn.Conv2d(4, 4, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class Reading(Branching):
    """Reads an attribute of a part that a graph would not have."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.last, nn.Conv2d)
        return super().forward(x) * self.last.weight.abs().max()


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        total = torch.relu(self.a(x) + self.b(y))
        return {"sum": total, "shape": total.new_tensor(total.size())}


class Sharing(nn.Module):
    """One convolution called twice, and added to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.conv(self.stem(x)))
        return y + y


def mobilenet_like() -> nn.Module:
    stem = [*conv_bn(3, 8, 3, 2), nn.ReLU6(inplace=True)]
    blocks = [Inverted(8, 8, 1), Inverted(8, 16, 2), Inverted(16, 16, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet": ResNetLike,
    "mobilenet": mobilenet_like,
    "efficientnet": EfficientNetLike,
    "densenet": DenseNetLike,
    "branching": Branching,
    "wrapping": Wrapping,
    "reading": Reading,
    "sharing": Sharing,
    "one-conv": lambda: nn.Conv2d(3, 8, 3, stride=2, padding=(2, 1)),
}


def build(name: str, density: float = 0.2) -> nn.Module:
    """A model with normalisation statistics of its own, pruned at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]() if name in MODELS else TwoInputs()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert tensor is not None
                    tensor.data.uniform_(0.5, 1.5)
            if isinstance(module, nn.Conv2d):
                module.weight.data *= torch.rand(module.weight.shape) < density
    return model.eval()


def image(batch: int, size: int = 20) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
