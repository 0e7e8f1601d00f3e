"""Which route a Gram matrix takes: what a report says, what a record cannot tell, what is held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import supertickets_ext as ext
from supertickets_ext import _jacobian_layers as layers
from supertickets_ext import reference
from tests.ext.jacobian_nets import build, close, conv_net


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


@pytest.mark.parametrize("route", ["layers", "loop", None])
@pytest.mark.parametrize("reduction", ["sum", "block"])
def test_coupled_routes_give_the_same(
    route: str | None, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each route by itself, and None for a call whose first rows are measured."""
    net, x = build("residual")
    net.get_parameter("alpha_weight").requires_grad_(False)
    verdicts: dict[Any, str] = {}
    monkeypatch.setattr(layers, "_verdicts", verdicts)
    if route is not None:
        monkeypatch.setattr(layers, "_route", lambda *_: route)
    gram = ext.ntk_gram(net, x, reduction=reduction)
    close(gram, reference.ntk_gram(net, x, reduction=reduction))
    if route is None:
        assert set(verdicts.values()) <= {"layers", "loop"}
        assert len(verdicts) == 1


def test_the_route_of_a_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_verdicts", {})
    net, x = build("residual")
    net.get_parameter("alpha_weight").requires_grad_(False)
    assert ext.ntk_explain(net, x).network == "measured"
    assert "float32" in ext.ntk_explain(net, x).lanes_refusal
    ext.ntk_gram(net, x)
    found = ext.ntk_explain(net, x).network
    assert found in ("layers", "loop")
    assert f"network: {found}" in str(ext.ntk_explain(net, x))
    net.get_parameter("alpha_weight").requires_grad_(True)
    assert ext.ntk_explain(net, x).network == "loop", "one backward pass serves all parameters"
    thin = conv_net(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), channels=4)
    assert ext.ntk_explain(thin, x.float()).network == "lanes"


def test_hooks_of_parameters_do_not_run() -> None:
    net, x = build("plain")
    calls: list[int] = []
    for parameter in net.parameters():
        parameter.register_hook(lambda grad: calls.append(1))
    close(ext.ntk_gram(net, x), reference.ntk_gram(net, x))
    assert not calls


class Checkpointed(nn.Module):
    """Runs its convolution and norm again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out = torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
        assert isinstance(out, Tensor)
        return out


def test_checkpointed_layers_run_again_in_the_same_state() -> None:
    net = conv_net(Checkpointed(), channels=4).double().eval()
    x = build("plain")[1]
    state = {name: t.clone() for name, t in net.state_dict().items()}
    close(ext.ntk_gram(net, x), reference.ntk_gram(net, x))
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
