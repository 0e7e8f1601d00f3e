"""Two-in-one search: costs, penalty, shrinking, pruning, arms and accounting, all exact."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.errors import InputError, RunError
from supertickets.evaluate import model_cost
from supertickets.search.atoms import averaged_gammas, find_atoms, gammas
from supertickets.search.config import TwoInOneConfig
from supertickets.search.find import check_is_ticket, paper_macs
from supertickets.search.masks import (
    density,
    magnitude_prune_,
    mask_change,
    masked_convolutions_,
    set_free_,
)
from supertickets.search.penalty import GammaPenalty, atom_costs, penalty_weights
from supertickets.search.schedule import (
    check_reaches,
    is_prune,
    is_search,
    keep_count,
    penalty_strength,
    sparsity_after,
)
from supertickets.search.shrink import alive_atoms, first_atoms, shrink_
from supertickets.search.two_in_one import TwoInOne
from supertickets.spaces.hrnet_net import atom_blocks, drawn_blocks
from supertickets.spaces.mbconv_blocks import MBConv, Shape, Style
from supertickets.training import TrainConfig, TrainState, recalibrate_bn
from supertickets.training.ema import Ema
from tests.pipeline.search_nets import CLASSES, copied, images, mobile, step, tiny, trained

NETS = {"hrnet": tiny, "mobilenet": mobile}


def every(model: nn.Module) -> list[Tensor]:
    """Masks that keep all atoms."""
    return [torch.ones(one.count, dtype=torch.bool) for one in find_atoms(model)]


def some_dead(model: nn.Module) -> list[Tensor]:
    """Masks that remove two atoms of every operation, and one whole operation where that can be."""
    keep = every(model)
    for mask in keep:
        mask[[1, 4]] = False
    if find_atoms(model)[1].removable:
        keep[1][:] = False
    return keep


def kill(model: nn.Module, keep: list[Tensor]) -> None:
    """Set the gammas of dead atoms to 0, and their shifts to what shows."""
    with torch.no_grad():
        for one, mask in zip(find_atoms(model), keep, strict=True):
            one.gamma.weight[~mask] = 0
            one.gamma.bias[~mask] = torch.linspace(-0.5, 1, int((~mask).sum()))


class Batches:
    """The same few images as a loader."""

    samples = 12

    def __len__(self) -> int:
        return 1

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Any:
        yield images(), torch.zeros(12, dtype=torch.long)


# --- costs and penalty --------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_the_mean_penalty_weight_over_atoms_is_one(name: str) -> None:
    model = NETS[name]()
    atoms = find_atoms(model)
    counts = [one.count for one in atoms]
    weights = penalty_weights(atom_costs(model, atoms, images(1)), counts)
    mean = sum(w * c for w, c in zip(weights, counts, strict=True)) / sum(counts)
    assert mean == pytest.approx(1, abs=1e-12)
    assert len(set(weights)) > 1


@pytest.mark.parametrize("name", NETS)
def test_removing_an_atom_lowers_the_macs_by_exactly_its_cost(name: str) -> None:
    start = NETS[name]()
    costs = atom_costs(start, find_atoms(start), images(1))
    before = model_cost(start, images(1)).macs
    strides = set()
    for index, cost in enumerate(costs):
        model = copy.deepcopy(start)
        atoms, keep = find_atoms(model), every(model)
        keep[index][0] = False
        depthwise = model.get_submodule(atoms[index].convolutions[1])
        strides.add((atoms[index].kernel, depthwise.stride[0]))
        shrink_(model, atoms, keep)
        assert before - model_cost(model, images(1)).macs == cost
    if name == "hrnet":
        assert strides == {(k, s) for k in (3, 5, 7) for s in (1, 2)}


def test_rho_rises_by_epoch_and_then_stays() -> None:
    config = TwoInOneConfig(rho=2.0, free_epochs=2, warmup_epochs=6)
    found = [penalty_strength(config, epoch) for epoch in range(9)]
    assert found == [0, 0, 0, 0.5, 1, 1.5, 2, 2, 2]
    at_once = TwoInOneConfig(rho=2.0, free_epochs=3, warmup_epochs=3)
    assert [penalty_strength(at_once, epoch) for epoch in (0, 2, 3)] == [0, 0, 2]


def test_the_gradient_of_a_gamma_is_the_tasks_plus_rho_weight_sign() -> None:
    model = tiny()
    with torch.no_grad():
        for one in find_atoms(model):
            one.gamma.weight[0] = -0.5
    penalty = GammaPenalty(model, images(1))
    labels = torch.arange(12) % CLASSES

    def task(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    def gradients(rho: float) -> list[Tensor]:
        penalty.rho = rho
        model.zero_grad()
        penalty.added_to(task)(model, images(), labels).backward()
        return [one.gamma.weight.grad.clone() for one in penalty.atoms]

    weights = penalty_weights(penalty.costs, [one.count for one in penalty.atoms])
    for plain, with_rho, one, weight in zip(
        gradients(0.0), gradients(0.25), penalty.atoms, weights, strict=True
    ):
        expected = plain + 0.25 * weight * one.gamma.weight.detach().sign()
        assert torch.allclose(with_rho, expected, atol=1e-6)


# --- shrinking ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_a_search_that_finds_nothing_changes_nothing(name: str) -> None:
    one = trained(NETS[name]())
    other = copied(*one)
    shrink_(one[0], find_atoms(one[0]), every(one[0]), optimizer=one[1], ema=one[2])
    for model, optimizer, ema in (one, other):
        step(model, optimizer, images(seed=9), ema)
    assert same_state(one[0].state_dict(), other[0].state_dict())
    assert same_state(one[2].tensors, other[2].tensors)


def same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("masked", [False, True])
def test_removing_atoms_of_gamma_zero_keeps_the_function(name: str, masked: bool) -> None:
    model, optimizer, ema = trained(NETS[name]())
    if masked:
        magnitude_prune_(masked_convolutions_(model), 0.3)
    keep = some_dead(model)
    kill(model, keep)
    ema = Ema(model, [n for n, _ in model.named_parameters()], 0.9)
    ema.updates = 5
    with torch.no_grad():
        for average in ema.tensors.values():  # another network than the live one
            average.mul_(1.25)
    whole = copied(model, optimizer, ema)
    shrink_(model, find_atoms(model), keep, optimizer=optimizer, ema=ema)
    assert sum(one.count for one in find_atoms(model)) == sum(int(k.sum()) for k in keep)

    def outputs(net: nn.Module, average: Ema | None) -> Tensor:
        net = copy.deepcopy(net)
        if average is not None:
            average.copy_to_(net)
        return net.eval()(images(seed=5))

    for average, reference in ((None, None), (ema, whole[2])):
        want = outputs(whole[0], reference)
        assert torch.allclose(outputs(model, average), want, atol=2e-5 * want.abs().max().item())
    model.train()
    whole[0].train()
    assert torch.allclose(model(images()), whole[0](images()), atol=1e-5)


def test_what_stays_keeps_weights_masks_moments_and_averages() -> None:
    model, optimizer, ema = trained(tiny())
    magnitude_prune_(masked_convolutions_(model), 0.4)
    atoms, keep = find_atoms(model), some_dead(model)
    followers = {f"{n}.weight": m.mask.clone() for n, m in masked_convolutions_(model).items()}
    before = copied(model, optimizer, ema)
    twins = dict(before[0].named_parameters())
    followed = shrink_(
        model, atoms, keep, optimizer=optimizer, ema=ema, followers=followers, correct=False
    )
    one, index = atoms[0], keep[0].nonzero().flatten()
    rows, columns = f"{one.name}.depthwise.weight", f"{one.name}.project.weight"
    for name, dim in ((rows, 0), (columns, 1), (f"{one.name}.norm.weight", 0)):
        now, was = model.get_parameter(name), twins[name]
        assert torch.equal(now, was.index_select(dim, index))
        assert torch.equal(ema.tensors[name], before[2].tensors[name].index_select(dim, index))
        for moment in ("exp_avg", "exp_avg_sq"):
            old = before[1].state[was][moment].index_select(dim, index)
            assert torch.equal(optimizer.state[now][moment], old)
        if name in followed:
            layer = name.removesuffix(".weight")
            mask = model.get_submodule(layer).mask
            old = before[0].get_submodule(layer).mask.index_select(dim, index)
            assert torch.equal(mask, old)
            assert torch.equal(followed[name], old)
    left = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert left == {id(p) for p in model.parameters()}
    assert ema.tensors.keys() <= {n for n, _ in [*model.named_parameters(), *model.named_buffers()]}
    assert not any(atoms[1].name in name for name in [*followed, *ema.tensors])
    step(model, optimizer, images(seed=9), ema)  # and the training goes on


def test_a_block_without_operations_is_its_skip_and_the_bias_of_its_batch_norm() -> None:
    model, optimizer, ema = trained(tiny())
    name = "stages.0.0.0"
    keep = every(model)
    for one, mask in zip(find_atoms(model), keep, strict=True):
        if one.block == name:
            mask[:] = False
    kill(model, keep)
    whole = copied(model, optimizer, ema)
    bias = whole[0].get_submodule(name).norm.bias.detach().clone()
    shrink_(model, find_atoms(model), keep, optimizer=optimizer, ema=ema)
    block = atom_blocks(model)[name]
    assert block.atoms == {}
    assert torch.equal(block.shift, bias)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x + bias[:, None, None])
    model.train()
    whole[0].train()
    assert torch.allclose(model(images()), whole[0](images()), atol=1e-5)
    # in evaluation the batch norm's own statistics stand between, until they are re-estimated
    for net in (model, whole[0]):
        recalibrate_bn(net, Batches(), batches=1)
        net.eval()
    assert torch.allclose(model(images()), whole[0](images()), atol=1e-3)
    step(model, optimizer, images(), ema)
    assert f"{name}.shift" in ema.tensors
    assert not torch.equal(block.shift, bias)


def test_a_gated_block_is_shrunk_and_never_loses_its_last_atom() -> None:
    model, optimizer, ema = trained(mobile(gated=True))
    atoms = find_atoms(model)
    averaged = [torch.full((one.count,), 1e-4) for one in atoms]
    keep, kept = alive_atoms(atoms, averaged, averaged, threshold=1e-3, last=True, floor=0)
    assert [int(mask.sum()) for mask in keep] == [1, 1]
    assert kept == 2
    shrink_(model, atoms, keep, optimizer=optimizer, ema=ema)
    step(model, optimizer, images(), ema)
    assert model(images()).shape == (12, CLASSES)


def test_blocks_of_the_space_mbconv_are_shrunk() -> None:
    stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8))
    gated, plain = Style(se_ratio=0.25), Style(se_ratio=0.0)
    blocks = [
        MBConv(Shape(8, 8), 3, 4, style=gated),
        MBConv(Shape(8, 16, stride=2), 5, 4, style=plain),
    ]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)]
    model, optimizer, ema = trained(nn.Sequential(stem, *blocks, *end))
    atoms, keep = find_atoms(model), every(model)
    assert [(one.kernel, one.exact) for one in atoms] == [(3, False), (5, True)]
    keep[1][[0, 3]] = False
    kill(model, keep)
    whole = copied(model, optimizer, ema)[0]
    shrink_(model, atoms, keep, optimizer=optimizer, ema=ema)
    want = whole.eval()(images())
    assert torch.allclose(model.eval()(images()), want, atol=2e-5 * want.abs().max().item())
    keep = every(model)
    keep[0][2:] = False  # the gate shrinks as well
    shrink_(model, find_atoms(model), keep, optimizer=optimizer, ema=ema)
    step(model, optimizer, images(), ema)
    assert [one.count for one in find_atoms(model)] == [2, 30]


def test_an_atom_stays_if_either_gamma_is_alive_and_at_the_end_by_the_average_alone() -> None:
    atoms = find_atoms(tiny())[:1]
    live = [torch.tensor([0.0, 1.0, 0.0, 1.0, 1, 1, 1, 1])]
    averaged = [torch.tensor([1.0, 0.0, 0.0, 1.0, 1, 1, 1, 1])]
    rules: dict[str, Any] = {"threshold": 1e-3, "floor": 0}
    keep, _ = alive_atoms(atoms, live, averaged, last=False, **rules)
    assert keep[0][:4].tolist() == [True, True, False, True]
    keep, _ = alive_atoms(atoms, live, averaged, last=True, **rules)
    assert keep[0][:4].tolist() == [True, False, False, True]


def test_the_floor_keeps_the_largest_of_the_dead() -> None:
    model = tiny()
    atoms = find_atoms(model)
    dead = [torch.zeros(one.count) for one in atoms]
    dead[2][3] = 5e-4
    keep, kept = alive_atoms(atoms, dead, dead, threshold=1e-3, last=True, floor=4)
    assert sum(int(mask.sum()) for mask in keep) == kept == 4
    assert keep[2][3]


def test_shapes_are_restored_for_a_checkpoint() -> None:
    model, optimizer, ema = trained(tiny())
    counts = {one.name: one.count - 1 for one in find_atoms(model)[1:]}
    keep = first_atoms(find_atoms(model), counts)
    shrink_(model, find_atoms(model), keep, optimizer=optimizer, ema=ema, correct=False)
    assert {one.name: one.count for one in find_atoms(model)} == counts
    rebuilt = tiny(blocks=drawn_blocks(model))
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items() if not k.endswith(".mask")
    }


def test_a_net_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="no inverted-residual block"):
        find_atoms(nn.Sequential(nn.Conv2d(1, 2, 3)))


# --- pruning ------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.95, 0.98])
def test_sparsity_rises_by_tenths_to_its_target(sparsity: float) -> None:
    config = TwoInOneConfig(sparsity=sparsity, prune_interval=5)
    found = [sparsity_after(config, epoch) for epoch in range(5, 60, 5)]
    assert found == pytest.approx([min(0.1 * n, sparsity) for n in range(1, 12)])
    assert sparsity_after(config, 9) == pytest.approx(0.1)
    one_shot = config.model_copy(update={"arm": "one-shot"})
    assert sparsity_after(one_shot, 5) == sparsity


def test_kept_counts_are_exact_whatever_the_fractions_binary_form() -> None:
    for tenths in range(10):
        assert keep_count(1000, tenths * 0.1) == 1000 - 100 * tenths
    assert keep_count(7, 0.5) == 7 - math.floor(3.5)


def test_both_clocks_strike_after_the_last_epoch() -> None:
    config = TwoInOneConfig(search_interval=4, prune_interval=5)
    searches = [e for e in range(1, 14) if is_search(config, e, 13)]
    prunings = [e for e in range(1, 14) if is_prune(config, e, 13)]
    assert searches == [4, 8, 12, 13]
    assert prunings == [5, 10, 13]


def test_a_training_that_never_reaches_its_sparsity_is_refused() -> None:
    check_reaches(TwoInOneConfig(sparsity=0.9, prune_interval=5), 45)
    with pytest.raises(InputError, match=r"end at a sparsity of 0.8, expected 0.9"):
        check_reaches(TwoInOneConfig(sparsity=0.9, prune_interval=5), 44)


def test_weights_are_ranked_over_all_layers_and_masked_ones_too() -> None:
    model = tiny()
    layers = masked_convolutions_(model)
    weights = sum(layer.weight.numel() for layer in layers.values())
    assert magnitude_prune_(layers, 0.7) == keep_count(weights, 0.7)
    assert density(layers) == keep_count(weights, 0.7) / weights
    assert "classifier" not in layers
    name = "head.last.0"
    before = layers[name].density
    with torch.no_grad():
        layers[name].weight.mul_(10)
    magnitude_prune_(layers, 0.7)
    assert layers[name].density > before
    layer = layers["stem.0.0"]
    place = (~layer.mask).nonzero()[0].tolist()
    with torch.no_grad():
        layer.weight[tuple(place)] = 100.0
    magnitude_prune_(layers, 0.7)
    assert layer.mask[tuple(place)]


def test_masked_weights_get_no_gradient_keep_their_value_and_come_back_with_it() -> None:
    model = tiny()
    layers = masked_convolutions_(model)
    values = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    magnitude_prune_(layers, 0.6)
    F.cross_entropy(model(images()), torch.arange(12) % CLASSES).backward()
    for name, layer in layers.items():
        assert torch.equal(layer.weight, values[name])
        assert not layer.weight.grad[~layer.mask].any()
    dense = tiny()
    sparse_out = model.eval()(images())
    set_free_(layers, layers)
    dense.load_state_dict({k: v for k, v in model.state_dict().items() if not k.endswith(".mask")})
    assert not torch.allclose(sparse_out, dense.eval()(images()), atol=1e-3)
    assert torch.allclose(model(images()), dense(images()), atol=1e-5)


@pytest.mark.parametrize("arm", ["main", "reuse", "reset", "one-shot"])
def test_arms_differ_in_what_masks_do(arm: Any) -> None:
    model = tiny()
    layers = masked_convolutions_(model)
    config = TwoInOneConfig(
        arm=arm, sparsity=0.8, search_interval=3, prune_interval=2, min_dead_macs=0, min_atoms=0
    )
    joint = TwoInOne(model, config, images(1))
    training = TrainConfig(epochs=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = TrainState(model, optimizer, training, torch.device("cpu"), 0, 1)

    def ends(epoch: int) -> None:
        state.epoch = epoch - 1
        joint.epoch_end(state)

    ends(2)
    event = joint.events[-1]
    assert event["kind"] == "prune"
    assert event["density"] == pytest.approx(0.2 if arm == "one-shot" else 0.9, abs=1e-3)
    assert density(layers) == (1.0 if arm == "reset" else event["density"])
    with torch.no_grad():  # one atom dies, so that the search fires
        joint.penalty.atoms[0].gamma.weight[2] = 0
    ends(3)
    event = joint.events[-1]
    assert event["kind"] == "search"
    assert event["removed"] == 1
    inside = [n for one in joint.penalty.atoms for n in one.convolutions]
    layers = masked_convolutions_(model)
    blocks = density({name: layers[name] for name in inside})
    rest = density({name: layer for name, layer in layers.items() if name not in inside})
    if arm == "reuse":
        assert blocks == pytest.approx(0.9, abs=0.02)
    else:
        assert blocks == 1.0
    assert (rest == 1.0) == (arm == "reset")  # the stem and the skips keep their masks


def test_a_search_comes_before_the_pruning_of_the_same_epoch() -> None:
    model = tiny()
    masked_convolutions_(model)
    config = TwoInOneConfig(sparsity=0.5, search_interval=2, prune_interval=2, prune_step=0.5)
    joint = TwoInOne(model, config, images(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = TrainState(model, optimizer, TrainConfig(epochs=2), torch.device("cpu"), 0, 1, epoch=1)
    joint.epoch_end(state)
    assert [event["kind"] for event in joint.events] == ["search", "prune"]
    check_is_ticket(model, config)


def test_mask_changes_are_measured_against_what_nesting_allows() -> None:
    before = {"a": torch.tensor([True, True, True, True, False, False])}
    nested = {"a": torch.tensor([True, True, False, False, False, False])}
    found = mask_change(before, nested)
    assert found == {"resurrected": 0.0, "dropped": 0.5, "iou": 0.5, "iou_ceiling": 0.5}
    moved = {"a": torch.tensor([True, False, False, False, True, False])}
    assert mask_change(before, moved)["resurrected"] == 0.5


# --- accounting ---------------------------------------------------------------------------


def test_sparse_macs_are_those_of_a_brute_force_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny().eval()
    layers = masked_convolutions_(model)
    magnitude_prune_(layers, 0.8)
    counted = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Convolve ones, padded by ones, with the mask: one per kept multiplication."""
        nonlocal counted
        if isinstance(module, nn.Linear):
            counted += module.weight.numel()
            return
        pad = module.padding[0]
        ones = F.pad(torch.ones_like(inputs[0]), (pad, pad, pad, pad), value=1.0)
        taps = F.conv2d(ones, module.mask.float(), None, module.stride, 0, 1, module.groups)
        counted += int(taps.sum())

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model(images(1))
    for hook in hooks:
        hook.remove()
    cost = model_cost(model, images(1))
    assert cost.effective_macs == counted
    assert cost.effective_macs < cost.macs


