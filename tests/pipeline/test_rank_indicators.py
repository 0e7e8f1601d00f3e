"""Indicators against obvious computations on tiny networks, and what they do to the model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.errors import InputError
from supertickets.rank.indicators import get_indicator, indicator, indicator_names
from supertickets.rank.indicators.registry import collect_outputs
from supertickets.seeds import generator
from supertickets.spaces import cell_space, initialise_

CLASSES = 3


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(2, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))

    @property
    def cells(self) -> list[nn.Module]:
        return [self.conv, self.bn]


@pytest.fixture
def tiny() -> Tiny:
    net = Tiny()
    initialise_(net, generator(0, "tiny"))
    return net.double()


INPUTS = torch.randn(6, 1, 4, 4, generator=generator(1, "x"), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


def score(name: str, model: nn.Module, inputs: Tensor = INPUTS) -> float:
    return get_indicator(name).score(model, inputs, LABELS, generator(2, name))


def weights_of(model: Tiny) -> list[nn.Parameter]:
    return [model.conv.weight, model.fc.weight]


def loss_gradients(model: Tiny, part: slice = slice(None)) -> list[Tensor]:
    loss = F.cross_entropy(model(INPUTS[part]), LABELS[part])
    return list(torch.autograd.grad(loss, weights_of(model), create_graph=True))


def jacobian(model: nn.Module, inputs: Tensor, weights: list[nn.Parameter]) -> Tensor:
    rows = []
    for i in range(len(inputs)):
        gradients = torch.autograd.grad(model(inputs)[i].sum(), weights)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def test_params_and_macs(tiny: Tiny) -> None:
    assert score("params", tiny) == 2 * 9 + 4 + 2 * CLASSES + CLASSES
    assert score("macs", tiny) == 2 * 9 * 16 + 2 * CLASSES


def test_gradient_norm_and_snip(tiny: Tiny) -> None:
    gradients = loss_gradients(tiny)
    norm = sum(float(g.detach().square().sum().sqrt()) for g in gradients)
    assert score("grad_norm", tiny) == pytest.approx(norm, rel=1e-9)
    snip = sum(
        float((w * g).detach().abs().sum())
        for w, g in zip(weights_of(tiny), gradients, strict=True)
    )
    assert score("snip", tiny) == pytest.approx(snip, rel=1e-9)


def test_grasp_is_minus_weight_times_hessian_times_gradient(tiny: Tiny) -> None:
    weights, step = weights_of(tiny), 1e-5
    gradients = [g.detach() for g in loss_gradients(tiny)]

    def moved(sign: float) -> list[Tensor]:
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w += sign * step * g
        found = [g.detach() for g in loss_gradients(tiny)]
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w -= sign * step * g
        return found

    pairs = zip(weights, moved(1), moved(-1), strict=True)
    expected = sum(float(-(w.detach() * (a - b) / (2 * step)).sum()) for w, a, b in pairs)
    assert score("grasp", tiny) == pytest.approx(expected, rel=1e-4, abs=1e-8)  # of the difference


def test_synflow_counts_paths_and_survives_depth(tiny: Tiny) -> None:
    # positive weights, input of ones: the output is linear in each layer, so both layers' sums of
    # weight * gradient are the output itself, less the bias for the convolution
    conv, fc = (w.detach().abs() for w in weights_of(tiny))
    out = F.conv2d(torch.ones(1, 1, 4, 4, dtype=torch.float64), conv, padding=1).mean((2, 3))
    assert score("synflow", tiny) == pytest.approx(math.log(2 * float((out @ fc.T).sum())))
    deep = nn.Sequential(
        *(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(60)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    for layer in deep:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 5.0)
    value = score("synflow", deep, torch.randn(2, 8, 4, 4))
    assert 120 < value < 700, "float32 would have overflowed at 88"


def test_zico(tiny: Tiny) -> None:
    first, second = (loss_gradients(tiny, part) for part in (slice(0, 3), slice(3, 6)))
    expected = 0.0
    for a, b in zip(first, second, strict=True):
        mean, spread = (a.abs() + b.abs()) / 2, (a - b).abs() / 2
        expected += math.log(float((mean / spread).sum()))
    assert score("zico", tiny) == pytest.approx(expected, rel=1e-9)


def test_naswot_and_swap(tiny: Tiny) -> None:
    on = (tiny.features(INPUTS) > 0).flatten(1).tolist()
    agree = torch.tensor(
        [[float(sum(p == q for p, q in zip(a, b, strict=True))) for a in on] for b in on],
        dtype=torch.float64,
    )
    assert score("naswot", tiny) == pytest.approx(float(torch.logdet(agree)), rel=1e-9)
    assert score("swap", tiny) == len(set(zip(*on, strict=True)))


def test_naswot_of_equal_samples_is_minus_infinity(tiny: Tiny) -> None:
    assert score("naswot", tiny, INPUTS[[0, 0, 1, 2, 3, 4]]) == -math.inf


def test_jacobian_covariance(tiny: Tiny) -> None:
    x = INPUTS.clone().requires_grad_(True)
    (rows,) = torch.autograd.grad(tiny(x).sum(), x)
    values = torch.linalg.eigvalsh(torch.corrcoef(rows.flatten(1))).clamp_min(0)
    expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in values.tolist())
    assert score("jacob_cov", tiny) == pytest.approx(expected, rel=1e-5)


def test_zen(tiny: Tiny) -> None:
    draws = generator(2, "zen")
    weight = torch.empty_like(tiny.conv.weight).normal_(generator=draws)
    torch.empty_like(tiny.fc.weight).normal_(generator=draws)
    x, noise = (torch.randn(INPUTS.shape, generator=draws, dtype=torch.float64) for _ in range(2))

    def features(images: Tensor) -> Tensor:
        return F.relu(F.batch_norm(F.conv2d(images, weight, padding=1), None, None, training=True))

    change = (features(x) - features(x + 0.01 * noise)).abs().sum((1, 2, 3)).mean()
    variance = F.conv2d(x, weight, padding=1).transpose(0, 1).flatten(1).var(1, unbiased=False)
    expected = math.log(change) + math.log(variance.mean()) / 2
    assert score("zen", tiny) == pytest.approx(expected, rel=1e-6)


def test_kappa_is_the_quotient_of_the_loops_eigenvalues(tiny: Tiny) -> None:
    weights = [tiny.conv.weight, tiny.bn.weight, tiny.fc.weight]
    rows = jacobian(tiny, INPUTS, weights)
    values = torch.linalg.eigvalsh(rows @ rows.T)
    assert score("kappa", tiny) == pytest.approx(math.log(values[-1] / values[0]), rel=1e-6)


def test_kappa_of_a_linear_model_and_of_equal_inputs() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, bias=False)).double()
    flat = INPUTS.flatten(1)
    values = torch.linalg.eigvalsh(flat @ flat.T)
    expected = math.log(values[-1] / values[0])
    assert score("kappa", net) == pytest.approx(expected, rel=1e-9)
    with torch.no_grad():
        net[1].weight *= 3
    assert score("kappa", net) == pytest.approx(expected, rel=1e-9)
    assert score("kappa", net, INPUTS[[0, 0, 1, 2, 3, 4]]) == math.inf


def test_kappa_depends_on_the_number_of_classes() -> None:
    space = cell_space("nasbench201")
    x = torch.randn(6, 3, 16, 16, generator=generator(0, "x"))
    found = set()
    for classes in (1, 10):
        net = space.proxy_net(space.everything(), num_classes=classes)
        initialise_(net, generator(0, "net"))
        found.add(score("kappa", net, x))
    assert len(found) == 2


def test_regions_of_one_layer_are_its_breakpoints_plus_one() -> None:
    net = nn.Sequential(nn.Conv2d(1, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5, 1))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([-0.5, -1.5, -2.5, -3.5, -4.5]))
    line = torch.linspace(0.013, 6.0, 200).view(-1, 1, 1, 1)
    assert score("regions", net, line) == 6


def test_regions_see_a_thousand_inputs_under_one_batch_norm() -> None:
    space = cell_space("nasbench201")
    net = space.thin_net(space.everything())
    initialise_(net, generator(0, "net"), fan="fan_in")
    x = torch.randn(1500, 1, 3, 3, generator=generator(0, "x"))
    by_hand = set()
    for part in (x[:1000], x[1000:]):
        with collect_outputs(net, nn.ReLU) as outputs:
            net(part)
        signs = torch.cat([out.flatten(1) > 0 for out in outputs], dim=1)
        by_hand |= {tuple(row) for row in signs.tolist()}
    assert score("regions", net, x) == len(by_hand)


def test_entropies_of_cell_outputs(tiny: Tiny) -> None:
    def entropy(image: Tensor) -> float:
        values = torch.linalg.eigvalsh(torch.cov(image.transpose(0, 1).flatten(1), correction=0))
        share = values / values.sum()
        return -float((share * share.log()).sum())

    first = tiny.conv(INPUTS)
    one, two = entropy(first), entropy(tiny.bn(first))
    assert score("expressivity", tiny) == pytest.approx(one + two, rel=1e-6)
    assert score("progressivity", tiny) == pytest.approx(two - one, rel=1e-5, abs=1e-7)


def test_trainability_of_cells_that_scale_gradients() -> None:
    class Scale(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    class Scales(nn.Sequential):
        @property
        def cells(self) -> list[nn.Module]:
            return list(self)

    start = nn.Conv2d(1, 1, 1, bias=False)
    # one channel: the mean product of signs with factor * signs is the factor
    value = score("trainability", Scales(start, Scale(2.0), Scale(0.5)).double())
    assert value == pytest.approx(((2 - 2 - 1 / 2) + (2 - 0.5 - 1 / 0.5)) / 2, rel=1e-5)
    assert score("trainability", Scales(start, Scale(1.0)).double()) == -math.inf
    with pytest.raises(InputError, match="at least two cells"):
        score("trainability", nn.Sequential(start).double())


def test_regression_error(tiny: Tiny) -> None:
    weights = [tiny.conv.weight, tiny.bn.weight, tiny.fc.weight]
    train, held = (jacobian(tiny, part, weights) for part in INPUTS.tensor_split(2))
    one_hot = torch.eye(CLASSES, dtype=torch.float64)[LABELS] - 1 / CLASSES
    predicted = held @ train.T @ torch.linalg.inv(train @ train.T) @ one_hot[:3]
    expected = float((predicted - one_hot[3:]).square().mean())
    assert score("regression_error", tiny) == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:count_patterns. saturated")
@pytest.mark.parametrize("name", indicator_names())
def test_the_model_is_left_as_it_was_and_the_value_repeats(name: str, tiny: Tiny) -> None:
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    rng = torch.get_rng_state()
    value = score(name, tiny)
    assert score(name, tiny) == value
    assert not math.isnan(value)
    assert all(torch.equal(before[key], value) for key, value in tiny.state_dict().items())
    assert tiny.training
    assert all(p.grad is None and p.requires_grad for p in tiny.parameters())
    assert torch.equal(rng, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())


def test_missing_labels_and_wrong_names_are_named(tiny: Tiny) -> None:
    for name in indicator_names():
        if get_indicator(name).needs_labels:
            with pytest.raises(InputError, match=f"{name}: expected a label"):
                get_indicator(name).score(tiny, INPUTS, None, generator(0, "x"))
    with pytest.raises(InputError, match="did you mean 'naswot'"):
        get_indicator("naswat")
    with pytest.raises(InputError, match="is taken"):
        indicator("zen", higher_is_better=True)(lambda *arguments: 0.0)
    with pytest.raises(InputError, match="crops of the thin network have no labels"):
        indicator("new", higher_is_better=True, needs_labels=True, network="thin")(score)


def test_a_users_own_indicator_is_found(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    monkeypatch.setattr("supertickets.rank.indicators.registry._INDICATORS", {})

    @indicator("largest_weight", higher_is_better=False)
    def largest_weight(model, inputs, labels, generator) -> float:
        return float(max(p.detach().abs().max() for p in model.parameters()))

    assert indicator_names() == ("largest_weight",)
    assert score("largest_weight", tiny) == largest_weight(tiny, INPUTS, None, generator(0, "x"))
