"""Accuracy, exact costs, fingerprints and timing."""

from __future__ import annotations

import math
from typing import NoReturn

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from supertickets.errors import InputError, RunError
from supertickets.evaluate import (
    classification,
    eval_mode,
    fingerprint,
    latency,
    model_cost,
)
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model, example_input, plain_names


def build(
    name: str, size: int, classes: int = 10, **options: int
) -> tuple[nn.Module, torch.Tensor]:
    config = ModelConfig(name=name, options=options)
    model = build_model(config, num_classes=classes, channels=3, seed=0)
    return model, example_input(3, (size, size))


@pytest.mark.parametrize(
    ("name", "size", "classes", "gmacs", "million_parameters"),
    [
        # He et al. 2016 and torchvision's model table (v1.5 of ResNet-50)
        ("resnet50", 224, 1000, "4.09", "25.557"),
        ("resnet18", 224, 1000, "1.81", "11.69"),
        ("resnet20", 32, 10, "0.041", "0.27"),
        ("resnet32", 32, 10, "0.069", "0.46"),
        ("vgg19_bn", 32, 10, "0.398", "20.0"),
    ],
)
def test_published_figures(name, size, classes, gmacs, million_parameters) -> None:
    cost = model_cost(*build(name, size, classes))
    assert rounded_as(gmacs, cost.macs / 1e9) == gmacs
    assert rounded_as(million_parameters, cost.parameters / 1e6) == million_parameters


def rounded_as(printed: str, value: float) -> str:
    return f"{value:.{len(printed.partition('.')[2])}f}"


@pytest.mark.parametrize("name", plain_names())
def test_macs_are_half_of_torchs_flops(name) -> None:
    model, example = build(name, 32, width=8)
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    assert 2 * model_cost(model, example).macs == counter.get_total_flops()


def test_hand_made_numbers() -> None:
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(54, 5))
    with torch.no_grad():
        conv.weight.view(-1)[:10] = 0
    cost = model_cost(model, torch.zeros(1, 4, 6, 5))  # 3 x 3 outputs
    first, second = cost.layers
    assert (first.kind, first.name, first.shape) == ("conv2d", "0", (6, 2, 3, 2))
    assert (first.weights, first.nonzeros) == (72, 62)
    assert (first.macs, first.effective_macs) == (72 * 9, 62 * 9)
    assert (second.kind, second.name, second.macs) == ("linear", "2", 270)
    assert cost.macs == 648 + 270
    assert cost.effective_macs == 558 + 270
    assert cost.density == (62 + 270) / (72 + 270)
    assert cost.uniform_macs == round(918 * 332 / 342)
    assert cost.parameters == 72 + 6 + 270 + 5
    assert cost.nonzeros == cost.parameters - 10
    assert cost.dense_bytes == 4 * cost.parameters


def test_macs_grow_with_the_batch_and_with_every_position_of_a_linear() -> None:
    linear = nn.Linear(3, 4)
    assert model_cost(linear, torch.zeros(2, 5, 3)).macs == 2 * 5 * 12


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.unused = nn.Conv2d(2, 2, 1)

    def forward(self, x) -> torch.Tensor:
        return self.conv(F.conv2d(self.conv(x), torch.ones(2, 2, 1, 1)))


def test_a_module_called_twice_counts_twice_an_unused_one_and_a_function_never() -> None:
    cost = model_cost(Twice(), torch.zeros(1, 2, 3, 3))
    assert {layer.name: layer.macs for layer in cost.layers} == {"conv": 2 * 9 * 4, "unused": 0}
    assert cost.density == 1.0
    assert "Not seen: functional calls" in (model_cost.__doc__ or "")


def test_masked_layers_count_kept_weights_and_no_scores() -> None:
    ext = pytest.importorskip("supertickets_ext.nn")
    dense = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3))
    masks = [
        torch.rand(m.weight.shape, generator=generator(0, i)) < 0.3
        for i, m in enumerate((dense[0], dense[2]))
    ]
    scores = nn.Parameter(torch.zeros_like(dense[0].weight))
    masked = nn.Sequential(
        ext.MaskedConv2d.from_dense(dense[0], mask=masks[0], scores=scores),
        nn.Flatten(),
        ext.MaskedLinear.from_dense(dense[2], mask=masks[1]),
    )
    example = torch.zeros(1, 2, 4, 4)
    cost, plain = model_cost(masked, example), model_cost(dense, example)
    kept = [int(mask.sum()) for mask in masks]
    assert [layer.nonzeros for layer in cost.layers] == kept
    assert cost.effective_macs == kept[0] * 16 + kept[1]
    assert (cost.macs, cost.parameters) == (plain.macs, plain.parameters)
    assert cost.dense_bytes == plain.dense_bytes
    folded = nn.Sequential(masked[0].to_dense(), nn.Flatten(), masked[2].to_dense())
    assert model_cost(folded, example).effective_macs == cost.effective_macs