def test_the_papers_figure_is_dense_macs_times_prunable_density() -> None:
    from supertickets.data import DataConfig, load_data

    model = tiny()
    layers = masked_convolutions_(model)
    magnitude_prune_(layers, 0.8)
    data = load_data(DataConfig(name="digits"))
    found = paper_macs(model, TwoInOneConfig(), data, "cpu")
    assert found == round(model_cost(model, images(1)).macs * density(layers))


def test_a_network_set_free_after_its_pruning_is_no_ticket() -> None:
    model = tiny()
    layers = masked_convolutions_(model)
    config = TwoInOneConfig(sparsity=0.8)
    magnitude_prune_(layers, 0.8)
    check_is_ticket(model, config)
    set_free_(layers, [one for atoms in find_atoms(model) for one in atoms.convolutions])
    with pytest.raises(RunError, match=r"is no ticket of sparsity 0\.8"):
        check_is_ticket(model, config)


def test_averaged_gammas_are_those_of_the_average(tmp_path: Path) -> None:
    model, _, ema = trained(tiny())
    atoms = find_atoms(model)
    averaged = averaged_gammas(atoms, model, ema.tensors)
    assert torch.equal(averaged[0], ema.tensors[f"{atoms[0].name}.norm.weight"].abs())
    assert not torch.equal(averaged[0], gammas(atoms)[0])
    assert torch.equal(averaged_gammas(atoms, model, None)[0], gammas(atoms)[0])
