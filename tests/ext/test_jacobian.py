"""Gram matrices and Jacobian products against torch.func and the twins, in float64."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import supertickets_ext as ext
from supertickets_ext import reference
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
@pytest.mark.parametrize("name", ["residual", "depthwise", "masked", "unknown"])
def test_cross_and_products(name: str, mode: str) -> None:
    net, x = build(name)
    other = build(name, 4)[1] + 0.1
    for reduction in ("sum", "block"):
        kwargs: dict[str, Any] = {"mode": mode, "reduction": reduction, "parameters": "all"}
        cross = ext.ntk_cross(net, x, other, **kwargs)
        close(cross, reference.ntk_cross(net, x, other, **kwargs))
    classes = net(x).shape[1]
    cotangents = torch.randn(3, len(x), classes, dtype=x.dtype, generator=seeded())
    ours = ext.batched_vjp(net, x, cotangents, mode=mode)
    for key, value in reference.batched_vjp(net, x, cotangents, mode=mode).items():
        close(ours[key], value)


@pytest.mark.parametrize("mode", ["coupled", "independent"])
def test_jvp(mode: str) -> None:
    net, x = build("residual")
    tangents = {
        n: torch.randn(2, *p.shape, dtype=x.dtype, generator=seeded())
        for n, p in net.named_parameters()
    }
    ours = ext.batched_jvp(net, x, tangents, mode=mode)
    close(ours, reference.batched_jvp(net, x, tangents, mode=mode))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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


def test_masked_rows_are_zero_outside_the_mask() -> None:
    net, x = build("masked")
    cotangents = torch.ones(1, len(x), 3, dtype=x.dtype)
    for mode in ("coupled", "independent"):
        rows = ext.batched_vjp(net, x, cotangents, mode=mode)
        layer = net.get_submodule("0")
        assert not rows["0.weight"][0][~layer.get_buffer("mask")].any()


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


def test_explain_names_what_takes_backward_passes() -> None:
    routes = {}
    for name in ("residual", "shared", "tokens", "masked"):
        net, x = build(name)
        report = ext.ntk_explain(net, x, mode="independent")
        routes[name] = {row.parameter: row.route for row in report.rows}
        assert all(row.parameter in str(report) for row in report.rows)
    assert routes["residual"]["alpha_weight"] == "backward"
    assert routes["residual"]["one.0.weight"] == "layer"
    assert routes["shared"] == {
        "conv.weight": "backward", "idle.weight": "unused", "head.weight": "layer"
    }  # fmt: skip
    assert set(routes["masked"].values()) == {"layer"}
    net, x = build("unknown")
    assert "may mix samples" in ext.ntk_explain(net, x, mode="independent").obstacle


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


def test_bad_products() -> None:
    net, x = nn.Linear(3, 2), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"batched_vjp: cotangents must be \[K, 4, 2\]"):
        ext.batched_vjp(net, x, torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="batched_jvp: tangents must be named like parameters"):
        ext.batched_jvp(net, x, {"other": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"batched_jvp: tangents\['weight'\] must be \[K, 2, 3\]"):
        ext.batched_jvp(net, x, {"weight": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="ntk_cross: x2 must hold samples like x1"):
        ext.ntk_cross(net, x, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="condition_number: gram must be square"):
        ext.condition_number(torch.zeros(2, 3))


_MEMORY = """
import re, torch
from pathlib import Path
from torch import nn
import supertickets_ext as ext
from supertickets_ext import reference
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Conv2d(3, 64, 3, padding=1)]
for _ in range(12):
    layers += [nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
x = torch.randn(64, 3, 4, 4)
net(x)
def peak():  # of this program alone: ru_maxrss starts at what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
{call}
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_no_jacobian_is_held() -> None:
    """64 rows of 0.45 million weights are 113 MB; one layer's are 9."""

    def extra_kib(call: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", _MEMORY.format(call=call)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(run.stdout)

    loop = extra_kib("reference.ntk_gram(net, x, mode='independent')")
    ours = extra_kib("ext.ntk_gram(net, x, mode='independent')")
    assert loop > 90_000  # what imports had freed before counts against it
    assert ours < loop / 2


class Sevenfold(torch.autograd.Function):
    """A rectifier whose gradient is not that of what it computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 7 * grad


class Surrogate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Sevenfold.apply(x)


class AsksForGradients(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if torch.is_grad_enabled() else 3 * x


class WritesParts(nn.Module):
    """Enters what depends on the input, or on a parameter alone, into a constant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.shift = width, nn.Parameter(torch.full((1,), 0.3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        canvas = torch.ones_like(x)
        canvas[:, : self.width] = x[:, : self.width]
        canvas[:, self.width :] = self.shift
        return canvas * x


@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("part", [Surrogate(), AsksForGradients(), WritesParts(2), WritesParts(0)])
def test_what_a_record_cannot_tell_is_differentiated(part: nn.Module, mode: str) -> None:
    x = build("masked")[1]
    net = conv_net(
        nn.Conv2d(x.shape[1], 5, 3, padding=1), nn.BatchNorm2d(5), part, nn.Conv2d(5, 4, 3),
        channels=4,
    ).double()  # fmt: skip
    close(ext.ntk_gram(net, x, mode=mode), reference.ntk_gram(net, x, mode=mode))


def test_gradients_of_the_users_own_are_named() -> None:
    net = conv_net(nn.Conv2d(3, 5, 3), Surrogate(), channels=5).double()
    report = ext.ntk_explain(net, build("masked")[1], mode="independent")
    assert "Sevenfold" in report.obstacle
