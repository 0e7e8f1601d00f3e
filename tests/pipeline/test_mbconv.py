"""The mbconv space: exact costs, the released architectures, backbones, tickets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cream_released import row
from supertickets.data import DataConfig, load_data
from supertickets.errors import ConfigError, InputError
from supertickets.evaluate import classification, model_cost
from supertickets.prune import jackpot
from supertickets.seeds import generator
from supertickets.spaces import (
    Backbone,
    MBConvNet,
    MBConvSpace,
    ModelConfig,
    build_model,
    mbconv_space,
    path_space,
    space_of,
)
from supertickets.spaces.mbconv import HARDER, OPERATIONS
from supertickets.spaces.mbconv_blocks import Shape, Style, build_operation, operation_cost
from supertickets.spaces.mbconv_released import RELEASED
from supertickets.ticket import Ticket
from supertickets_ext import sparsify

DIGITS_PATH = "k3e2|bottleneck,k3e4|k1e1"


def digits_space(**changes: Any) -> MBConvSpace:
    sizes: dict[str, Any] = {"num_classes": 10, "channels": 1, "image_size": (8, 8)}
    return mbconv_space(**{**sizes, "options": {"preset": "digits"}, **changes})


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "images"))


# --- costs ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HARDER, "k1e1", "k3e1", "skip"])
@pytest.mark.parametrize("shape", [Shape(16, 16, 1, 7, 9), Shape(16, 24, 2, 7, 9)])
@pytest.mark.parametrize("style", [Style(), Style(se_ratio=0, activation="relu")])
def test_an_operation_costs_what_its_layers_do(name: str, shape: Shape, style: Style) -> None:
    if name == "skip" and not shape.keeps:
        with pytest.raises(InputError, match="'skip' needs a layer that keeps shapes"):
            build_operation(name, shape, style)
        return
    block = build_operation(name, shape, style).eval()
    x = torch.zeros(1, shape.inputs, shape.height, shape.width)
    counted, cost = model_cost(block, x), operation_cost(name, shape, style)
    assert (cost.macs, cost.parameters) == (counted.macs, counted.parameters)
    assert block(x).shape == (1, shape.outputs, *shape.output_size)


@pytest.mark.parametrize(
    "space",
    [
        digits_space(),
        digits_space(operations=[*HARDER, "skip"], image_size=(9, 14), channels=3),
        mbconv_space(num_classes=7, channels=3, image_size=(64, 48), options={"width": 0.5}),
    ],
    ids=["digits", "harder", "imagenet"],
)
def test_paths_cost_what_their_networks_do(space: MBConvSpace) -> None:
    example = torch.zeros(1, space.channels, *space.image_size)
    drawer = generator(0, "paths")
    paths = [space.sample(drawer) for _ in range(4)]
    for path in [*paths, (0,) * len(space.layers)]:
        cost = model_cost(space.network(path), example)
        assert (space.macs(path), space.parameters(path)) == (cost.macs, cost.parameters)


def test_the_digits_preset_is_small_enough_to_enumerate() -> None:
    space = digits_space()
    assert space.count == len(set(space.paths())) == 256
    macs = [space.macs(path) for path in space.paths()]
    assert space.reachable() == (min(macs), max(macs))


@pytest.mark.parametrize("name", RELEASED)
def test_released_architectures_count_as_published(name: str) -> None:
    """The published figures are those of the authors' code, and count more than MACs."""
    figures = row(name)
    for kind in ("listed", "built"):
        path_text, size = figures[kind]["architecture"], figures["resolution"]
        config = ModelConfig(space="mbconv", name=path_text)
        net = build_model(config, num_classes=1000, channels=3, seed=0)
        cost = model_cost(net, torch.zeros(1, 3, size, size))
        assert figures[kind]["macs"] == cost.macs
        assert figures[kind]["parameters"] == cost.parameters
    # 43M is the one that differs: 42.4, which another page of the authors calls 42M
    millions = figures["built"]["counted_by_the_authors"] / 1e6
    assert abs(millions - figures["published_millions"]) < 0.7


def test_a_user_s_count_of_cream_s_replaced_the_fixed_block() -> None:
    """318M come out with the listed indices and an MBConv of expansion 4 for the fixed block."""
    space, path = path_space(
        RELEASED["cream_287"].listed, num_classes=1000, channels=3, image_size=(224, 224)
    )
    fixed = Shape(16, 16, 1, 112, 112)
    block, wider = (operation_cost(name, fixed, Style()).macs for name in ("k3e1", "k3e4"))
    assert wider == 32_917_504  # the user's own figure for that layer
    assert space.macs(path) - block + wider == 318_715_264


# --- sharing weights --------------------------------------------------------------------


