"""What is read from autograd's graph, beside a record of the same network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets_ext import _graph_live, ntk_gram
from supertickets_ext._graph import Graph, record
from supertickets_ext._graph_live import read_live
from supertickets_ext._jacobian_lanes import lanes_gram
from tests.ext.jacobian_nets import build, conv_net
from tests.ext.test_ntk_lanes import NETWORKS, draw


def layers(graph: Graph) -> list[tuple[object, ...]]:
    """What a graph says of its layers with weights, in a comparable form."""
    return sorted(
        (
            n.kind, tuple(sorted(n.parameters.items())), tuple(n.value.shape),
            tuple(sorted((k, v) for k, v in n.constants.items() if k != "eps")),
        )
        for n in graph.nodes
        if n.kind in ("conv2d", "batch_norm", "linear")
    )  # fmt: skip


@pytest.mark.parametrize("name", list(NETWORKS))
def test_it_says_what_a_record_says(name: str) -> None:
    net, x = draw(name, 0), torch.randn(5, 3, 8, 10)
    state = {k: t.clone() for k, t in net.state_dict().items()}
    told, recorded = read_live(net, x), record(net, x, coupled=True)
    assert told is not None
    assert layers(told) == layers(recorded)
    assert torch.equal(told.nodes[told.output].value, recorded.nodes[recorded.output].value)
    names = [k for k, _ in net.named_parameters() if k.endswith("weight")]
    gram = lanes_gram(told, names, x.dtype)
    assert gram is not None
    # The same steps run; contributions to a value may be added in another order.
    torch.testing.assert_close(gram, lanes_gram(recorded, names, x.dtype), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(t, state[k]) for k, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


class Arithmetic(nn.Module):
    """Sums, factors and differences with numbers, in place and not, and a bias without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        y = -1 * y / 4 + torch.sub(2 * y, y, alpha=3)
        y *= 0.5
        return y.sub_(0.25).add(torch.ones_like(y), alpha=2)


def test_arithmetic_with_numbers() -> None:
    torch.manual_seed(0)
    net, x = conv_net(Arithmetic(), channels=4), torch.randn(6, 3, 7, 7)
    told = read_live(net, x)
    assert told is not None
    names = [k for k, _ in net.named_parameters() if k.endswith("weight")]
    gram, expected = (lanes_gram(g, names, x.dtype) for g in (told, record(net, x, coupled=True)))
    assert gram is not None
    assert expected is not None
    torch.testing.assert_close(gram, expected, rtol=1e-4, atol=1e-6)
    rows = []
    for total in net.train()(x).sum(1):
        grads = torch.autograd.grad(total, [net.get_parameter(n) for n in names], retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    jacobian = torch.stack(rows).double()
    torch.testing.assert_close(gram, jacobian @ jacobian.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["grouped", "masked", "residual", "unknown"])
def test_other_networks_are_not_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = build(name)
    assert read_live(net, x) is None
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    assert read_live(net, x) is None
    assert not calls, "what could not be read is not run again"


def test_a_chosen_weight_that_is_computed_is_not_told() -> None:
    net = conv_net(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), channels=4)
    assert read_live(net, torch.randn(3, 3, 6, 6)) is None


def test_frozen_layers_are_values(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(5)]
    first, second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 5, 3, bias=False)
    net = conv_net(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), channels=5)
    first.weight.requires_grad_(False)
    net[-1].requires_grad_(False)
    x = torch.randn(5, 3, 8, 8)
    told = ntk_gram(net, x)
    assert net not in _graph_live._unreadable
    monkeypatch.setattr(_graph_live, "_unreadable", {net})
    torch.testing.assert_close(told, ntk_gram(net, x), rtol=1e-4, atol=1e-6)
