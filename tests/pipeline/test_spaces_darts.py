"""DARTS: genotypes as the field writes them, supernets, and networks counted to the digit."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from supertickets.errors import InputError
from supertickets.evaluate import model_cost
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model, cell_space, initialise_, space_of
from supertickets.spaces.darts_genotype import GENOTYPES, parse_genotype
from supertickets.spaces.operations import FactorizedReduce
from supertickets.ticket import Ticket

SPACE = cell_space("darts")
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
)
SMALL = {"width": 4, "layers": 3}


def test_genotypes_go_there_and_back() -> None:
    genotype = parse_genotype(DARTS_V2)
    assert genotype == GENOTYPES["darts_v2"]
    assert parse_genotype(str(genotype)) == genotype
    assert parse_genotype(json.dumps(genotype.to_json())) == genotype
    draws = generator(0, "genotypes")
    for _ in range(50):
        candidate = SPACE.sample(draws)
        assert candidate.is_path
        assert SPACE.parse(SPACE.format(candidate)) == candidate


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'dil_conv_3x3', 2", "'dil_conv_3x4', 2", "did you mean 'dil_conv_3x3'"),
        ("'dil_conv_3x3', 2", "'none', 2", "no operation 'none' in a genotype"),
        ("'dil_conv_3x3', 2", "'dil_conv_3x3', 5", "node 5 of normal reads the nodes 0 to 4"),
        ("'dil_conv_3x3', 2", "'dil_conv_3x3', 0", "both 0"),
        ("[2, 3, 4, 5]", "[2, 3, 4]", "normal_concat must be the nodes 2 to 5"),
        (", ('dil_conv_3x3', 2)", "", "8 in all, got 7"),
        ("normal=", "abnormal=", "no 'abnormal'"),
        ("Genotype(", "__import__('os').system(", "expected Genotype("),
        ("range(2, 6)", "open('x')", "expected Genotype("),
    ],
)
def test_bad_genotypes_are_named(old: str, new: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SPACE.parse(DARTS_V2.replace(old, new, 1))
    assert message in str(caught.value)


def test_edges_and_start() -> None:
    assert len(SPACE.edges) == 28
    assert [(e.source, e.target) for e in SPACE.edges[:5]] == [
        (0, 2),
        (1, 2),
        (0, 3),
        (1, 3),
        (2, 3),
    ]
    assert all(len(operations) == 7 for operations in SPACE.everything().live)
    with pytest.raises(InputError, match="two inputs a node"):
        SPACE.format(SPACE.everything())


# What the space counts today. TE-NAS states 3.8 M (CIFAR-10)
# and 5.4 M (ImageNet), unverified, for the cells it found on each
@pytest.mark.parametrize(
    ("name", "imagenet", "parameters", "macs"),
    [
        ("darts_v2", False, 3_349_342, 528_359_040),
        ("darts_v2", True, 4_718_752, 529_911_552),
        ("tenas_cifar10", False, 4_137_526, 637_568_640),
        ("tenas_imagenet", True, 5_420_416, 590_414_400),
    ],
)
def test_sizes(name: str, imagenet: bool, parameters: int, macs: int) -> None:
    side, classes = (224, 1000) if imagenet else (32, 10)
    net = SPACE.network(SPACE.parse(name), num_classes=classes, channels=3, imagenet=imagenet)
    cost = model_cost(net, torch.zeros(1, 3, side, side))
    assert (cost.parameters, cost.macs) == (parameters, macs)


def test_supernet_of_one_path_equals_the_stand_alone_net() -> None:
    candidate = SPACE.parse("tenas_cifar10")
    supernet, alone = SPACE.proxy_net(SPACE.everything()), SPACE.proxy_net(candidate)
    initialise_(supernet, generator(0, "weights"))
    alone.load_state_dict({key: supernet.state_dict()[key] for key in alone.state_dict()})
    calls: list[str] = []
    for name, module in supernet.named_modules():
        if name.endswith(("max_pool_3x3", "avg_pool_3x3")):
            module.register_forward_hook(lambda *_: calls.append("pool"))
    supernet.set_live(candidate)
    x = torch.randn(4, 3, 32, 32, generator=generator(1, "x"))
    assert torch.allclose(supernet(x), alone(x), atol=1e-6, rtol=0)
    assert calls == []


def test_proxies_end_in_bn_relu_and_the_thin_one_takes_crops() -> None:
    thin = SPACE.thin_net(SPACE.everything())
    assert thin(torch.randn(5, 1, 3, 3)).shape == (5, 10)
    proxy = SPACE.proxy_net(SPACE.everything())
    features = proxy.features(torch.randn(4, 3, 32, 32))
    assert features.shape == (4, 8, 16, 16)
    assert float(features.min()) == 0


def test_a_dead_node_is_zero() -> None:
    start = SPACE.everything()
    dead = start.with_edge(14, ()).with_edge(15, ())  # node 2 of the reduction cell
    net = SPACE.proxy_net(start)
    net.set_live(dead)
    cell = net.cells[1]
    x = torch.randn(2, 1, 8, 8), torch.randn(2, 4, 8, 8)
    out = cell(*x)
    assert out.shape == (2, 8, 4, 4)
    assert not out[:, :2].any()
    assert out[:, 2:].any()


@pytest.mark.parametrize("side", [4, 5, 3])
def test_factorized_reduce_of_any_side(side: int) -> None:
    net = FactorizedReduce(2, 5)
    x = torch.randn(3, 2, side, side)
    assert net(x).shape == (3, 5, (side + 1) // 2, (side + 1) // 2)
    assert net.conv2.weight.shape[0] == 3


def test_auxiliary_head_and_drop_path() -> None:
    net = SPACE.network(
        SPACE.parse("darts_v2"), num_classes=10, channels=3, auxiliary=True, **SMALL
    )
    x = torch.randn(4, 3, 32, 32, generator=generator(0, "x"))
    logits, auxiliary = net.both_logits(x)
    assert logits.shape == auxiliary.shape == (4, 10)
    net.eval()
    plain = net(x)
    net.set_drop_path(0.5)
    assert torch.equal(net(x), plain), "evaluation drops nothing"
    net.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = net(x), net(x)
    assert not torch.equal(one, two)


def test_a_ticket_holds_a_genotype() -> None:
    config = ModelConfig(space="darts", name="darts_v2", options=SMALL)
    model = build_model(config, num_classes=10, channels=3, seed=0)
    ticket = Ticket.from_model(
        model,
        {"space": "darts", "name": DARTS_V2, "options": SMALL, "num_classes": 10, "channels": 3,
         "image_size": [16, 16]},
    )  # fmt: skip
    x = torch.randn(2, 3, 16, 16, generator=generator(0, "x"))
    assert torch.equal(ticket.to_dense()(x), model.eval()(x))
    assert isinstance(model, nn.Module)
    assert space_of("tenas_cifar10") == space_of(DARTS_V2) == "darts"
