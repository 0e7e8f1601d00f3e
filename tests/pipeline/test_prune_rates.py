"""A3: layer rates against brute force, and exact counts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supertickets.errors import InputError
from supertickets.prune import (
    expected_overlap,
    layer_rates,
    magnitude_masks,
    overlap,
    pruned_count,
    random_masks,
)
from supertickets.seeds import generator


def _layers(seed: int = 0) -> dict[str, nn.Conv2d | nn.Linear]:
    layers = {
        "wide": nn.Conv2d(8, 16, 3),
        "grouped": nn.Conv2d(16, 16, 3, groups=16),
        "point": nn.Conv2d(16, 24, 1),
        "head": nn.Linear(24, 40),
    }
    draw = generator(seed, "weights")
    with torch.no_grad():
        for scale, layer in enumerate(layers.values(), 1):
            layer.weight.copy_((1 + scale / 9) * torch.randn(layer.weight.shape, generator=draw))
    return layers


def _brute_force_l1(weights: list[torch.Tensor], sparsity: float) -> list[float]:
    """Sort all magnitudes once, the smallest first; of equals the last one goes first."""
    flat = np.concatenate([w.detach().abs().reshape(-1).numpy() for w in weights])
    owner = np.concatenate([np.full(w.numel(), i) for i, w in enumerate(weights)])
    order = np.lexsort((-np.arange(flat.size), flat))
    gone = owner[order[: math.floor(Fraction(str(sparsity)) * flat.size)]]
    return [float(np.sum(gone == i)) / w.numel() for i, w in enumerate(weights)]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8, 0.9])
def test_l1_equals_the_brute_force_global_threshold(sparsity: float) -> None:
    layers = _layers()
    rates = layer_rates(layers, sparsity, "l1")
    expected = _brute_force_l1([layer.weight for layer in layers.values()], sparsity)
    assert list(rates.values()) == expected


def test_l1_is_the_share_strictly_below_the_threshold_when_nothing_ties() -> None:
    layers = _layers(1)
    flat = torch.cat([layer.weight.detach().abs().reshape(-1) for layer in layers.values()])
    threshold = flat.sort().values[math.floor(0.75 * len(flat))]
    rates = layer_rates(layers, 0.75, "l1")
    for name, layer in layers.items():
        assert rates[name] == int((layer.weight.abs() < threshold).sum()) / layer.weight.numel()


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.6])
def test_l1_breaks_ties_by_position(sparsity: float) -> None:
    layers = _layers()
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.copy_(layer.weight.round())
    expected = _brute_force_l1([layer.weight for layer in layers.values()], sparsity)
    assert list(layer_rates(layers, sparsity, "l1").values()) == expected


def test_l1_on_a_hand_made_case() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.1, -5.0], [3.0, 0.2]]))
        second.weight.copy_(torch.tensor([[-0.3, 4.0]]))
    assert layer_rates({"a": first, "b": second}, 0.5, "l1") == {"a": 0.5, "b": 0.5}


def test_uniform_gives_every_layer_the_sparsity() -> None:
    assert layer_rates(_layers(), 0.9, "uniform") == dict.fromkeys(_layers(), 0.9)


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.8, 0.9, 0.98])
def test_erk_meets_the_global_count_exactly_and_caps_at_dense(sparsity: float) -> None:
    layers = _layers()
    rates = layer_rates(layers, sparsity, "erk")
    total = sum(layer.weight.numel() for layer in layers.values())
    pruned = sum(pruned_count(rates[n], layer.weight.numel()) for n, layer in layers.items())
    assert pruned == pruned_count(sparsity, total)
    assert all(0 <= rate < 1 for rate in rates.values())


def test_erk_densities_are_proportional_among_the_layers_that_are_not_capped() -> None:
    layers = _layers()
    rates = layer_rates(layers, 0.5, "erk")
    assert rates["grouped"] == 0  # (16 + 1 + 3 + 3) / 144 is the largest quotient: it is capped
    quotient = {
        name: (1 - rates[name]) * layer.weight.numel() / sum(layer.weight.shape)
        for name, layer in layers.items()
        if rates[name] > 0
    }
    assert len(quotient) >= 2
    largest, smallest = max(quotient.values()), min(quotient.values())
    assert largest / smallest < 1.03  # whole weights: half a weight in 30 or more


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_a_sparsity_outside_the_range_is_refused(sparsity: float) -> None:
    with pytest.raises(InputError, match=r"sparsity must be in \[0, 1\), got"):
        layer_rates(_layers(), sparsity, "uniform")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="unknown rates 'erq'; did you mean 'erk'"):
        layer_rates(_layers(), 0.5, "erq")  # type: ignore[arg-type]


def test_a_layer_that_would_lose_everything_is_named() -> None:
    layers = _layers()
    with torch.no_grad():
        layers["point"].weight.mul_(1e-6)
    with pytest.raises(InputError, match="layer 'point' would lose all its 384 weights"):
        layer_rates(layers, 0.9, "l1")


@given(weights=st.integers(1, 10**9), data=st.data())
def test_a_ratio_of_whole_numbers_gives_its_count_back(weights: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, weights))
    assert pruned_count(count / weights, weights) == count


def test_the_floor_is_that_of_the_exact_product() -> None:
    assert 0.29 * 100 < 29  # what the naive floor would make 28
    assert pruned_count(0.29, 100) == 29
    assert pruned_count(0.9, 288) == 259


def test_magnitude_masks_keep_the_largest_with_ties_to_the_lowest_index() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -3.0, 1.0, -1.0]]))
    mask = magnitude_masks({"a": layer}, {"a": 0.5})["a"]
    assert mask.tolist() == [[True, True, False, False]]


def test_random_masks_have_exact_counts_and_depend_on_the_seed_alone() -> None:
    layers = _layers()
    rates = layer_rates(layers, 0.77, "uniform")
    first, again = random_masks(layers, rates, seed=3), random_masks(layers, rates, seed=3)
    other = random_masks(layers, rates, seed=4)
    for name, layer in layers.items():
        zeros = int((~first[name]).sum())
        assert zeros == pruned_count(0.77, layer.weight.numel())
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_overlap_is_the_share_of_common_ones_and_chance_is_the_density() -> None:
    mask = torch.tensor([True, True, False, False])
    assert overlap(mask, torch.tensor([True, False, True, False])) == 0.5
    assert expected_overlap({"a": mask}) == 0.5
    with pytest.raises(InputError, match="equal shapes"):
        overlap(mask, mask[:2])
    with pytest.raises(InputError, match="keeps something"):
        overlap(torch.zeros(4, dtype=torch.bool), mask)
