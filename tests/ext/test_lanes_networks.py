"""Whole networks give the same with and without the batch-inner layout."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets_ext.lanes import LaneTensor, keep_lanes, left_lanes, to_lanes
from supertickets_ext.nn import MaskedConv2d


def masked(c_in: int, c_out: int, kernel: int, **options: Any) -> MaskedConv2d:
    conv = MaskedConv2d(c_in, c_out, kernel, padding=kernel // 2, **options)
    conv.set_mask(torch.rand(conv.weight.shape) < 0.4)
    return conv


class SqueezeExcite(nn.Module):
    """The weights of the channels, by masked convolutions or by dense ones."""

    def __init__(self, channels: int, conv: Any) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = conv(channels, channels // 4, 1)
        self.up = conv(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.up(F.silu(self.down(self.pool(x)), inplace=True))
        return x * torch.sigmoid(scale)


class Block(nn.Module):
    """A residual block as torchvision writes it, with squeeze-and-excitation."""

    def __init__(self, c_in: int, c_out: int, stride: int, conv: Any) -> None:
        super().__init__()
        self.conv1 = masked(c_in, c_out, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = masked(c_out, c_out, 3, groups=2)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.excite = SqueezeExcite(c_out, conv)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(conv(c_in, c_out, 1, stride=2), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.excite(self.bn2(self.conv2(out)))
        out += self.shortcut(x)
        return self.relu(out)


class SmallResNet(nn.Module):
    """Stem, two blocks, a branch that is concatenated, and a linear head."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            masked(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(Block(8, 8, 1, masked), Block(8, 16, 2, conv))
        self.branch = masked(16, 4, 1)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        x = torch.cat([x, F.avg_pool2d(self.branch(x), 3, 1, 1)], 1)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def small_resnet(conv: Any = masked) -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(conv).double()


def batch_of(batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 13, 14, dtype=torch.float64, generator=generator)


def train(model: nn.Module, batch: int, steps: int = 3) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        target = torch.arange(batch) % 5
        loss = F.cross_entropy(model(batch_of(batch, step)), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("batch", [3, 16, 17, 32])
@pytest.mark.parametrize("conv", [masked, nn.Conv2d])
def test_training_gives_the_same_losses_and_states(conv: Any, batch: int) -> None:
    plain = small_resnet(conv)
    in_lanes = copy.deepcopy(plain)
    losses = train(plain, batch)
    with keep_lanes(in_lanes):
        torch.testing.assert_close(train(in_lanes, batch), losses)
    assert losses[2] != losses[0]
    torch.testing.assert_close(in_lanes.state_dict(), plain.state_dict())


@pytest.mark.parametrize("batch", [3, 16, 17, 32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_inference_gives_the_same(batch: int, memory_format: torch.memory_format) -> None:
    model = small_resnet(nn.Conv2d).eval()
    x = batch_of(batch).contiguous(memory_format=memory_format)
    expected = model(x)
    with keep_lanes(model), torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def test_a_masked_network_leaves_lanes_at_its_end_only() -> None:
    model = small_resnet()
    with keep_lanes(model):
        left_lanes(clear=True)
        train(model, batch=16, steps=1)
    assert left_lanes() == {"flatten": 1}


def test_masked_convolutions_return_lanes_until_removed() -> None:
    model = nn.Sequential(masked(3, 8, 3), nn.BatchNorm2d(8), masked(8, 4, 1)).double()
    x = batch_of(16)
    kept = keep_lanes(model)
    first: Any = model[0]
    assert isinstance(first(x), LaneTensor)
    assert isinstance(first(to_lanes(x)), LaneTensor)
    assert isinstance(model(x), Tensor)
    kept.remove()
    assert isinstance(first(x), Tensor)
    assert not model._forward_hooks


def test_outputs_are_dense_in_any_structure() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = masked(3, 4, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            y = self.conv(x)
            return {"levels": [y, F.max_pool2d(y, 2)], "sum": y.sum(), "name": "pyramid"}

    model = Pyramid().double()
    expected = model(batch_of(16))
    with keep_lanes(model, batch_of(16)):
        given = model(batch_of(16))
    assert isinstance(given["levels"][0], Tensor)
    torch.testing.assert_close(
        given["levels"] + [given["sum"]], expected["levels"] + [expected["sum"]]
    )
    assert given["name"] == "pyramid"


def test_a_model_that_changes_a_view_is_found_by_the_example() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = masked(3, 4, 3)

        def forward(self, x: Tensor, scale: float) -> Tensor:
            y = self.conv(x)
            y[:, :2].mul_(scale)
            return y

    model = Shift().double().train()
    with pytest.raises(ValueError, match=r"keep_lanes: the model's results differ in lanes by"):
        keep_lanes(model, (batch_of(16), 5.0))
    assert model.training
    assert isinstance(model.conv(batch_of(16)), Tensor)
    keep_lanes(model, (batch_of(16), 1.0)).remove()


def test_a_model_without_masked_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keep_lanes: model has no MaskedConv2d"):
        keep_lanes(nn.Conv2d(3, 4, 3))
