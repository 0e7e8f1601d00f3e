"""The space hrnet: published sizes, heads, the switch of the transformer, rebuilding."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supertickets.errors import ConfigError
from supertickets.evaluate import model_cost
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model
from supertickets.spaces.hrnet_net import Hrnet, atom_blocks, drawn_blocks
from supertickets.ticket import Ticket

# Sizes of the released start supernets: millions of parameters (in all; of layers that are
# profiled; of prunable weights), blocks, operations, atoms, and giga-MACs at 224 x 224.
PUBLISHED = [
    ("hrnet-imagenet", 1000, "13.34", "13.04", "11.44", 67, 201, 47_952, "2.42"),
    ("hrnet-cityscapes", 19, "10.20", "9.92", "9.92", 61, 183, 44_928, "5.92"),
    ("hrnet-ade20k", 150, "10.52", "10.24", "10.21", 61, 183, 44_928, "6.91"),
    ("hrnet-coco", 17, "10.20", "9.92", "9.92", 61, 183, 44_928, "5.92"),
]
TASK_SIZES = {  # height, width, giga-MACs
    "hrnet-imagenet": (224, 224, "2.4"),
    "hrnet-cityscapes": (512, 1024, "61.8"),
    "hrnet-ade20k": (512, 512, "36.1"),
    "hrnet-coco": (256, 192, "5.8"),
}


def net(name: str = "hrnet-small-cls", *, classes: int = 7, seed: int = 0, **options: Any) -> Hrnet:
    config = ModelConfig(space="hrnet", name=name, options=options)
    model = build_model(config, num_classes=classes, channels=3, seed=seed)
    assert isinstance(model, Hrnet)
    return model


def millions(count: int) -> str:
    return f"{count / 1e6:.2f}"


@pytest.mark.parametrize(
    ("name", "classes", "all_", "profiled", "prunable", "blocks", "operations", "atoms", "macs"),
    PUBLISHED,
)
def test_start_supernets_have_the_published_sizes(
    name: str,
    classes: int,
    all_: str,
    profiled: str,
    prunable: str,
    blocks: int,
    operations: int,
    atoms: int,
    macs: str,
) -> None:
    model = net(name, classes=classes)
    found = atom_blocks(model)
    assert len(found) == blocks
    assert sum(len(block.atoms) for block in found.values()) == operations
    assert sum(sum(block.atoms.values()) for block in found.values()) == atoms
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert millions(sum(p.numel() for m in layers for p in m.parameters())) == profiled
    kept = set(model.kept_dense)
    weights = sum(
        m.weight.numel()
        for layer, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and layer not in kept
    )
    assert millions(weights) == prunable
    # the released net carries one more batch norm per operation, which nothing uses
    assert millions(sum(p.numel() for p in model.parameters()) + 2 * atoms) == all_
    exact = model_cost(model, torch.zeros(1, 3, 224, 224)).macs
    assert f"{exact / 1e9:.2f}" == macs
    height, width, at_task = TASK_SIZES[name]
    assert f"{exact * height * width / 224**2 / 1e9:.1f}" == at_task


def test_the_transformer_stands_in_44_blocks_of_the_published_net() -> None:
    with torch.device("meta"):
        model = net("hrnet-cityscapes", classes=19, transformer=True)
    sizes = [
        sum(p.numel() for p in block.transformer.parameters())
        for block in atom_blocks(model).values()
        if block.transformer is not None
    ]
    assert (len(sizes), min(sizes), max(sizes)) == (44, 56_356, 72_736)
    assert f"{sum(sizes) / 1e6:.2f}" == "2.73"
    kept = set(model.kept_dense)
    inside = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "transf" in n]
    assert inside
    assert kept.issuperset(inside)


def test_the_transformer_switch_changes_the_function_and_learns() -> None:
    x = torch.randn(2, 3, 32, 32, generator=generator(0, "x"))
    off, on = net().eval(), net(transformer=True, tokens=8)
    assert not any(block.transformer for block in atom_blocks(off).values())
    on.load_state_dict(off.state_dict(), strict=False)
    on.eval()
    assert not torch.allclose(off(x), on(x), atol=1e-3)
    on.train()
    on(x).square().sum().backward()
    idle = [name for name, p in on.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in idle if "transformer" in name]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("hrnet-small-cls", (3, 7)),
        ("hrnet-small-seg", (3, 7, 16, 16)),
        ("hrnet-small-pose", (3, 7, 16, 16)),
    ],
)
def test_heads_give_logits_or_maps_and_every_weight_learns(
    name: str, shape: tuple[int, ...]
) -> None:
    model = net(name)
    outputs = model(torch.randn(3, 3, 32, 32, generator=generator(0, "x")))
    assert outputs.shape == shape
    labels = torch.zeros(shape[:1] + shape[2:], dtype=torch.long)
    F.cross_entropy(outputs, labels).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("size", [(33, 47), (30, 30), (5, 9)])
def test_sizes_that_do_not_halve_evenly_work(size: tuple[int, int]) -> None:
    assert net()(torch.zeros(2, 3, *size)).shape == (2, 7)
    maps = net("hrnet-small-seg")(torch.zeros(2, 3, *size))
    assert maps.shape == (2, 7, -(-size[0] // 2), -(-size[1] // 2))


def test_mnas_draws_depthwise_filters_by_their_own_area() -> None:
    model = net("hrnet-cityscapes", classes=19)
    for kernel in ("3", "5", "7"):
        weights = torch.cat(
            [b.operations[kernel].depthwise.weight.flatten() for b in atom_blocks(model).values()]
        )
        assert weights.std().item() == pytest.approx((2 / int(kernel) ** 2) ** 0.5, rel=0.02)
    expand = atom_blocks(model)["head.join"].operations["3"].expand.weight
    assert expand.std().item() == pytest.approx((2 / expand.shape[0]) ** 0.5, rel=0.02)


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = net(seed=5), net(seed=5), net(seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    weight = "stages.0.0.0.operations.3.expand.weight"
    assert not torch.equal(first.get_parameter(weight), other.get_parameter(weight))


def test_coco_draws_narrow_normals() -> None:
    weight = net("hrnet-coco", classes=17).get_parameter("stem.1.0.weight")
    assert weight.std().item() == pytest.approx(1e-3, rel=0.05)


def test_a_drawn_architecture_is_rebuilt_from_a_tickets_config() -> None:
    blocks = drawn_blocks(net())
    blocks["fusions.0.paths.0to0"] = {"5": 3}
    blocks["stages.1.1.0"] = {}  # vanished
    model = net(blocks=blocks)
    assert drawn_blocks(model) == blocks
    gone = atom_blocks(model)["stages.1.1.0"]
    assert gone.norm is None
    assert gone.shift is not None
    assert not list(gone.operations)
    ticket = Ticket.from_model(
        model,
        {
            "space": "hrnet",
            "name": "hrnet-small-cls",
            "options": {"blocks": blocks},
            "num_classes": 7,
            "channels": 3,
            "image_size": (32, 32),
        },
    )
    x = torch.randn(2, 3, 32, 32, generator=generator(0, "x"))
    assert torch.equal(ticket.to_dense()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"expnsion": 2}, "no option 'expnsion'; did you mean 'expansion'?"),
        ({"kernels": [3, 4]}, "odd"),
        ({"head_channels": [1, 2]}, "must give 3 numbers"),
        ({"blocks": {"stages.0.0.0": {"4": 2}}}, "'4' is no odd kernel size"),
        ({"stages": [[[1, 8], [1, 8]], [[1, 8]]]}, "must not lose branches"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        net(**options)


def test_a_block_that_the_net_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no block 'stages.0.0.1'; did you mean 'stages.0.0.0'"):
        net(blocks={"stages.0.0.1": {"3": 2}})
