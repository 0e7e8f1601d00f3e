"""NAS-Bench-201: strings, supernets, and networks counted to the digit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.evaluate import model_cost
from supertickets.seeds import generator
from supertickets.spaces import (
    Candidate,
    ModelConfig,
    build_model,
    candidate_from_json,
    cell_space,
    initialise_,
    space_of,
)
from supertickets.spaces.nasbench201 import NasBench201
from supertickets.ticket import Ticket

SPACE = cell_space("nasbench201")
CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
# cells of the benchmark with their published sizes: 1.073466 M, 153.273 M and 0.858 M, 121.82 M
SIZES = {
    13714: (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
        "|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|",
        1_073_466,
        153_272_960,
    ),
    3558: (
        "|skip_connect~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+"
        "|nor_conv_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|",
        858_426,
        121_815_680,
    ),
}


@pytest.mark.parametrize("index", SIZES)
def test_sizes_of_two_cells_of_the_benchmark(index: int) -> None:
    text, parameters, macs = SIZES[index]
    net = SPACE.network(SPACE.parse(text), num_classes=10, channels=3)
    cost = model_cost(net, torch.zeros(1, 3, 32, 32))
    assert (cost.parameters, cost.macs) == (parameters, macs)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=generator(0, "images"))


def test_strings_go_there_and_back() -> None:
    assert SPACE.format(SPACE.parse(CELL)) == CELL
    cells = list(NasBench201().cells())
    assert len(cells) == len(set(cells)) == 15625
    assert sum(("none",) not in cell.live for cell in cells) == 4096
    for cell in cells[::97]:
        assert SPACE.parse(SPACE.format(cell)) == cell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|nor_conv_3x3~0|", "expected '|op~0|"),
        (CELL.replace("none", "nore"), "no operation 'nore'; did you mean 'none'"),
        (CELL.replace("skip_connect~1", "skip_connect~0"), "node 2 reads the nodes 0 to 1"),
        ("", "expected '|op~0|"),
    ],
)
def test_bad_strings_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SPACE.parse(text)
    assert message in str(caught.value)


def test_candidates_lose_operations() -> None:
    start = SPACE.everything()
    assert all("none" not in operations and len(operations) == 4 for operations in start.live)
    less = start.without(2, "skip_connect")
    assert less.within(start)
    assert not start.within(less)
    assert len(less.live[2]) == 3
    with pytest.raises(InputError, match="not live on edge 2"):
        less.without(2, "skip_connect")
    assert candidate_from_json(less.to_json(), SPACE) == less
    with pytest.raises(InputError, match="has no operation 'nor_conv'"):
        candidate_from_json({"space": "nasbench201", "live": [["nor_conv"]] * 6}, SPACE)
    with pytest.raises(InputError, match="only a single path"):
        SPACE.format(start)


def test_supernet_of_one_path_equals_the_stand_alone_cell() -> None:
    cell = SPACE.parse(CELL.replace("none", "skip_connect"))
    supernet, alone = SPACE.proxy_net(SPACE.everything()), SPACE.proxy_net(cell)
    initialise_(supernet, generator(0, "weights"))
    alone.load_state_dict({key: supernet.state_dict()[key] for key in alone.state_dict()})
    supernet.set_live(cell)
    assert torch.allclose(supernet(images()), alone(images()), atol=1e-6, rtol=0)


def test_removed_operations_never_run_and_the_others_weigh_more() -> None:
    edge = SPACE.thin_net(SPACE.everything()).cells[0].edges[0].eval()
    x = torch.randn(3, 1, 3, 3, generator=generator(1, "x"))
    parts = {name: edge.get_submodule(name)(x) for name in edge.live}
    assert torch.allclose(edge(x), sum(parts.values()) / 4)
    calls: list[int] = []
    edge.get_submodule("nor_conv_3x3").register_forward_hook(lambda *_: calls.append(1))
    edge.set_live([name for name in parts if name != "nor_conv_3x3"])
    rest = [part for name, part in parts.items() if name != "nor_conv_3x3"]
    assert torch.allclose(edge(x), sum(rest) / 3)
    assert calls == []


def test_set_live_refuses_what_was_not_built() -> None:
    net = SPACE.thin_net(SPACE.parse(CELL))
    with pytest.raises(InputError, match="built without 'avg_pool_3x3' on edge 0"):
        net.set_live(SPACE.everything().with_edge(0, ["avg_pool_3x3"]))


def test_a_cell_of_nones_gives_constant_logits() -> None:
    net = SPACE.thin_net(Candidate("nasbench201", (("none",),) * 6))
    out = net(torch.randn(4, 1, 3, 3, generator=generator(0, "x")))
    assert torch.equal(out, out[:1].expand_as(out))


def test_proxy_shapes_and_repeatable_weights() -> None:
    net = SPACE.proxy_net(SPACE.everything())
    assert [p.shape[0] for n, p in net.named_parameters() if n.startswith("stem.0")] == [3]
    initialise_(net, generator(3, "w"))
    first = net.classifier.weight.clone()
    initialise_(net, generator(3, "w"))
    assert torch.equal(first, net.classifier.weight)
    assert not net.classifier.bias.any()


def test_initialise_draws_he_normal_weights() -> None:
    net = nn.Sequential(nn.Conv2d(16, 64, 3), nn.Conv2d(64, 16, 3))
    for fan, sides in {"fan_in": (16, 64), "fan_out": (64, 16)}.items():
        initialise_(net, generator(0, "w"), fan=fan)
        for layer, channels in zip(net, sides, strict=True):
            assert float(layer.weight.std()) == pytest.approx((2 / (9 * channels)) ** 0.5, rel=0.03)


def test_a_ticket_holds_a_cell() -> None:
    config = ModelConfig(space="nasbench201", name=CELL, options={"width": 4, "cells": 1})
    model = build_model(config, num_classes=10, channels=1, seed=0)
    ticket = Ticket.from_model(
        model,
        {"space": "nasbench201", "name": CELL, "options": config.options, "num_classes": 10,
         "channels": 1, "image_size": [8, 8]},
    )  # fmt: skip
    x = torch.randn(2, 1, 8, 8, generator=generator(0, "x"))
    assert torch.equal(ticket.to_dense()(x), model.eval()(x))
    assert ticket.density == 1
    assert space_of(CELL) == "nasbench201"


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="no option 'widht'; did you mean 'width'"):
        ModelConfig(space="nasbench201", name=CELL, options={"widht": 4})
    with pytest.raises(ValueError, match=r"expected '\|op~0"):
        ModelConfig(space="nasbench201", name="resnet20")
