"""What is timed: one case for each operator and size, with its check and its rivals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import supertickets_ext as ext
from supertickets_ext import reference

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Attributes:
        operator: Its name.
        size: For people.
        ours: What is called, by name; the first is the operator itself.
        rivals: What torch offers for the same, by name.
        check: Raises if a result of ours is wrong.
        memory_bytes: What ours must read and write at least, each number once.
        operations: Multiplications and additions that it must do.
    """

    operator: str
    size: str
    ours: Mapping[str, Call]
    rivals: Mapping[str, Call]
    check: Call
    memory_bytes: int
    operations: int = 0


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def _topk(device: torch.device, tiny: bool) -> Iterator[Case]:
    for count in (3000,) if tiny else (36_864, 2_359_296, 25_502_912):
        scores = torch.randn(count, generator=_generator(device), device=device)
        keep = count // 10

        def by_topk(scores: Tensor = scores, keep: int = keep) -> Tensor:
            best = scores.abs().topk(keep, sorted=False).indices
            mask = torch.zeros_like(scores, dtype=torch.bool)
            return mask.index_fill_(0, best, True)

        def check(scores: Tensor = scores, keep: int = keep) -> None:
            assert torch.equal(ext.topk_mask(scores, keep), reference.topk_mask(scores, keep))

        yield Case(
            "topk_mask",
            f"{count:,}",
            {"topk_mask": partial(ext.topk_mask, scores, keep)},
            {"torch.topk": by_topk},
            check,
            count * 5,
        )


_LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and side, of ResNet-50


def _conv(device: torch.device, tiny: bool) -> Iterator[Case]:
    layers = ((6, 5),) if tiny else _LAYERS
    for batch in (2,) if tiny else (1, 32):
        for density in (0.1,) if tiny else (0.1, 0.05, 0.02):
            for channels, side in layers:
                yield _conv_case(device, batch, channels, side, density, torch.float32)
                if device.type == "cuda":
                    yield _conv_case(device, batch, channels, side, density, torch.bfloat16)


def _conv_case(
    device: torch.device, batch: int, channels: int, side: int, density: float, dtype: torch.dtype
) -> Case:
    generator = _generator(device)
    x, weight = (
        torch.randn(size, generator=generator, device=device).to(dtype)
        for size in ((batch, channels, side, side), (channels, channels, 3, 3))
    )
    x = x.contiguous(memory_format=torch.channels_last)
    mask = torch.rand(weight.shape, generator=generator, device=device) < density
    sparse = ext.nn.SparseConv2d.from_dense(_layer(weight), mask)
    lanes, kept = ext.to_lanes(x), weight * mask
    kept_last = kept.contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(x.double(), kept.double(), padding=1)
    bound = F.conv2d(x.double().abs(), kept.double().abs(), padding=1)

    def check() -> None:
        for name, y in (("x", sparse(x)), ("lanes", sparse(lanes).dense())):
            room = bound * 2 * torch.finfo(torch.float32).eps * weight[0].numel()
            room = room + exact.abs() * torch.finfo(dtype).eps
            assert ((y.double() - exact).abs() <= room).all(), name

    ours = {"sparse": partial(sparse, x), "sparse in lanes": partial(sparse, lanes)}
    rivals = {"torch dense": partial(F.conv2d, x, kept_last, padding=1)}
    products = int(mask.sum()) * batch * side * side
    name = str(dtype).removeprefix("torch.")
    size = f"{batch} x {channels} x {side} x {side}, {1 - density:.0%} sparse, {name}"
    moved = (2 * x.numel() + weight.numel()) * x.element_size()
    return Case("masked_conv2d", size, ours, rivals, check, moved, 2 * products)