@pytest.mark.parametrize("operations", [None, [*HARDER, "skip"]])
def test_a_step_changes_only_its_path(operations: list[str] | None) -> None:
    space = digits_space(operations=operations)
    supernet = space.supernet(generator(0, "weights"))
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    drawer = generator(0, "paths")
    for _ in range(3):
        path = space.sample(drawer)
        supernet.set_path(path)
        before = {key: value.clone() for key, value in supernet.state_dict().items()}
        optimizer.zero_grad()
        nn.functional.cross_entropy(supernet(images(4, 1, 8, 8)), torch.arange(4)).backward()
        optimizer.step()
        on_path = tuple(f"layers.{layer}.{index}." for layer, index in enumerate(path))
        for key, value in supernet.state_dict().items():
            belongs = key.startswith(("stem.", "head.", *on_path))
            assert torch.equal(value, before[key]) != belongs, key


def test_an_inherited_path_computes_what_the_supernet_does() -> None:
    space = digits_space(options={"preset": "digits", "se_ratio": 0.25, "activation": "swish"})
    supernet = space.supernet(generator(0, "weights"))
    path = space.parse(DIGITS_PATH)
    supernet.set_path(path)
    supernet(images(16, 1, 8, 8))
    network = space.network(path)
    network.load_state_dict(supernet.inherit(path))
    x = images(4, 1, 8, 8, seed=1)
    assert torch.equal(network.eval()(x), supernet.eval()(x))
    assert torch.equal(network.features(x), supernet.features(x))


def test_depthwise_filters_start_as_large_as_others() -> None:
    space, path = path_space("cream_43", num_classes=10, channels=3, image_size=(32, 32))
    net = space.network(path, generator(0, "weights"))
    depthwise = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 16]
    assert len(depthwise) == len(path)
    for module in depthwise:  # Kaiming by the outputs of a group: variance 2 / (kernel * kernel)
        assert module.weight.std().item() == pytest.approx(2**0.5 / module.kernel_size[0], rel=0.1)


# --- backbones --------------------------------------------------------------------------


def test_a_backbone_gives_maps_at_strides_4_to_32_with_gradients() -> None:
    space, path = path_space("cream_14", num_classes=10, channels=3, image_size=(64, 96))
    net = space.network(path, generator(0, "weights"))
    backbone = net.backbone()
    assert (backbone.strides, backbone.channels) == ((4, 8, 16, 32), (24, 40, 96, 192))
    x = images(2, 3, 64, 96).requires_grad_()
    maps = backbone(x)
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 96 // stride)
        for stride, channels in zip(backbone.strides, backbone.channels, strict=True)
    ]
    assert torch.equal(maps[-1], net.train().features(x))
    sum(m.square().mean() for m in maps).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_backbone_ends_at_the_last_map_and_refuses_strides_it_has_not() -> None:
    net = digits_space().network((1, 1, 1, 1))
    assert net.backbone().strides == (4,)
    two = net.backbone([2, 1])
    assert (two.strides, two.channels, len(two.layers)) == ((1, 2), (16, 24), 3)
    with pytest.raises(InputError, match=r"no map of stride 8; the network has \[1, 2, 4\]"):
        net.backbone([8])
    with pytest.raises(InputError, match="at least one stride"):
        net.backbone([])
    config = ModelConfig(space="mbconv", name="cream_14", options={"features_only": True})
    assert isinstance(build_model(config, num_classes=2, channels=3, seed=0), Backbone)


# --- text and tickets -------------------------------------------------------------------


def test_text_brings_its_depths_and_may_be_indices() -> None:
    sizes: dict[str, Any] = {"num_classes": 10, "channels": 3, "image_size": (64, 64)}
    by_index, path = path_space("3|3,1|3|0|5,5", **sizes)
    by_name, same = path_space("k5e6|k5e6,k3e6|k5e6|k3e4|k7e6,k7e6", **sizes)
    assert by_index.format(path) == by_name.format(same) == "k5e6|k5e6,k3e6|k5e6|k3e4|k7e6,k7e6"
    assert RELEASED["cream_287"].built.startswith("k3e4|")  # a single layer keeps its template
    assert RELEASED["cream_287"].listed.startswith("k5e6|")
    assert RELEASED["cream_604"].built == RELEASED["cream_604"].listed
    assert [space_of(text) for text in ("cream_43", DIGITS_PATH, "digits", "a.b:c")] == [
        "mbconv", "mbconv", "plain", "import",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cream_99", {}, "no architecture 'cream_99'; known: cream_14"),
        ("k3e4|k3e4", {}, "depths must be 5 numbers"),
        ("k4e4|k3e4|k3e4|k3e4|k3e4", {}, "no operation 'k4e4'; expected k<odd kernel>e<expansion>"),
        ("k3e4|k3e4|k3e4|k3e4|9", {}, "no operation '9'"),
        ("skip|k3e4|k3e4|k3e4|k3e4", {}, "layer stage1.0 has no operation 'skip'"),
        ("|||||", {}, "no operation ''"),
        ("cream_14", {"widht": 1.0}, "no option 'widht'; did you mean 'width'"),
        ("cream_14", {"width": -1}, "model.options.width of mbconv"),
        ("cream_14", {"channels": [8, 12, 8, 8, 8]}, "multiple of 8"),
        ("cream_14", {"strides": [2, 2]}, "as many strides as channels"),
        (f"{'k3e4,' * 21}k3e4|0|0|0|0", {}, "numbers from 1 to 20"),
    ],
)
def test_bad_names_and_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(space="mbconv", name=name, options=options)


