"""Choice spaces of anybody's blocks: sampling, budgets, the shared weights of a supernet."""

from __future__ import annotations

import collections
import itertools
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from supertickets.errors import InputError
from supertickets.evaluate import model_cost
from supertickets.seeds import generator
from supertickets.spaces import BlockSpace, ChoiceSupernet, PathCosts
from supertickets.spaces.choice_sampling import BudgetSampler, check_prior
from supertickets.training import recalibrate_bn
from tests.pipeline import choice_job
from tests.pipeline.choice_blocks import block_space, conv_block
from tests.pipeline.test_distributed import launch


@pytest.fixture(scope="module")
def space() -> BlockSpace:
    return block_space()


def images(count: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=generator(seed, "images"))


def test_every_path_costs_what_its_own_network_costs(space: BlockSpace) -> None:
    example = torch.zeros(1, *space.image_shape)
    paths = list(space.paths())
    assert len(paths) == len(set(paths)) == space.count == 12
    macs = []
    for path in paths:
        cost = model_cost(space.network(path), example)
        assert space.macs(path) == cost.macs
        assert space.parameters(path) == cost.parameters
        macs.append(cost.macs)
    assert space.reachable() == (min(macs), max(macs))


def test_text_goes_back_and_forth(space: BlockSpace) -> None:
    for path in space.paths():
        assert space.parse(space.format(path)) == path
    assert space.format((1, 0, 1)) == "k3|k3,k5"
    assert space.parse("1| 0,1 ") == (1, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k3", r"stages of 1\|2 layers"),
        ("k3|k3,k9", "no operation 'k9'; known: k3, k5"),
        ("k3|k3,2", "operations 0 to 1, got 2"),
        ("k3|k3|k3", "stages of"),
    ],
)
def test_a_text_that_is_no_path_is_refused(space: BlockSpace, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        space.parse(text)


def test_the_same_generator_gives_the_same_supernet_and_leaves_the_global_one(
    space: BlockSpace,
) -> None:
    before = torch.get_rng_state()
    first = space.supernet(generator(1, "weights")).state_dict()
    second = space.supernet(generator(1, "weights")).state_dict()
    other = space.supernet(generator(2, "weights")).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_a_step_changes_only_its_path(space: BlockSpace) -> None:
    supernet = space.supernet(generator(0, "weights"))
    # momentum and decay would move every weight whose gradient is zeros and not None
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    ran: list[str] = []
    for name, module in supernet.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    for path in [(1, 0, 1), (0, 1, 1), (2, 0, 0)]:
        supernet.set_path(path)
        before = {key: value.clone() for key, value in supernet.state_dict().items()}
        ran.clear()
        optimizer.zero_grad()
        supernet(images()).square().mean().backward()
        optimizer.step()
        on_path = tuple(f"layers.{layer}.{index}." for layer, index in enumerate(path))
        for key, value in supernet.state_dict().items():
            belongs = key.startswith(("stem.", "head.", *on_path))
            assert torch.equal(value, before[key]) != belongs, key
        for name, parameter in supernet.named_parameters():
            assert (parameter.grad is not None) == name.startswith(("stem.", "head.", *on_path))
        expected = {id(p) for p in supernet.parameters() if p.grad is not None}
        assert {id(p) for p in supernet.path_parameters()} == expected
        assert not [n for n in ran if n.count(".") >= 2 and not f"{n}.".startswith(on_path)]


def test_a_path_on_its_own_computes_the_same(space: BlockSpace) -> None:
    supernet = space.supernet(generator(0, "weights"))
    for path in space.paths():
        supernet.set_path(path)
        supernet(images())
    supernet.eval()
    for path in space.paths():
        network = space.network(path)
        network.load_state_dict(supernet.inherit(path))
        supernet.set_path(path)
        assert torch.equal(network.eval()(images()), supernet(images()))
    inherited = supernet.inherit((0, 0, 0))
    inherited["head.2.weight"].zero_()
    assert supernet.head[2].weight.abs().sum() > 0, "what is inherited is a copy"  # type: ignore


def test_batch_norm_is_estimated_again_on_one_path_only(space: BlockSpace) -> None:
    supernet = space.supernet(generator(0, "weights"))
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    batches = [(images(seed=s), torch.zeros(8)) for s in range(2)]
    recalibrate_bn(supernet.view((0, 1, 1)), batches, batches=2)
    changed = {k for k, v in supernet.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(
        k.startswith(("stem.", "layers.0.0.", "layers.1.1.", "layers.2.1.")) for k in changed
    )


def test_channels_last_and_bfloat16_give_the_same_within_rounding(space: BlockSpace) -> None:
    supernet = space.supernet(generator(0, "weights"))
    supernet.set_path((1, 1, 0))
    expected = supernet(images())
    last = supernet.to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x), expected, rtol=1e-4, atol=1e-5)  # another order of sums
    with torch.autocast("cpu", torch.bfloat16):
        low = last(x)
        loss = low.float().square().mean()
    loss.backward()
    assert low.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits, through four layers with batch norm
    torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in last.path_parameters())


@pytest.mark.parametrize("path", [(0, 0), (0, 0, 2), (-1, 0, 0), (0, 0, 0, 0)])
def test_a_path_that_does_not_fit_is_refused(space: BlockSpace, path: tuple[int, ...]) -> None:
    supernet = space.supernet(generator(0, "weights"))
    supernet.set_path((1, 1, 1))
    for refuse in (supernet.set_path, supernet.view, supernet.path_parameters, space.network,
                   space.macs, space.format):  # fmt: skip
        with pytest.raises(InputError, match="path: "):
            refuse(path)
    assert supernet.path == (1, 1, 1)


