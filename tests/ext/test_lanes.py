"""The batch-inner layout: conversion, and the torch functions that keep it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets_ext import reference
from supertickets_ext.lanes import LaneTensor, from_lanes, left_lanes, to_lanes
from tests.ext.lane_checks import (
    BATCHES,
    CHANNELS,
    HEIGHT,
    WIDTH,
    batches,
    check_like_dense,
    dense,
    draw,
    images,
    poisoned,
)

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    left_lanes(clear=True)


# --- conversion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [
    (1, 1, 1, 1), (3, 4, 5, 7), (16, 3, 2, 2), (17, 17, 3, 1), (33, 20, 1, 9), (0, 3, 2, 2),
    (5, 0, 2, 2),
])  # fmt: skip
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_conversion_equals_the_reference(
    dtype: torch.dtype, shape: tuple[int, ...], layout: str
) -> None:
    x = draw(*shape, dtype=dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        x = draw(*shape[:3], 2 * shape[3], dtype=dtype)[..., ::2]
    lanes = to_lanes(x)
    assert lanes.lanes.is_contiguous()
    assert torch.equal(lanes.lanes, reference.to_lanes(x))
    for memory_format in FORMATS:
        back = from_lanes(lanes, memory_format)
        twin = reference.from_lanes(
            lanes.lanes, len(x), channels_last=memory_format == torch.channels_last
        )
        assert torch.equal(back, x)
        assert torch.equal(back, twin)
        assert back.stride() == twin.stride()


@pytest.mark.parametrize("memory_format", FORMATS)
def test_dense_restores_the_memory_format(memory_format: torch.memory_format) -> None:
    x = images(3).contiguous(memory_format=memory_format)
    assert to_lanes(x).dense().stride() == x.stride()
    assert dense(F.relu(poisoned(x))).stride() == x.stride()
    assert from_lanes(to_lanes(x)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch", [2, 16, 17])
def test_conversion_gradients(batch: int) -> None:
    def there(x: Tensor) -> Tensor:
        return to_lanes(x).lanes

    def back(lanes: Tensor) -> Tensor:
        return from_lanes(LaneTensor(lanes, batch))

    x = draw(batch, 2, 1, 2).requires_grad_()
    lanes = draw(-(-batch // 16), 2, 1, 2, 16).requires_grad_()
    assert torch.autograd.gradcheck(there, (x,))
    assert torch.autograd.gradcheck(back, (lanes,))
    assert torch.autograd.gradgradcheck(there, (x,))
    assert torch.autograd.gradgradcheck(back, (lanes,))


def test_answers_as_the_dense_tensor() -> None:
    x = images(17).requires_grad_()
    lanes = to_lanes(x)
    assert lanes.shape == lanes.size() == x.shape
    assert [lanes.size(d) for d in (0, 1, -1)] == [17, CHANNELS, WIDTH]
    assert lanes.dim() == lanes.ndim == 4
    assert (len(lanes), lanes.numel()) == (17, x.numel())
    assert (lanes.dtype, lanes.device, lanes.requires_grad) == (x.dtype, x.device, True)
    assert not to_lanes(x.detach()).requires_grad
    assert lanes.is_floating_point()
    assert torch.is_floating_point(lanes)  # type: ignore[arg-type]
    assert repr(lanes) == f"LaneTensor(shape=(17, {CHANNELS}, 5, 7), dtype=torch.float64)"
    assert left_lanes() == {}
    assert lanes.stride() == x.stride()
    assert torch.equal(copy.deepcopy(to_lanes(x.detach())).dense(), x)


def test_errors_of_the_conversions() -> None:
    wrong: Any = [1.0]
    with pytest.raises(TypeError, match=r"to_lanes: x must be a tensor, got list"):
        to_lanes(wrong)
    with pytest.raises(ValueError, match=r"to_lanes: x must have 4 dimensions, got shape \(2, 3\)"):
        to_lanes(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"to_lanes: x must be float32.*got torch\.int64"):
        to_lanes(torch.zeros(1, 2, 3, 4, dtype=torch.int64))
    wrong = torch.zeros(1, 2, 3, 4, 16)
    with pytest.raises(TypeError, match=r"from_lanes: x must be a LaneTensor, got Tensor"):
        from_lanes(wrong)
    with pytest.raises(ValueError, match=r"from_lanes: memory_format .*got torch\.preserve_format"):
        from_lanes(to_lanes(images(1)), torch.preserve_format)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 3, 4, 4, 8), (1, 3, 4, 4, 16)])
def test_lanes_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"lanes must have shape \[2, C, H, W, 16\] for a batch of"
    ):
        LaneTensor(torch.zeros(shape), 17)


# --- functions that keep the layout -------------------------------------------------------------

POINTWISE: dict[str, Callable[[Any], Any]] = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    "x.relu()": lambda x: x.relu(),
    "relu6": F.relu6,
    "silu": F.silu,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.5),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "x.sigmoid()": lambda x: x.sigmoid(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "elu": F.elu,
    "mish": F.mish,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "clamp": lambda x: x.clamp(-0.5, max=0.7),
    "dropout in evaluation": lambda x: F.dropout(F.dropout(x, training=False), 0.0),
    "nn.Dropout2d in evaluation": nn.Dropout2d().eval(),
    "cast": lambda x: x.to(torch.float32).double().to(dtype=torch.float64),
    "contiguous": lambda x: x.contiguous().to(memory_format=torch.channels_last),
    "clone": lambda x: torch.clone(input=x),
    "negation": lambda x: -x,
    "inplace": lambda x: F.relu(F.hardswish(x.clone(), inplace=True), inplace=True),
    "x.relu_()": lambda x: x.clone().relu_(),
    "scalars": lambda x: (2 * x + 1 - x / 3).sub(0.5, alpha=2) + (1 - x),
    "itself": lambda x: x * x + torch.add(x, x, alpha=3),
}
MAPS: dict[str, Callable[[Any], Any]] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, 2),
    "nn.MaxPool2d": nn.MaxPool2d(2, dilation=2, ceil_mode=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2, count_include_pad=False, padding=1),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (2, None)),
    "global": nn.AdaptiveAvgPool2d(1),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "mean keepdim": lambda x: x.mean((2, 3), keepdim=True),
    "sum keepdim": lambda x: torch.sum(x, dim=[-1, -2], keepdim=True),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=0.5),
    "reflect": nn.ReflectionPad2d(2),
}
WITH_ANOTHER: dict[str, Callable[[Any, Any], Any]] = {
    "x + y": lambda x, y: x + y,
    "y + x": lambda x, y: y + x,
    "x - y": lambda x, y: x - y,
    "y - x": lambda x, y: y - x,
    "x * y": lambda x, y: x * y,
    "y * x": lambda x, y: y * x,
    "torch.add": lambda x, y: torch.add(x, other=y, alpha=2),
    "torch.mul": lambda x, y: torch.mul(y, x),
    "x.sub": lambda x, y: x.sub(y),
}
SHAPES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "scalar": lambda n: (),
    "channels": lambda n: (CHANNELS, 1, 1),
    "1 x channels": lambda n: (1, CHANNELS, 1, 1),
    "batch x channels": lambda n: (n, CHANNELS, 1, 1),
    "batch": lambda n: (n, 1, 1, 1),
    "map": lambda n: (HEIGHT, WIDTH),
    "batch x map": lambda n: (n, 1, HEIGHT, WIDTH),
    "full": lambda n: (n, CHANNELS, HEIGHT, WIDTH),
}


def check_keeps(function: Callable[..., Any], x: Tensor, *others: Tensor) -> None:
    assert isinstance(function(to_lanes(x), *others), LaneTensor)
    check_like_dense(function, x, *others)
    assert left_lanes() == {}


@batches
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_functions_keep_the_layout(name: str, batch: int) -> None:
    check_keeps(POINTWISE[name], images(batch))


@batches
@pytest.mark.parametrize("name", MAPS)
def test_functions_of_one_map_keep_the_layout(name: str, batch: int) -> None:
    check_keeps(MAPS[name], images(batch))


@pytest.mark.parametrize("batch", [1, *BATCHES])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", WITH_ANOTHER)
def test_arithmetic_with_a_tensor_keeps_the_layout(name: str, shape: str, batch: int) -> None:
    check_keeps(WITH_ANOTHER[name], images(batch), draw(*SHAPES[shape](batch), seed=1))


@batches
@pytest.mark.parametrize("name", WITH_ANOTHER)
@pytest.mark.parametrize("shape", ["batch x channels", "full"])
def test_arithmetic_of_two_keeps_the_layout(name: str, shape: str, batch: int) -> None:
    def function(x: Any, y: Tensor) -> Any:
        return WITH_ANOTHER[name](x, poisoned(y) if isinstance(x, LaneTensor) else y)

    check_keeps(function, images(batch), draw(*SHAPES[shape](batch), seed=1))


@batches
def test_division_by_what_all_images_share_keeps_the_layout(batch: int) -> None:
    divisor = draw(CHANNELS, 1, 1, seed=1).abs() + 1
    check_keeps(lambda x, y: x / y + torch.div(x, 3), images(batch), divisor)


@batches
def test_concatenation_of_channels_keeps_the_layout(batch: int) -> None:
    def function(x: Any, y: Tensor) -> Any:
        return torch.cat([torch.concat((x, y), 1), F.relu(x)], dim=-3)

    check_keeps(function, images(batch), draw(batch, 2, HEIGHT, WIDTH, seed=1))


@batches
def test_pieces_of_the_channels_keep_the_layout(batch: int) -> None:
    def function(x: Any) -> Any:
        first, rest = torch.split(x, [1, 3], dim=1)
        y = first * x.chunk(2, 1)[1] + rest.split(2, 1)[0]
        return torch.cat([y, x[:, 1:3], x[:, ::2, :, :]], 1)

    check_keeps(function, images(batch))
    lanes: Any = to_lanes(images(batch))
    lanes[:, :2].mul_(0)
    lanes.chunk(1, 1)[0].mul_(0)
    assert torch.equal(lanes.dense(), images(batch))


@batches
def test_prelu_keeps_the_layout(batch: int) -> None:
    check_keeps(F.prelu, images(batch), draw(CHANNELS, seed=1))


@batches
@pytest.mark.parametrize("name", ["+=", "-=", "*=", "/=", "add_", "relu_"])
def test_in_place_changes_are_seen_by_all_names(name: str, batch: int) -> None:
    def function(x: Any, y: Tensor) -> Any:
        x = x * 1
        same = x
        if name == "+=":
            x += y
        elif name == "-=":
            x -= y
        elif name == "*=":
            x *= y[:, :1]
        elif name == "/=":
            x /= 3
        elif name == "add_":
            x.add_(y, alpha=2)
        else:
            F.relu(x, inplace=True)
        assert same is x
        return same + 0 * y

    check_keeps(function, images(batch), images(batch, seed=1))


@batches
def test_leaves_by_the_mean_of_the_map(batch: int) -> None:
    def function(x: Any) -> Any:
        return x.mean((2, 3)) + torch.sum(x, (-2, -1))

    assert isinstance(function(to_lanes(images(batch))), Tensor)
    check_like_dense(function, images(batch))
    assert left_lanes() == {}


@pytest.mark.parametrize("name", ["global", "mean keepdim", "max_pool2d", "interpolate"])
def test_gradients_of_lanes_are_contiguous(name: str) -> None:
    lanes = to_lanes(images(17).requires_grad_())
    gradients: list[Tensor] = []
    lanes.lanes.register_hook(gradients.append)
    y = dense(MAPS[name](lanes))
    y.backward(draw(*y.shape))
    assert gradients[0].is_contiguous()


def test_second_derivatives_of_batch_norm() -> None:
    def second(enter: Callable[[Tensor], Any]) -> Any:
        x, weight = images(16).requires_grad_(), draw(CHANNELS, seed=1).requires_grad_()
        y = dense(F.batch_norm(enter(x), None, None, weight, training=True))
        first = torch.autograd.grad((y**3).sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(torch.cat([g.flatten() for g in first]).norm(), (x, weight))

    torch.testing.assert_close(second(to_lanes), second(lambda x: x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_of_a_large_mean(dtype: torch.dtype) -> None:
    x = (draw(32, CHANNELS, HEIGHT, WIDTH) + 100).to(dtype)
    norm: Any = nn.BatchNorm2d(CHANNELS)
    exact: Any = nn.BatchNorm2d(CHANNELS).double()
    y = norm(to_lanes(x))
    # the kept values are of size 1, the rounded ones of size 100
    torch.testing.assert_close(y.dense().double(), exact(x.double()), rtol=0, atol=0.02)
    torch.testing.assert_close(norm.running_var.double(), exact.running_var, rtol=1e-5, atol=0)


@batches
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_with_its_statistics(batch: int, training: bool) -> None:
    norms: list[Any] = []
    for enter in (lambda x: x, to_lanes, poisoned):
        norm = nn.BatchNorm2d(CHANNELS, momentum=0.3).double().train(training)
        with torch.no_grad():
            for seed, parameter in enumerate(norm.parameters()):
                parameter.copy_(draw(CHANNELS, seed=seed))
        leaf = images(batch).requires_grad_()
        y = norm(norm(enter(leaf)))
        gradients = torch.autograd.grad(dense(y), [leaf, *norm.parameters()], images(batch, seed=2))
        norms.append((dense(y), gradients, dict(norm.named_buffers())))
    torch.testing.assert_close(norms[1], norms[0])
    torch.testing.assert_close(norms[2], norms[0])
    kept = not training or batch % 16 == 0
    assert isinstance(y, LaneTensor) == kept
    assert left_lanes() == ({} if kept else {"batch_norm": 2})


def test_low_precision_stays_what_it_is() -> None:
    x = images(17).bfloat16()
    y: Any = F.silu(poisoned(x)) * 2 + draw(CHANNELS, 1, 1).bfloat16()
    assert y.dtype == torch.bfloat16
    expected = F.silu(x.double()) * 2 + draw(CHANNELS, 1, 1)
    torch.testing.assert_close(y.dense().double(), expected, rtol=0.03, atol=0.03)  # 8 bits
