"""Gram matrices and Jacobian products against torch.func and the twins, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import supertickets_ext as ext
from tests.ext.jacobian_nets import NETS, build, by_jacrev, close, seeded


@pytest.mark.parametrize("parameters", ["weights", "all"])
@pytest.mark.parametrize("reduction", ["sum", "block"])
@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("name", NETS)
def test_gram_is_that_of_jacrev(name: str, mode: str, reduction: str, parameters: str) -> None:
    net, x = build(name)
    gram = ext.ntk_gram(net, x, mode=mode, reduction=reduction, parameters=parameters)
    close(gram, by_jacrev(net, x, mode, reduction, parameters))


@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("name", ["residual", "masked", "tokens"])
def test_small_budget_gives_the_same(name: str, mode: str) -> None:
    net, x = build(name)
    for reduction in ("sum", "block"):
        gram = ext.ntk_gram(net, x, mode=mode, reduction=reduction, memory_budget=5000)
        close(gram, ext.ntk_gram(net, x, mode=mode, reduction=reduction))


@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("name", ["residual-in-place", "masked", "unknown"])
def test_model_is_left_as_it_was(name: str, mode: str) -> None:
    net, x = build(name)
    calls: list[int] = []
    handle = next(net.children()).register_forward_hook(lambda *_: calls.append(1))
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    next(net.children()).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    identities = [id(p) for p in net.parameters()] + [id(b) for b in net.buffers()]
    modes, hooks = [m.training for m in net.modules()], count_hooks(net)
    state = torch.get_rng_state()
    ext.ntk_gram(net, x, mode=mode)
    assert identities == [id(p) for p in net.parameters()] + [id(b) for b in net.buffers()]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert modes == [m.training for m in net.modules()]
    assert hooks == count_hooks(net)
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters() if p.grad is not None
    )
    assert calls
    handle.remove()


def count_hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_choice_of_parameters() -> None:
    net, x = build("residual")
    net.get_parameter("stem.0.weight").requires_grad_(False)
    total = ext.ntk_gram(net, x, mode="independent")
    parts = [
        ext.ntk_gram(net, x, mode="independent", parameters=lambda name, p, n=chosen: name == n)
        for chosen, p in net.named_parameters()
        if chosen.endswith("weight") and p.requires_grad
    ]
    close(total, torch.stack(parts).sum(0))


def test_linear_model_gives_inner_products_of_inputs() -> None:
    x = torch.randn(6, 4, dtype=torch.float64, generator=seeded())
    net = nn.Linear(4, 1).double()
    for mode in ("coupled", "independent"):
        close(ext.ntk_gram(net, x, mode=mode), x @ x.T)
    twins = torch.cat([x[:3], x[:1]])
    number = ext.condition_number(ext.ntk_gram(net, twins, mode="independent"))
    assert number.rank_deficient
    assert math.isinf(number.value)


def test_condition_number() -> None:
    diagonal = torch.diag(torch.tensor([2.0, 8.0, 1.0]))
    number = ext.condition_number(diagonal)
    assert number.value == 8.0
    assert not number.rank_deficient
    assert number.eigenvalues.dtype == torch.float64
    assert ext.condition_number(diagonal * 7).value == pytest.approx(8.0)
    negative = ext.condition_number(torch.diag(torch.tensor([1.0, -1e-9])))
    assert negative.rank_deficient
    assert negative.value == math.inf
    assert ext.condition_number(torch.zeros(2, 2)).rank_deficient
    for bad in (math.nan, math.inf):
        number = ext.condition_number(torch.full((2, 2), bad))
        assert math.isnan(number.value)
        assert not number.rank_deficient
    fine = torch.diag(torch.tensor([1.0, 1e-12], dtype=torch.float64))
    assert not ext.condition_number(fine).rank_deficient
    assert not ext.condition_number(fine, row_dtype=torch.float64).rank_deficient
    assert ext.condition_number(fine * fine, row_dtype=torch.float32).rank_deficient


def test_nan_weights_give_nan_and_no_crash() -> None:
    net, x = build("plain")
    with torch.no_grad():
        net.get_parameter("0.weight").fill_(math.nan)
    for mode in ("coupled", "independent"):
        assert math.isnan(ext.condition_number(ext.ntk_gram(net, x, mode=mode)).value)


def test_threads_do_not_change_a_bit() -> None:
    net, x = build("residual")
    net, x = net.float(), x.float()
    before = torch.get_num_threads()
    grams = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        rows = torch.ops.supertickets.jacobian_conv2d_rows(
            x, x, None, None, None, [3, 3, 3, 3], 1, [1, 1], [1, 1, 1, 1], [1, 1], 1
        )[0]
        gram = torch.zeros(len(x), len(x), dtype=torch.float64)
        torch.ops.supertickets.jacobian_gram_(gram, rows.flatten(1), None)
        grams.append(gram)
    torch.set_num_threads(before)
    assert torch.equal(grams[0], grams[1])
    assert torch.equal(grams[0], grams[2])
    assert torch.equal(grams[0], grams[0].T)


def test_rows_under_functorch_and_compile() -> None:
    operator = torch.ops.supertickets.jacobian_conv2d_rows
    x, grad = (torch.randn(2, 3, n, 5, 5, generator=seeded()) for n in (4, 6))

    def rows(g: Tensor, x: Tensor) -> Tensor:
        out: Tensor = operator(
            g, x, None, None, None, [6, 4, 3, 3], 1, [1, 1], [1, 1, 1, 1], [1, 1], 1
        )[0]
        return out

    expected = torch.stack([rows(g, one) for g, one in zip(grad, x, strict=True)])
    assert torch.equal(torch.func.vmap(rows)(grad, x), expected)
    compiled = torch.compile(rows, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(grad[0], x[0]), expected[0])

    def output(weight: Tensor) -> Tensor:
        return F.conv2d(x[0], weight, padding=1)

    weight = torch.randn(6, 4, 3, 3, generator=seeded())
    (whole,) = torch.func.vjp(output, weight)[1](grad[0])
    assert torch.allclose(rows(grad[0], x[0]).sum(0), whole, atol=1e-4)


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("mode", {"mode": "train"}, ValueError, "mode must be 'coupled' or 'independent'"),
    ("reduction", {"reduction": "mean"}, ValueError, "reduction must be 'sum' or 'block'"),
    ("parameters", {"parameters": "bias"}, ValueError, "parameters must be"),
    ("none", {"parameters": lambda name, p: False}, ValueError, "at least one"),
    ("budget", {"memory_budget": 0}, ValueError, "memory_budget must be a positive"),
    ("model", {"model": lambda x: x}, TypeError, "model must be an nn.Module"),
    ("dtype", {"x": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "x must be float32"),
    ("empty", {"x": torch.zeros(0, 3)}, ValueError, "at least one sample"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"model": nn.Linear(3, 2), "x": torch.zeros(2, 3)} | change
    with pytest.raises(error, match=f"ntk_gram: .*{message}"):
        ext.ntk_gram(given.pop("model"), given.pop("x"), **given)