def _layer(weight: Tensor) -> torch.nn.Conv2d:
    layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def _jacobian(device: torch.device, tiny: bool) -> Iterator[Case]:
    for images, channels, side in ((2, 3, 5),) if tiny else ((32, 16, 32), (32, 64, 8)):
        generator = _generator(device)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, channels, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(channels, channels, 3, padding=1),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )
        for parameter in net.parameters():
            parameter.data = torch.randn(
                parameter.shape, generator=generator, device=device
            ) / math.sqrt(parameter[0].numel())
        x = torch.randn(images, 3, side, side, generator=generator, device=device)

        def by_torch_func(net: torch.nn.Module = net, x: Tensor = x) -> Tensor:
            weights = {n: p.detach() for n, p in net.named_parameters() if n.endswith("weight")}

            def total(given: dict[str, Tensor], one: Tensor) -> Tensor:
                out: Tensor = torch.func.functional_call(net, given, (one[None],))
                return out.sum()

            rows = torch.func.vmap(torch.func.grad(total), (None, 0))(weights, x)
            return sum(r.flatten(1) @ r.flatten(1).T for r in rows.values())

        def ours(net: torch.nn.Module = net, x: Tensor = x) -> Tensor:
            return ext.ntk_gram(net, x, mode="independent")

        def check(net: torch.nn.Module = net, x: Tensor = x) -> None:
            exact = reference.ntk_gram(net, x, mode="independent")
            assert (ext.ntk_gram(net, x, mode="independent") - exact).norm() <= 1e-4 * exact.norm()

        size = f"{images} samples, {channels} channels, {side} x {side}"
        rows = images * sum(p.numel() for n, p in net.named_parameters() if n.endswith("weight"))
        work = 2 * 3 * rows * side * side + images * rows
        yield Case("ntk_gram", size, {"ntk_gram": ours}, {"torch.func": by_torch_func}, check,
                   8 * rows, work)  # fmt: skip


def _patterns(device: torch.device, tiny: bool) -> Iterator[Case]:
    for samples, bits in ((20, 130),) if tiny else ((2000, 8192), (10_000, 2048)):
        values = torch.randn(samples, bits, generator=_generator(device), device=device)
        packed = ext.pack_signs(values)

        def by_product(values: Tensor = values) -> Tensor:
            signs = (values > 0).float()
            return signs @ (1 - signs).T + (1 - signs) @ signs.T

        def check(values: Tensor = values, packed: Tensor = packed) -> None:
            assert torch.equal(packed, reference.pack_signs(values))
            assert torch.equal(ext.hamming_gram(packed), reference.hamming_gram(packed))

        words = packed.numel() * 8
        yield Case(
            "hamming_gram",
            f"{samples} x {bits}",
            {"hamming_gram": partial(ext.hamming_gram, packed)},
            {"torch product of signs": by_product},
            check,
            words + 4 * samples**2,
        )


def _two_of_four(device: torch.device, tiny: bool) -> Iterator[Case]:
    """Linear layers with 2:4 masks on sparse tensor cores; only where torch has them."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return
    for rows, columns in ((128, 128),) if tiny else ((4096, 4096), (4096, 11_008)):
        generator = _generator(device)
        weight, x = (
            torch.randn(n, columns, generator=generator, device=device).half() for n in (rows, 2048)
        )
        packed, kept = ext.semi_structured(weight), weight * ext.nm_mask(weight, 2, 4)

        def check(x: Tensor = x, packed: Tensor = packed, kept: Tensor = kept) -> None:
            torch.testing.assert_close(F.linear(x, packed), F.linear(x, kept), rtol=1e-2, atol=0.5)

        yield Case(
            "semi_structured",
            f"{rows} x {columns}, 2048 rows, float16",
            {"linear 2:4": partial(F.linear, x, packed)},
            {"torch dense": partial(F.linear, x, kept)},
            check,
            2 * (x.numel() + weight.numel() * 9 // 16 + 2048 * rows),
            2048 * rows * columns,
        )


_MAKERS: dict[str, Callable[[torch.device, bool], Iterator[Case]]] = {
    "topk_mask": _topk,
    "masked_conv2d": _conv,
    "ntk_gram": _jacobian,
    "hamming_gram": _patterns,
    "semi_structured": _two_of_four,
}
OPERATORS = tuple(_MAKERS)
"""The operators that can be asked for."""


def cases_of(operator: str, device: torch.device, *, tiny: bool = False) -> Iterator[Case]:
    """Make the cases of an operator one after the other.

    Args:
        operator: One of :data:`OPERATORS`.
        device: Where they compute.
        tiny: One small case, to see that all works.
    """
    return _MAKERS[operator](device, tiny)
