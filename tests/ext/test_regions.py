"""Region counts of small networks: the program against hooks, its limits, and its state."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets_ext import (
    RegionCounter,
    SaturationWarning,
    activation_patterns,
    count_patterns,
    count_regions,
    regions_refusal,
)
from supertickets_ext.activation_patterns_reference import unpack_bits
from supertickets_ext.regions import _traced


class Mixed(nn.Module):
    """Every operator that a table knows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.stem = nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False)
        self.depthwise = nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4)
        self.mean = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.padded = nn.AvgPool2d(3, 2, 1)
        self.most = nn.MaxPool2d(3, 2, 1)
        self.norm, self.plain = nn.BatchNorm2d(8), nn.BatchNorm2d(4, affine=False)
        self.narrow = nn.Conv2d(4, 2, 1, stride=2, bias=False)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Sequential(nn.Linear(12, 5), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.cat([self.grouped(F.relu(x)), self.plain(self.depthwise(x) * 0.5)], 1)
        y = self.act(self.norm(y)) if self.training else y
        a, b = y[:, :, :, :], self.mean(x) + self.drop(x)
        a = self.act(F.pad(a, (0, 1, 0, 1))[:, :, 1:, 1:])
        z = sum([self.padded(b), self.most(b), self.most(x) / 3])
        half = torch.cat([self.narrow(x), self.narrow(F.relu(-1 * x))], 1)
        z = F.relu(z + half)
        z = torch.cat([z, self.most(a)], 1)
        return self.head(self.flat(self.pool(F.relu(self.pool(z) + 0))))


def by_hooks(model: nn.Module, x: Tensor, batch: int) -> int:
    patterns = [activation_patterns(model, part) for part in x.split(batch)]
    return count_patterns(torch.cat(patterns), warn=False)


def draw(samples: int, channels: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, channels, side, side, generator=generator)
    return x[torch.randint(samples, (samples,), generator=generator)]  # repeated samples


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("side", [3, 4, 5])
@pytest.mark.parametrize(("samples", "batch"), [(37, 37), (50, 20), (5, 1024), (1100, 1030)])
def test_bits_are_those_of_hooks(side: int, samples: int, batch: int) -> None:
    torch.manual_seed(side)
    model, x = Mixed(2), draw(samples, 2, side)
    assert regions_refusal(model, x) is None
    parts = x.split(batch)
    bits = unpack_bits(torch.cat([activation_patterns(model, part) for part in parts]))
    ours = unpack_bits(_traced(model, x).patterns(x, batch))
    # Columns: equal ReLUs of one value are one here, and hooks have bits past the last.
    columns = {tuple(c) for c in bits.T.tolist()}
    mine = {tuple(c) for c in ours.T.tolist()}
    zeros = tuple([False] * samples)
    assert columns - {zeros} == mine - {zeros}
    assert count_regions(model, x, batch=batch, warn=False) == by_hooks(model, x, batch)


def cell_nets() -> list[tuple[str, Callable[[], nn.Module]]]:
    from benchmarks import proxy_networks

    return [
        ("NB201", lambda: proxy_networks._Cell201(1, proxy_networks.SUPERNET)),
        ("NB201 path", lambda: proxy_networks._Cell201(1, proxy_networks.PATH)),
    ]


@pytest.mark.parametrize(("name", "build"), cell_nets(), ids=lambda v: v if v is str else "")
def test_thin_cells_count_alike(name: str, build: Callable[[], nn.Module]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        model, x = nn.Sequential(build(), nn.BatchNorm2d(1), nn.ReLU()), draw(3000, 1, 3, seed)
        # A pre-activation within rounding of zero may fall on the other side: in none of these.
        assert count_regions(model, x, batch=1000, warn=False) == by_hooks(model, x, 1000)


@pytest.mark.usefixtures("backend")
def test_a_sign_differs_only_within_rounding_of_zero() -> None:
    """Count all signs of pre-activations that differ, and look at their size in float64."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    model = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU())
    x = draw(4000, 8, 3)
    ours = unpack_bits(_traced(model, x).patterns(x, len(x)))[:, : 16 * 9]
    exact = nn.Sequential(conv, nn.BatchNorm2d(16)).double()(x.double()).flatten(1)
    wrong = ours != (exact > 0)
    assert not wrong.any() or exact[wrong].abs().max() < 1e-5
    assert exact.abs().min() < 1e-5, "the test must see values next to zero"


@pytest.mark.usefixtures("backend")
def test_nan_is_off_and_goes_on() -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.ReLU())
    x = draw(40, 1, 4)
    x[3, 0, 1, 1] = float("nan")
    assert regions_refusal(model, x) is None
    assert count_regions(model, x, warn=False) == by_hooks(model, x, 40)
    bits = unpack_bits(_traced(model, x).patterns(x, 40))[3, :32]
    assert torch.equal(bits, unpack_bits(activation_patterns(model, x))[3, :32])


class Looks(nn.Module):
    """Takes another way if its input is large."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(2, 64, 1), nn.ReLU()), "a value of shape"),
        (nn.Sequential(nn.Tanh(), nn.ReLU()), "tanh"),
        (Looks(), "asks for sum"),
        (nn.Sequential(nn.ConvTranspose2d(2, 2, 1), nn.ReLU()), "does not run|calls"),
        (nn.Conv2d(2, 2, 1), "no ReLU"),
    ],
)
def test_other_models_take_hooks_and_say_why(model: nn.Module, why: str) -> None:
    x = draw(20, 2, 5)
    refusal = regions_refusal(model, x)
    assert refusal is not None
    assert re.search(why, refusal)
    if "no ReLU" in why:
        with pytest.raises(ValueError, match="must run a ReLU"):
            count_regions(model, x)
    else:
        assert count_regions(model, x, warn=False) == by_hooks(model, x, 20)


