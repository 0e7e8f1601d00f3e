"""A1, A2, A4, A5, A6: what a mask search must keep exactly, after every step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.errors import InputError
from supertickets.evaluate import classification, fingerprint
from supertickets.prune import (
    JackpotConfig,
    find_jackpot,
    layer_rates,
    magnitude_masks,
    mask_model,
    maskable_layers,
)
from supertickets.prune.record import MaskMover
from supertickets.prune.search import (
    masked_layers,
    move_masks,
    restriction_rate,
    start_masks,
    start_scores,
)
from supertickets.prune.step_length import step_lengths
from supertickets.seeds import generator
from supertickets_ext import topk_mask
from supertickets_ext.nn import MaskedConv2d, MaskedLinear
from tests.pipeline.digits_net import trained_digits_net

QUICK: dict[str, Any] = {"sparsity": 0.8, "epochs": 3, "batch_size": 256, "gap": 1.0}


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DataConfig(name="digits"))


@pytest.fixture(scope="module")
def trained(data: ImageData) -> nn.Module:
    return trained_digits_net(data, epochs=3)


def _searched(model: nn.Module, config: JackpotConfig, seed: int = 0) -> nn.Module:
    layers = maskable_layers(model, config.keep_dense)
    rates = layer_rates(layers, config.sparsity, config.rates)
    scores = start_scores(layers, rates, config, seed=seed)
    return mask_model(model, start_masks(layers, rates, scores), scores)


# A1


@pytest.mark.parametrize("start", ["graded", "magnitude", "random"])
def test_only_masks_and_running_statistics_differ_after_a_search(
    start: str, trained: nn.Module, data: ImageData
) -> None:
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    found = find_jackpot(trained, data, JackpotConfig(**QUICK, start=start), progress=False)
    after = found.model.state_dict()
    running = ("running_mean", "running_var", "num_batches_tracked")
    frozen = [key for key in before if not key.endswith(running)]
    assert {key for key in after if key not in before} == {f"{n}.mask" for n in found.masks}
    assert fingerprint({k: after[k] for k in frozen}) == fingerprint({k: before[k] for k in frozen})
    assert not torch.equal(after["features.1.running_mean"], before["features.1.running_mean"])
    assert fingerprint(trained.state_dict()) == fingerprint(before)


def test_the_search_runs_on_the_given_weights_not_on_new_ones(
    trained: nn.Module, data: ImageData
) -> None:
    found = find_jackpot(trained, data, JackpotConfig(**QUICK), progress=False)
    assert found.source_sha256 == fingerprint(dict(trained.named_parameters()))
    assert torch.equal(found.model.features[3].weight, trained.features[3].weight)


def test_the_scores_are_gone_and_the_parameters_trainable_again(
    trained: nn.Module, data: ImageData
) -> None:
    found = find_jackpot(trained, data, JackpotConfig(**QUICK), progress=False)
    assert [n for n, _ in found.model.named_parameters()] == [
        n for n, _ in trained.named_parameters()
    ]
    assert all(p.requires_grad for p in found.model.parameters())


# A2


class _CountingMover(MaskMover):
    """Notes the zeros of every layer after each step."""

    def __init__(self, layers: Any, keep: Any, config: JackpotConfig) -> None:
        super().__init__(layers, keep, config)
        self.masked = layers
        self.zeros: list[dict[str, int]] = []

    def step_end(self, state: Any) -> None:
        super().step_end(state)
        self.zeros.append({name: int((~m.mask).sum()) for name, m in self.masked.items()})


@pytest.mark.parametrize("rates", ["l1", "uniform", "erk"])
@pytest.mark.parametrize("restriction", ["none", "ratio", "cap"])
def test_every_layer_has_its_exact_count_after_every_step(
    rates: str, restriction: str, trained: nn.Module, data: ImageData, monkeypatch: Any
) -> None:
    movers: list[_CountingMover] = []

    def mover(*arguments: Any) -> _CountingMover:
        movers.append(_CountingMover(*arguments))
        return movers[-1]

    monkeypatch.setattr("supertickets.prune.find.MaskMover", mover)
    config = JackpotConfig(**QUICK, rates=rates, restriction=restriction, cap=2)
    found = find_jackpot(trained, data, config, progress=False)
    layers = maskable_layers(trained)
    expected = {
        name: math.floor(found.rates[name] * layer.weight.numel() + 1e-9)
        for name, layer in layers.items()
    }
    assert len(movers[0].zeros) == 3 * 5
    assert all(zeros == expected for zeros in movers[0].zeros)
    assert {name: int((~mask).sum()) for name, mask in found.masks.items()} == expected
    total = sum(layer.weight.numel() for layer in layers.values())
    assert abs(sum(expected.values()) / total - 0.8) <= 0.001
    assert type(found.model.classifier) is nn.Linear
    assert sum(found.steps["swaps"]) > 0


# A4


class _SoftConv(nn.Module):
    """The same layer with a real-valued mask, for finite differences."""

    def __init__(self, layer: MaskedConv2d | MaskedLinear) -> None:
        super().__init__()
        self.layer = layer
        self.soft = layer.mask.double()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight * self.soft
        if isinstance(self.layer, MaskedLinear):
            return F.linear(x, weight, self.layer.bias)
        conv = self.layer
        return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _layer_cases() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    yield "conv", nn.Conv2d(3, 4, 3, padding=1, stride=2), (2, 3, 5, 6)
    yield "grouped", nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 4, 5)
    yield "linear", nn.Linear(7, 5), (3, 7)


@pytest.mark.parametrize(
    ("layer", "shape"), [case[1:] for case in _layer_cases()], ids=[c[0] for c in _layer_cases()]
)
def test_the_score_gradient_is_the_soft_masks_gradient(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    draw = generator(0, "gradient")
    layer = layer.double()
    mask = torch.rand(layer.weight.shape, generator=draw) > 0.6
    scores = torch.rand(layer.weight.shape, generator=draw, dtype=torch.float64)
    masked = mask_model(layer, {"": mask}, {"": scores})
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    masked(x).pow(2).sum().backward()

    soft, step = _SoftConv(masked), 1e-4
    numeric = torch.empty_like(scores)
    with torch.no_grad():
        for i in range(scores.numel()):
            entry = soft.soft.view(-1)[i : i + 1]
            entry += step
            above = soft(x).pow(2).sum()
            entry -= 2 * step
            below = soft(x).pow(2).sum()
            entry += step
            numeric.view(-1)[i] = (above - below) / (2 * step)
    # the loss is quadratic in the mask, so central differences are exact up to rounding
    torch.testing.assert_close(masked.scores.grad, numeric, rtol=1e-6, atol=1e-6)
    assert (masked.scores.grad[~mask] != 0).all()


# A5


@pytest.mark.parametrize("start", ["graded", "magnitude"])
def test_the_first_mask_is_the_magnitude_mask_with_its_accuracy(
    start: str, trained: nn.Module, data: ImageData
) -> None:
    config = JackpotConfig(**QUICK, start=start)
    layers = maskable_layers(trained)
    rates = layer_rates(layers, config.sparsity, config.rates)
    magnitude = magnitude_masks(layers, rates)
    searched = _searched(trained, config)
    for name, layer in masked_layers(searched, magnitude).items():
        assert torch.equal(layer.mask, magnitude[name])
    loader = data.loader("validation", batch_size=256)
    expected = classification(mask_model(trained, magnitude), loader)
    assert classification(searched, loader) == expected


def _first_scores(weights: list[float], sparsity: float, **options: Any) -> Tensor:
    layer = nn.Linear(len(weights), 1)
    layer.weight.data = torch.tensor([weights])
    config = JackpotConfig(sparsity=sparsity, **options)
    return start_scores({"only": layer}, {"only": sparsity}, config, seed=0)["only"][0]


def test_the_published_start_has_two_levels() -> None:
    scores = _first_scores([3.0, -0.5, 1.0, -2.0], 0.5, start="magnitude", unit="score", gap=0.01)
    assert scores.tolist() == pytest.approx([1.0, 0.99, 0.99, 1.0])


def test_the_graded_start_ranks_the_removed_by_magnitude() -> None:
    scores = _first_scores([3.0, -0.5, 1.0, -2.0, 0.0], 0.6, start="graded", unit="score", gap=0.1)
    assert scores.tolist() == pytest.approx([1.0, 0.925, 0.95, 1.0, 0.9])


@pytest.mark.parametrize("unit", ["steps", "score"])
@pytest.mark.parametrize(
    "weights", [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1 - 2**-24, 1.0, 0.5, 1.0]]
)
def test_no_removed_weight_starts_level_with_a_kept_one(weights: list[float], unit: str) -> None:
    scores = _first_scores(weights, 0.5, start="graded", unit=unit, gap=0.01)
    layer = nn.Linear(4, 1)
    layer.weight.data = torch.tensor([weights])
    kept = magnitude_masks({"only": layer}, {"only": 0.5})["only"][0]
    assert scores[kept].unique().numel() == 1
    assert scores[~kept].max() < scores[kept].min()


def test_the_random_start_covers_its_spread() -> None:
    scores = _first_scores([0.0] * 1000, 0.5, start="random", unit="score", spread=0.2)
    assert 0.8 <= scores.min() < 0.81
    assert 0.99 < scores.max() <= 1


def test_a_step_is_the_typical_gradient_times_the_rate(trained: nn.Module, data: ImageData) -> None:
    config = JackpotConfig(sparsity=0.8, lr=0.2, momentum=0.5)
    layers = maskable_layers(trained)
    masks = magnitude_masks(layers, layer_rates(layers, 0.8))
    images, labels = next(iter(data.loader("train", batch_size=256)))
    lengths = step_lengths(trained, masks, [(images, labels)] * 2, config)

    soft = copy.deepcopy(trained).train()
    with torch.no_grad():
        for name, layer in maskable_layers(soft).items():
            layer.weight.mul_(masks[name])
    F.cross_entropy(soft(images), labels).backward()
    for name, layer in maskable_layers(soft).items():
        assert layer.weight.grad is not None
        expected = (layer.weight.grad * layers[name].weight).square().mean().sqrt().item() * 0.4
        assert lengths[name] == pytest.approx(expected, rel=1e-4)  # float32 sums in other orders


def test_in_steps_the_learning_rate_decides_nothing(trained: nn.Module, data: ImageData) -> None:
    options = {**QUICK, "weight_decay": 0.0}
    slow, fast = (
        # a power of two scales every score without rounding
        find_jackpot(trained, data, JackpotConfig(**options, lr=lr), progress=False)
        for lr in (0.125, 2.0)
    )
    assert all(torch.equal(mask, fast.masks[name]) for name, mask in slow.masks.items())
    assert sum(slow.steps["swaps"]) > 0


def test_a_layer_without_gradient_gets_a_length(data: ImageData) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    model[3].weight.data.zero_()
    layers = maskable_layers(model)
    masks = magnitude_masks(layers, layer_rates(layers, 0.5))
    loader = data.loader("train", batch_size=256)
    assert step_lengths(model, masks, loader, JackpotConfig()) == {"1": 1.0}


def test_the_random_start_depends_on_the_seed_and_has_the_same_counts(trained: nn.Module) -> None:
    config = JackpotConfig(**QUICK, start="random")
    nets = [_searched(trained, config, seed) for seed in (0, 0, 1)]
    masks = [{n: m.mask for n, m in masked_layers(net, ["features.3"]).items()} for net in nets]
    assert torch.equal(masks[0]["features.3"], masks[1]["features.3"])
    assert not torch.equal(masks[0]["features.3"], masks[2]["features.3"])
    assert masks[0]["features.3"].sum() == masks[2]["features.3"].sum()


# A6


def _layer_with_scores(seed: int, *, ties: bool) -> MaskedLinear:
    draw = generator(seed, "scores")
    scores = torch.rand(12, 15, generator=draw)
    if ties:
        scores = (scores * 4).round() / 4
    start = torch.zeros(180, dtype=torch.bool)
    start[torch.randperm(180, generator=draw)[:60]] = True
    layer = nn.Linear(15, 12)
    return MaskedLinear.from_dense(layer, mask=start.reshape(12, 15), scores=scores)


def _brute_force(layer: MaskedLinear, swaps: int | None) -> Tensor:
    """The rule in plain Python: rank, list who wants in and out, swap the best margins."""
    scores, mask = layer.scores.detach().reshape(-1).tolist(), layer.mask.reshape(-1).tolist()
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    top = set(ranked[: sum(mask)])
    up = [i for i in ranked if i in top and not mask[i]]
    down = [i for i in reversed(ranked) if i not in top and mask[i]]
    assert len(up) == len(down)
    for i, j in list(zip(up, down, strict=True))[: len(up) if swaps is None else swaps]:
        mask[i], mask[j] = True, False
    return torch.tensor(mask).reshape(layer.mask.shape)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.4, 0.001])
def test_the_swaps_are_the_best_margins_and_at_most_the_ratio(rate: float, ties: bool) -> None:
    config = JackpotConfig(restriction="ratio")
    for seed in range(20):
        layer = _layer_with_scores(seed, ties=ties)
        target = topk_mask(layer.scores.detach(), 60, by_magnitude=False)
        wanted = int((target & ~layer.mask).sum())
        expected = _brute_force(layer, math.ceil(wanted * rate))
        before = layer.mask.clone()
        counts = move_masks({"a": layer}, {"a": 60}, config, rate)
        assert [int(count) for count in counts] == [wanted, math.ceil(wanted * rate)]
        assert torch.equal(layer.mask, expected)
        assert int((layer.mask & ~before).sum()) <= math.ceil(wanted * rate)


@pytest.mark.parametrize("ties", [False, True])
def test_ratio_one_and_no_restriction_are_plain_top_k(ties: bool) -> None:
    for seed, restriction in [(0, "none"), (1, "ratio")]:
        layer = _layer_with_scores(seed, ties=ties)
        target = topk_mask(layer.scores.detach(), 60, by_magnitude=False)
        move_masks({"a": layer}, {"a": 60}, JackpotConfig(restriction=restriction), 1.0)
        assert torch.equal(layer.mask, target)


def test_the_cap_bounds_each_layer_by_itself() -> None:
    layers = {"a": _layer_with_scores(0, ties=False), "b": _layer_with_scores(1, ties=False)}
    expected = {name: _brute_force(layer, 3) for name, layer in layers.items()}
    config = JackpotConfig(restriction="cap", cap=3)
    wanted, done = move_masks(layers, dict.fromkeys(layers, 60), config, 1.0)
    assert int(done) == 6
    assert int(wanted) > 6
    assert all(torch.equal(layers[name].mask, expected[name]) for name in layers)


def test_the_restriction_really_tightens_over_the_epochs() -> None:
    config = JackpotConfig(restriction="ratio", exponent=4, epochs=4)
    assert [restriction_rate(config, t) for t in range(4)] == [1, 0.75**4, 0.5**4, 0.25**4]
    assert restriction_rate(config.model_copy(update={"restriction": "none"}), 3) == 1


def test_a_search_records_wanted_and_done_swaps(trained: nn.Module, data: ImageData) -> None:
    config = JackpotConfig(**QUICK, restriction="ratio")
    found = find_jackpot(trained, data, config, progress=False)
    wanted, done = found.steps["wanted"], found.steps["swaps"]
    assert len(found.steps["loss"]) == len(wanted) == len(done) == found.batches == 15
    assert wanted[:5] == done[:5]
    assert sum(done[10:]) < sum(wanted[10:]) / 10
    for epoch, row in enumerate(found.history):
        assert row["wanted"] == sum(wanted[5 * epoch : 5 * epoch + 5])
        assert row["swaps"] == sum(done[5 * epoch : 5 * epoch + 5])
        assert row["restriction"] == pytest.approx((1 - epoch / 3) ** 4)
    assert all(math.isfinite(loss) for loss in found.steps["loss"])
    assert found.best_epoch is not None
    best = found.history[found.best_epoch - 1]
    assert best["overlap_magnitude"] == pytest.approx(found.overlap_magnitude)


# choices and refusals


def test_the_best_epoch_is_taken_on_validation_and_test_is_never_read(
    trained: nn.Module, data: ImageData
) -> None:
    class WithoutTest(ImageData):
        def loader(self, split: Any, **options: Any) -> Any:
            assert split != "test"
            return super().loader(split, **options)

    guarded = WithoutTest(**vars(data))
    found = find_jackpot(trained, guarded, JackpotConfig(**QUICK), progress=False)
    accuracies = [row["validation_accuracy"] for row in found.history]
    assert found.best_epoch == 1 + accuracies.index(max(accuracies))
    again = classification(found.model, data.loader("validation", batch_size=256))
    assert again.accuracy == max(accuracies)


def test_tuning_trains_kept_weights_only_and_keeps_the_jackpot(
    trained: nn.Module, data: ImageData
) -> None:
    config = JackpotConfig(**QUICK, tune_epochs=2, tune_lr=0.05)
    found = find_jackpot(trained, data, config, progress=False)
    assert found.tuned is not None
    assert len(found.tune_history) == 2
    for name, mask in found.masks.items():
        plain = trained.get_submodule(name).weight
        tuned = found.tuned.get_submodule(name)
        assert torch.equal(tuned.mask, mask)
        assert torch.equal(tuned.weight[~mask], plain[~mask])
        assert not torch.equal(tuned.weight[mask], plain[mask])
        assert torch.equal(found.model.get_submodule(name).weight, plain)


def test_nan_weights_are_refused_before_any_search(trained: nn.Module, data: ImageData) -> None:
    broken = mask_model(trained, {})
    with torch.no_grad():
        broken.features[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layer 'features.3': 1 of 1152 weights are NaN"):
        find_jackpot(broken, data, JackpotConfig(**QUICK), progress=False)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan")])
def test_the_config_refuses_a_sparsity_outside_the_range(sparsity: float) -> None:
    with pytest.raises(ValueError, match="sparsity"):
        JackpotConfig(sparsity=sparsity)