def test_cost_leaves_modes_hooks_and_statistics_alone() -> None:
    model, example = build("digits", 8)
    model.train()
    model[0][1].eval()
    modes = [module.training for module in model.modules()]
    before = fingerprint(model.state_dict())
    model_cost(model, example)
    assert [module.training for module in model.modules()] == modes
    assert fingerprint(model.state_dict()) == before
    assert not any(module._forward_hooks for module in model.modules())


def test_eval_mode_restores_each_module_even_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()

    def fail() -> NoReturn:
        with eval_mode(model):
            assert not any(module.training for module in model.modules())
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert [module.training for module in model.modules()] == [True, True, False]


def test_classification_agrees_with_a_hand_count() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 4.0], [1.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 1, 0])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    metrics = classification(nn.Identity(), batches)
    loss = sum(math.log(1 + math.exp(-d)) for d in (2, 1, -3, 4, 1)) / 5
    assert (metrics.count, metrics.correct, metrics.accuracy) == (5, 4, 0.8)
    assert metrics.loss == pytest.approx(loss, rel=1e-6)


def test_classification_uses_eval_mode_and_changes_nothing() -> None:
    model, _ = build("digits", 8)
    images = torch.randn(6, 3, 8, 8, generator=generator(0, "images"))
    labels = torch.arange(6)
    before = fingerprint(model.state_dict())
    whole = classification(model, [(images, labels)])
    halves = classification(model, [(images[:3], labels[:3]), (images[3:], labels[3:])])
    assert whole.correct == halves.correct
    assert whole.loss == pytest.approx(halves.loss, rel=1e-5)
    assert model.training
    assert fingerprint(model.state_dict()) == before


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], InputError, "gave no image"),
        ([(torch.zeros(2, 3), torch.tensor([0, 3]))], InputError, "label 3 is beyond .* 3 classes"),
        ([(torch.zeros(2), torch.tensor([0, 1]))], InputError, r"expected logits \[2, classes\]"),
        (
            [(torch.tensor([[0.0, math.nan], [1.0, 0.0]]), torch.tensor([0, 1]))],
            RunError,
            "NaN or infinity for 1 of 2 images",
        ),
    ],
)
def test_classification_names_what_is_wrong(batches, error, message) -> None:
    with pytest.raises(error, match=message):
        classification(nn.Identity(), batches)


def test_fingerprint_sees_names_dtypes_shapes_and_bytes_only() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": torch.arange(6.0).reshape(2, 3).t().contiguous().t()}
    assert fingerprint(base) == fingerprint(same)
    others = [
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"].view(torch.int32), "b": base["b"]},
        {"a": base["a"] + 1e-6, "b": base["b"]},
        {"a": base["a"]},
        {"a": base["b"], "b": base["a"]},
        {"a": torch.where(base["a"] == 0, -0.0, base["a"]), "b": base["b"]},
    ]
    assert len({fingerprint(other) for other in [base, *others]}) == len(others) + 1
    assert fingerprint({"x": torch.ones(3, dtype=torch.bfloat16), "y": torch.zeros(0)})


def test_latency_orders_its_quartiles_and_counts_its_passes() -> None:
    calls = []

    class Counted(nn.Linear):
        def forward(self, x) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            assert not self.training
            calls.append(x.shape)
            return super().forward(x)

    model = Counted(8, 8)
    timed = latency(model, torch.zeros(2, 8), repeats=9)
    low, high = timed.quartiles_us
    assert 0 < low <= timed.median_us <= high
    assert (timed.repeats, timed.threads) == (9, torch.get_num_threads())
    assert len(calls) > 9
    assert model.training
    with pytest.raises(InputError, match="at least 2, got 1"):
        latency(model, torch.zeros(2, 8), repeats=1)
