"""The networks of the whole-network benchmark: plain definitions, synthetic weights, fixed masks.

Weights are drawn from a seed, pruned at random, uniformly over the layers, and then every batch
norm takes the statistics of one synthetic batch, so that activations keep a sound size at any
density. Dense stay what is dense in the pruning literature: the stem (the first convolution), the
depthwise convolutions and the classifier; together they hold few weights.

Source: He et al. 2016 (arXiv 1512.03385), table 1, with the stride in the 3x3 convolution; Sandler
et al. 2018 (arXiv 1801.04381), table 2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

IMAGE = (3, 224, 224)
CALIBRATION_BATCH = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, 4 * width, H / stride, W / stride]``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def resnet50() -> nn.Module:
    """Build ResNet-50 for 1000 classes, with torch's first weights."""
    stem = [*_conv_bn(3, 64, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    parts: dict[str, nn.Module] = {"stem": nn.Sequential(*stem)}
    inputs = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        first = Bottleneck(inputs, width, stride=1 if stage == 1 else 2)
        inputs = 4 * width
        others = [Bottleneck(inputs, width, stride=1) for _ in range(blocks - 1)]
        parts[f"layer{stage}"] = nn.Sequential(first, *others)
    return nn.Sequential(OrderedDict(parts, head=_head(inputs)))


class InvertedResidual(nn.Module):
    """1x1 that widens, depthwise 3x3, 1x1 that narrows; a shortcut where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        width = inputs * expand
        widen = [*_conv_bn(inputs, width, 1), nn.ReLU6(inplace=True)] if expand != 1 else []
        self.conv = nn.Sequential(
            *widen,
            *_conv_bn(width, width, 3, stride=stride, groups=width),
            nn.ReLU6(inplace=True),
            *_conv_bn(width, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


def mobilenet_v2() -> nn.Module:
    """Build MobileNetV2 of width 1 for 1000 classes, with torch's first weights."""
    stem = nn.Sequential(*_conv_bn(3, 32, 3, stride=2), nn.ReLU6(inplace=True))
    blocks: list[nn.Module] = []
    inputs = 32
    for expand, outputs, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            blocks.append(InvertedResidual(inputs, outputs, step, expand))
            inputs = outputs
    last = nn.Sequential(*_conv_bn(inputs, 1280, 1), nn.ReLU6(inplace=True))
    parts = {"stem": stem, "blocks": nn.Sequential(*blocks), "last": last, "head": _head(1280)}
    return nn.Sequential(OrderedDict(parts))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}


def build_network(name: str, density: float, *, seed: int = 0) -> nn.Module:
    """Build a pruned network, the same one for the same arguments.

    Args:
        name: One of ``NETWORKS``.
        density: Share of the weights that each prunable convolution keeps.
        seed: Of weights, masks and the batch that batch norm is calibrated on.

    Returns:
        The network in evaluation mode; pruned weights are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # torch draws first weights, which are not used
        model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    prune_(model, density, generator)
    images = torch.randn(CALIBRATION_BATCH, *IMAGE, generator=generator)
    return calibrate_(model, images).eval()


@torch.no_grad()
def prune_(model: nn.Module, density: float, generator: torch.Generator) -> None:
    """Set weights of every prunable convolution to zero, chosen uniformly at random.

    Args:
        model: Changed in place.
        density: Share of the weights that stay, rounded to a whole weight in each layer.
        generator: Draws the places.
    """
    for _, conv in prunable_convolutions(model):
        size = conv.weight.numel()
        order = torch.randperm(size, generator=generator)
        conv.weight.view(-1)[order[round(density * size) :]] = 0


def prunable_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Give all convolutions but the first one and the depthwise ones, with their names."""
    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    yield from ((n, m) for n, m in convolutions[1:] if m.groups == 1)


@torch.no_grad()
def calibrate_(model: nn.Module, images: Tensor) -> nn.Module:
    """Let every batch norm take the statistics of one batch.

    Args:
        model: Changed in place; left in training mode.
        images: ``[N, 3, H, W]``.

    Returns:
        ``model``.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches seen
    model.train()(images)
    return model


def in_format(module: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Store the convolution weights of a module in a memory format, in place."""
    return module.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stub


@dataclass(frozen=True)
class ConvWork:
    """What one convolution does for one image."""

    name: str
    kind: str
    macs: int
    kept_macs: int

    @property
    def density(self) -> float:
        """Kept share of the weights."""
        return self.kept_macs / self.macs


@torch.no_grad()
def convolution_work(model: nn.Module, image: tuple[int, int, int] = IMAGE) -> list[ConvWork]:
    """Count the multiply-adds of every convolution, all of them and those of nonzero weights.

    Args:
        model: In evaluation mode.
        image: Channels, height and width.

    Returns:
        One entry per call of a convolution, in the order of the calls.
    """
    found: list[ConvWork] = []
    names = {module: name for name, module in model.named_modules()}

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.get_parameter("weight")
        positions = output.shape[2] * output.shape[3]
        macs, kept = weight.numel() * positions, int(weight.count_nonzero()) * positions
        found.append(ConvWork(names[module], kinds[module], macs, kept))

    convolutions = [module for module in names if isinstance(module, nn.Conv2d)]
    kinds: dict[nn.Module, str] = {conv: _kind(conv) for conv in convolutions}
    hooks = [conv.register_forward_hook(count) for conv in convolutions]
    try:
        model(torch.zeros(1, *image))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _kind(conv: nn.Conv2d) -> str:
    if conv.groups == conv.in_channels:
        return "depthwise"
    size = "x".join(map(str, conv.kernel_size))
    return f"{size} stride {conv.stride[0]}" if conv.stride[0] > 1 else size


def _conv_bn(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    pad = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs)


def _head(channels: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))
