"""A small self-test of every operator, for bug reports and fresh installations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from supertickets_ext import reference
from supertickets_ext.activation_patterns import count_patterns, hamming_gram, pack_signs
from supertickets_ext.jacobian import ntk_gram
from supertickets_ext.mask_update import (
    global_update_topk_mask_,
    rigl_update_,
    update_topk_mask_,
    update_topk_masks_,
)
from supertickets_ext.masked_conv2d import masked_conv2d
from supertickets_ext.pack_mask import pack_mask, unpack_mask
from supertickets_ext.topk_mask import global_topk_mask, nm_mask, topk_mask


class SelfTest(NamedTuple):
    """One operator's result: whether it agrees with its plain-PyTorch twin, and how far."""

    operator: str
    ok: bool
    detail: str


def _masked_conv2d(generator: torch.Generator) -> tuple[bool, str]:
    x = torch.randn(3, 4, 9, 7, generator=generator)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    mask = torch.rand(weight.shape, generator=generator) < 0.3
    errors = []
    for function in (masked_conv2d, reference.masked_conv2d):
        inputs = (x.clone().requires_grad_(), weight.clone().requires_grad_())
        y = function(inputs[0], inputs[1], mask, stride=2, padding=1)
        errors.append([y.detach(), *torch.autograd.grad(y.square().sum(), inputs)])
    worst = max(float((a - b).abs().max()) for a, b in zip(*errors, strict=True))
    return worst < 1e-3, f"largest difference of output and gradients {worst:.1e}"


def _topk_mask(generator: torch.Generator) -> tuple[bool, str]:
    scores = torch.randn(1000, generator=generator)
    same = torch.equal(topk_mask(scores, 100), reference.topk_mask(scores, 100))
    return same, "equal masks" if same else "masks differ"


def _global_topk_mask(generator: torch.Generator) -> tuple[bool, str]:
    scores = [torch.randn(n, generator=generator) for n in (300, 7, 0, 500)]
    pairs = zip(global_topk_mask(scores, 80), reference.global_topk_mask(scores, 80), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    return same, "equal masks" if same else "masks differ"


def _update_topk_mask(generator: torch.Generator) -> tuple[bool, str]:
    scores = torch.randn(1000, generator=generator)
    mask = torch.rand(1000, generator=generator) < 0.1
    twin = mask.clone()
    update_topk_mask_(mask, scores, 100, max_swaps=5)
    reference.update_topk_mask_(twin, scores, 100, max_swaps=5)
    same = torch.equal(mask, twin)
    return same, "equal masks" if same else "masks differ"


def _lists(generator: torch.Generator) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    scores = [torch.randn(n, generator=generator) for n in (300, 7, 0, 500)]
    return scores, [torch.rand(s.shape, generator=generator) < 0.1 for s in scores]


def _update_topk_masks(generator: torch.Generator) -> tuple[bool, str]:
    scores, masks = _lists(generator)
    twins = [mask.clone() for mask in masks]
    update_topk_masks_(masks, scores, [30, 1, 0, 50], max_swap_fraction=0.5)
    reference.update_topk_masks_(twins, scores, [30, 1, 0, 50], max_swap_fraction=0.5)
    same = all(torch.equal(a, b) for a, b in zip(masks, twins, strict=True))
    return same, "equal masks" if same else "masks differ"


def _global_update_topk_mask(generator: torch.Generator) -> tuple[bool, str]:
    scores, masks = _lists(generator)
    twins = [mask.clone() for mask in masks]
    global_update_topk_mask_(masks, scores, 80, max_swaps=5)
    reference.global_update_topk_mask_(twins, scores, 80, max_swaps=5)
    same = all(torch.equal(a, b) for a, b in zip(masks, twins, strict=True))
    return same, "equal masks" if same else "masks differ"


def _nm_mask(generator: torch.Generator) -> tuple[bool, str]:
    weight = torch.randn(8, 16, 3, 3, generator=generator)
    same = torch.equal(nm_mask(weight, 2, 4), reference.nm_mask(weight, 2, 4))
    return same, "equal masks" if same else "masks differ"


def _rigl_update(generator: torch.Generator) -> tuple[bool, str]:
    weight, grad = torch.randn(2, 1000, generator=generator).unbind()
    mask = torch.rand(1000, generator=generator) < 0.1
    twin = mask.clone()
    rigl_update_(mask, weight, grad, 20)
    reference.rigl_update_(twin, weight, grad, 20)
    same = torch.equal(mask, twin)
    return same, "equal masks" if same else "masks differ"


def _pack_mask(generator: torch.Generator) -> tuple[bool, str]:
    mask = torch.rand(7, 43, generator=generator) < 0.1
    same = torch.equal(unpack_mask(pack_mask(mask), mask.shape), mask)
    return same, "equal masks" if same else "masks differ"


def _ntk_gram(generator: torch.Generator) -> tuple[bool, str]:
    with torch.random.fork_rng(devices=[]):
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Linear(8 * 36, 3),
        )  # fmt: skip
    for parameter in net.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn(4, 3, 6, 6, generator=generator)
    errors = []
    for mode in ("coupled", "independent"):
        twin = reference.ntk_gram(net, x, mode=mode)
        errors.append(float((ntk_gram(net, x, mode=mode) - twin).abs().max() / twin.abs().max()))
    return max(errors) < 1e-4, f"largest relative difference {max(errors):.1e}"


def _activation_patterns(generator: torch.Generator) -> tuple[bool, str]:
    values = torch.randn(20, 200, generator=generator).repeat(2, 1)
    patterns = pack_signs(values)
    same = (
        torch.equal(patterns, reference.pack_signs(values))
        and count_patterns(patterns) == reference.count_patterns(patterns)
        and torch.equal(hamming_gram(patterns), reference.hamming_gram(patterns))
    )
    return same, "equal bits, count and distances" if same else "bits, count or distances differ"


def self_test() -> list[SelfTest]:
    """Run every operator once on small inputs and compare it with its reference.

    Returns:
        One row per operator; an operator that raises is a failed row, not an exception.
    """
    tests: Iterable[tuple[str, Callable[[torch.Generator], tuple[bool, str]]]] = (
        ("masked_conv2d", _masked_conv2d),
        ("ntk_gram", _ntk_gram),
        ("topk_mask", _topk_mask),
        ("global_topk_mask", _global_topk_mask),
        ("update_topk_mask_", _update_topk_mask),
        ("update_topk_masks_", _update_topk_masks),
        ("global_update_topk_mask_", _global_update_topk_mask),
        ("rigl_update_", _rigl_update),
        ("nm_mask", _nm_mask),
        ("pack_mask", _pack_mask),
        ("activation_patterns", _activation_patterns),
    )
    rows = []
    for name, test in tests:
        try:
            ok, detail = test(torch.Generator().manual_seed(0))
        except Exception as error:  # a broken kernel may raise anything; the row reports it
            ok, detail = False, f"{type(error).__name__}: {error}"
        rows.append(SelfTest(name, ok, detail))
    return rows