def test_hooks_of_the_user_run() -> None:
    model, seen = Mixed(2), []
    model.stem.register_forward_hook(lambda *_: seen.append(1))
    assert regions_refusal(model, draw(8, 2, 3)) == "a module has hooks"
    count_regions(model, draw(8, 2, 3), warn=False)
    assert seen


def test_the_model_stays_as_it_was() -> None:
    model = Mixed(2).eval()
    model.stem.train()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random = torch.random.get_rng_state()
    count_regions(model, draw(30, 2, 3), batch=10, warn=False)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_counter_reads_weights_at_every_call() -> None:
    model, x = Mixed(2), draw(200, 2, 3)
    counter = RegionCounter(model, x[:4])
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for batch in (200, 70):
            assert counter(x, batch=batch, warn=False) == by_hooks(model, x, batch)
    with pytest.raises(ValueError, match="RegionCounter: model must be a small network, no ReLU"):
        RegionCounter(nn.Conv2d(2, 2, 1), x)


def test_saturation_and_bad_arguments() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
    x = torch.randn(30, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    with pytest.warns(SaturationWarning, match="30 samples"):
        assert count_regions(model, x) == 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_regions(model, x, warn=False)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        count_regions(model, x, batch=0)


@pytest.mark.usefixtures("backend")
def test_threads_do_not_change_the_bits() -> None:
    model, x = Mixed(2), draw(300, 2, 3)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(_traced(model, x).patterns(x, 70))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 0, 3), "node 0 must have inputs"),
        ((1, 0, 99), "a known kind"),
        ((1, 1, 5), "inputs within links"),
        ((1, 3, 0), "sizes within their bounds"),
        ((1, 14, 7), "weight of node 1 must be the number of a tensor, got 7"),
        ((1, 6, 5), "weight of node 1 must be contiguous float32"),
        ((2, 4, 9), "its inputs' size"),
    ],
)
def test_a_broken_table_is_refused(change: tuple[int, int, int], message: str) -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()), draw(4, 2, 5)
    table = _traced(model, x)
    row, column, value = change
    broken = list(table.rows[row])
    broken[column] = value
    table.rows[row] = tuple(broken)
    with pytest.raises(RuntimeError, match=message):
        table.patterns(x, 4)


def test_opcheck() -> None:
    x = draw(6, 2, 3)
    table = _traced(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()), x)
    arguments = (*table.arguments(), x, 6)
    torch.library.opcheck(
        torch.ops.supertickets.region_patterns.default,
        arguments,
        test_utils=("test_schema", "test_faketensor"),
    )


class Switched(nn.Module):
    """Runs one of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1, 3, k, padding=k // 2) for k in (1, 3))
        self.live = 0

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers[self.live](x))


def test_a_named_structure_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from supertickets_ext import regions

    model, x, traces = Switched(), draw(100, 1, 3), []

    def traced(model: nn.Module, x: Tensor) -> object:
        traces.append(1)
        return _traced(model, x)

    monkeypatch.setattr(regions, "_traced", traced)

    def check(expected_traces: int) -> None:
        count = count_regions(model, x, structure=("live", model.live), warn=False)
        assert count == by_hooks(model, x, len(x))
        assert len(traces) == expected_traces

    for live, expected in ((0, 1), (1, 2), (0, 2), (1, 2)):
        model.live = live
        check(expected)
    with torch.no_grad():
        model.layers[1].weight.neg_()  # in place: read anew
    check(2)
    model.layers[1].weight = nn.Parameter(torch.randn(3, 1, 3, 3))
    check(3)
    x = x[:, :, :2, :2]
    check(4)
    seen: list[int] = []
    model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    check(5)
    assert seen, "a hook runs, as without a name"


def test_programs_do_not_keep_their_model() -> None:
    import gc
    import weakref

    model = Switched()
    count_regions(model, draw(10, 1, 3), structure=0, warn=False)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


class Computed(nn.Module):
    """Its weight is no parameter when it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scale * torch.arange(-4.0, 5.0).view(1, 1, 3, 3)
        return F.relu(F.conv2d(x, weight, padding=1))


def test_weights_that_are_computed_are_computed_again() -> None:
    model, x = Computed(), draw(100, 1, 3)
    for value in (1.0, 0.0):
        nn.init.constant_(model.scale, value)
        assert count_regions(model, x, structure=0, warn=False) == by_hooks(model, x, len(x))
    with pytest.raises(ValueError, match="contiguous parameters, got a weight that was computed"):
        RegionCounter(model, x)
    strided = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    strided.to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="contiguous parameters"):
        RegionCounter(strided, draw(4, 2, 3))


def test_a_counter_refuses_a_model_that_was_changed() -> None:
    model, x = Mixed(2), draw(20, 2, 3)
    counter = RegionCounter(model, x)
    model.narrow.weight = nn.Parameter(torch.randn(2, 4, 1, 1))
    with pytest.raises(ValueError, match="RegionCounter: model must stay as it was"):
        counter(x)