def test_bad_spaces_are_refused() -> None:
    for changes, message in [
        ({"operations": ["k3e4", "k3e4"]}, "each once"),
        ({"operations": []}, "expected operations"),
        ({"operations": ["skip"]}, "stage1.0 changes shapes, so it needs an operation besides"),
        ({"depths": (1, 0, 1)}, "depths must be 3 numbers from 1"),
        ({"num_classes": 0}, "must be at least 1"),
        ({"image_size": (0, 8)}, "must be at least 1"),
    ]:
        with pytest.raises(InputError, match=message):
            digits_space(**changes)
    with pytest.raises(ConfigError, match="needs num_classes and channels"):
        build_model(
            ModelConfig(space="mbconv", name="cream_14"), num_classes=None, channels=3, seed=0
        )


def test_equal_seeds_build_equal_networks_by_the_space_s_own_rule() -> None:
    config = ModelConfig(space="mbconv", name=DIGITS_PATH, options={"preset": "digits"})
    before = torch.get_rng_state()
    nets = [build_model(config, num_classes=10, channels=1, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    first, second, other = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_a_path_is_a_ticket_and_is_pruned_like_any_network(tmp_path: Path) -> None:
    data = load_data(DataConfig(name="digits"))
    space = digits_space()
    path = space.parse(DIGITS_PATH)
    supernet = space.supernet(generator(0, "weights"))
    net = space.network(path)
    net.load_state_dict(supernet.inherit(path))
    architecture = {
        "space": "mbconv",
        "name": space.format(path),
        "options": {"preset": "digits"},
        "num_classes": 10,
        "channels": 1,
        "image_size": (8, 8),
    }
    ticket = Ticket.from_model(net, architecture, class_names=data.class_names)
    assert ticket.metrics["density"] == 1.0
    assert ticket.metrics["macs"] == space.macs(path)
    ticket.save_pretrained(tmp_path / "dense")
    loaded = Ticket.from_pretrained(tmp_path / "dense").to_dense()
    assert isinstance(loaded, MBConvNet)
    x = images(4, 1, 8, 8)
    assert torch.equal(loaded.eval()(x), net.eval()(x))

    pruned = jackpot(
        loaded, data, 0.8, architecture=architecture, epochs=1, bn_batches=2, progress=False
    )
    pruned.save_pretrained(tmp_path / "pruned")
    again = Ticket.from_pretrained(tmp_path / "pruned")
    # of 0.8 of the maskable weights; the classifier and depthwise filters' floors stay
    assert again.metrics["density"] < 0.35
    assert again.metrics["effective_macs"] < 0.5 * again.metrics["macs"]
    dense = again.to_dense().eval()
    torch.testing.assert_close(  # batch norms are fused
        sparsify(dense, x, verbose=False)(x), dense(x), rtol=1e-3, atol=1e-4
    )
    found = classification(dense, data.loader("test", batch_size=256))
    assert found.accuracy == pytest.approx(again.metrics["test_accuracy"])


def test_sparsify_takes_a_pruned_path_with_squeezes() -> None:
    space, path = path_space(
        "k3e4|k3e4,k5e6|k3e4|k3d2|bottleneck", num_classes=10, channels=3, image_size=(32, 32)
    )
    net = space.network(path, generator(0, "weights")).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                module.weight *= torch.rand(module.weight.shape, generator=generator(1)) < 0.1
    x = images(2, 3, 32, 32)
    fast = sparsify(net, x, verbose=False)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-3, atol=1e-4)  # fused batch norms


def test_operations_keep_the_order_of_the_published_indices() -> None:
    assert OPERATIONS == ("k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6")
    space = mbconv_space(num_classes=1000, channels=3, image_size=(224, 224))
    assert [layer.operations for layer in space.layers] == [OPERATIONS] * 21