def test_blocks_that_do_not_fit_are_refused() -> None:
    layers = {"a": {"wide": conv_block(4, 8, 3), "narrow": conv_block(4, 4, 3)}}
    with pytest.raises(InputError, match=r"layer a must give one shape.*wide.*8.*narrow.*4"):
        BlockSpace(
            "odd", stem=conv_block(1, 4, 3), layers=layers, head=nn.Flatten, image_shape=(1, 8, 8)
        )
    with pytest.raises(InputError, match="layers with operations"):
        BlockSpace(
            "none", stem=nn.Identity, layers={"a": {}}, head=nn.Flatten, image_shape=(1, 8, 8)
        )
    with pytest.raises(InputError, match="layer 1 has no operations"):
        ChoiceSupernet(nn.Identity(), [[nn.Identity()], []], nn.Identity())


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    launch(2, choice_job.__file__, str(tmp_path), cwd=tmp_path)
    first, second = (torch.load(tmp_path / f"supernet-{r}.pt", weights_only=True) for r in (0, 1))
    alone = choice_job.supernet()
    start = {key: value.clone() for key, value in alone.state_dict().items()}
    choice_job.steps(alone, alone, slice(None))
    for key, value in alone.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        # the same sums in another order, over 6 float32 steps
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[key], start[key]) == key.startswith("layers.1.2.")


# --- sampling ---------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, {"k1": 0.2, "k3": 0.5, "k5": 0.3, "skip": 0.1}])
def test_operations_are_drawn_as_often_as_the_prior_says(
    space: BlockSpace, weights: dict[str, float] | None
) -> None:
    prior = None if weights is None else space.prior(weights)
    draws = 4000
    drawer = generator(0, "paths")
    paths = [space.sample(drawer, prior) for _ in range(draws)]
    for layer, probabilities in enumerate(check_prior(prior, [3, 2, 2])):
        counts = collections.Counter(path[layer] for path in paths)
        observed = [counts[index] for index in range(len(probabilities))]
        assert chisquare(observed, [p * draws for p in probabilities]).pvalue > 1e-3


def test_an_operation_without_weight_is_never_drawn(space: BlockSpace) -> None:
    prior = space.prior({"k3": 1.0})
    assert {space.sample(generator(s, "path"), prior) for s in range(50)} == {(1, 0, 0)}


@pytest.mark.parametrize("quantile", [(0.0, 0.3), (0.4, 0.6), (0.8, 1.0)])
def test_paths_within_a_budget_have_the_prior_s_probabilities(
    space: BlockSpace, quantile: tuple[float, float]
) -> None:
    macs = sorted(map(space.macs, space.paths()))
    low, high = (macs[round(q * (len(macs) - 1))] for q in quantile)
    prior = space.prior({"k1": 0.2, "k3": 0.5, "k5": 0.3, "skip": 0.1})
    sampler = space.within(low, high, prior)
    drawer, draws = generator(0, "paths"), 3000
    counts = collections.Counter(sampler(drawer) for _ in range(draws))
    inside = [p for p in space.paths() if low <= space.macs(p) <= high]
    assert set(counts) <= set(inside)
    weights = [prior[0][p[0]] * prior[1][p[1]] * prior[2][p[2]] for p in inside]
    expected = [w / sum(weights) * draws for w in weights]
    assert chisquare([counts[p] for p in inside], expected).pvalue > 1e-3


def test_a_budget_is_met_where_costs_are_finer_than_the_bins() -> None:
    drawer = generator(0, "costs")
    layers = tuple(
        tuple(torch.randint(10**6, 10**9, (5,), generator=drawer).tolist()) for _ in range(12)
    )
    costs = PathCosts(7, layers)
    middle = (costs.smallest + costs.largest) // 2
    sampler = BudgetSampler(costs, middle, middle + 10**6, check_prior(None, [5] * 12))
    found = {sampler(drawer) for _ in range(100)}
    assert len(found) > 90
    assert all(middle <= costs.of(path) <= middle + 10**6 for path in found)


def test_a_budget_that_cannot_be_met_states_what_can(space: BlockSpace) -> None:
    low, high = space.reachable()
    gap = next(
        b - a for a, b in itertools.pairwise(sorted(map(space.macs, space.paths()))) if b > a + 1
    )
    assert gap > 1
    for bounds in [(None, low - 1), (high + 1, None), (high, low), (low + 1, low + gap - 1)]:
        with pytest.raises(InputError, match=f"paths reach {low:,} to {high:,}"):
            space.sample_within(generator(0, "path"), *bounds)
    only = space.prior({"k3": 1.0})
    with pytest.raises(InputError, match=f"reach {space.macs((1, 0, 0)):,} to"):
        space.within(None, low, only)
    assert space.macs(space.sample_within(generator(0, "path"), None, low)) == low


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ([[1, 1, 1], [1, 1]], "3 layers, got 2"),
        ([[1, 1], [1, 1], [1, 1]], "layer 0 needs 3 weights"),
        ([[1, 1, -1], [1, 1], [1, 1]], "none negative"),
        ([[0, 0, 0], [1, 1], [1, 1]], "sum above 0"),
        ([[1, 1, float("nan")], [1, 1], [1, 1]], "sum above 0"),
    ],
)
def test_a_prior_that_is_none_is_refused(
    space: BlockSpace, prior: list[list[float]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        space.sample(generator(0, "path"), prior)
    with pytest.raises(InputError, match="no operation 'k33'; did you mean 'k3'"):
        space.prior({"k33": 1.0})
