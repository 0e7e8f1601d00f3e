"""Routes: mask structures, the routes' values and gradients, the choice, and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.shapes import EDGE_SHAPES, ConvShape
from supertickets_ext import _route_cases, routes
from supertickets_ext._conv_options import ConvOptions, conv_options
from supertickets_ext.nn import MaskedConv2d
from supertickets_ext.routes import ROUTES, Route, choose_route, mask_structure, run_route
from tests.ext.cases import assert_within, cotangent_for, exact_and_bound, forward_and_gradients

# torch's own convolution warns that an even kernel costs it a copy
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

BY_NAME = {shape.name: shape for shape in EDGE_SHAPES}
CASES = [shape for shape in EDGE_SHAPES if shape.batch > 0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache file, and a process that knows nothing."""
    path = tmp_path / "cache" / "routes.json"
    monkeypatch.setenv("SUPERTICKETS_ROUTE_CACHE", str(path))
    monkeypatch.setattr(_route_cases.table, "_times", {})
    monkeypatch.setattr(_route_cases.table, "_read", None)
    routes._known.clear()
    return path


def options_of(shape: ConvShape) -> ConvOptions:
    return conv_options(
        "test", shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups
    )


def by(route: Route) -> Callable[..., Tensor]:
    """The route with the signature of masked_conv2d."""

    def convolve(
        x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, *, scores: Any, **rest: Any
    ) -> Tensor:
        options = conv_options("test", (weight.shape[2], weight.shape[3]), **rest)
        return run_route(route, x, weight, mask, bias, options, scores)

    return convolve


def random_mask(*size: int, density: float = 0.5, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < density


# --- structure ----------------------------------------------------------------------------------


def structured(kind: str) -> Tensor:
    mask = torch.ones(16, 8, 3, 3, dtype=torch.bool)
    if "filters" in kind:
        mask[[0, 3, 9, 15]] = False
    if "channels" in kind:
        mask[:, [1, 6]] = False
    if kind == "blocks":
        mask[:8, 4:] = False
        mask[8:, :4] = False
    if kind == "n:m":
        mask = torch.zeros_like(mask)
        place = torch.randint(4, (16, 2, 1, 3, 3), generator=torch.Generator().manual_seed(0))
        mask.unflatten(1, (2, 4)).scatter_(2, place, True)
    if kind == "unstructured":
        mask = random_mask(16, 8, 3, 3)
    return mask


KINDS = ("none", "filters", "channels", "filters+channels", "blocks", "n:m", "unstructured")


@pytest.mark.parametrize("kind", KINDS)
def test_structure_is_recognised(kind: str) -> None:
    structure = mask_structure(structured(kind))
    assert structure.kind == kind
    assert structure.density == pytest.approx(float(structured(kind).float().mean()))


def test_structure_counts() -> None:
    structure = mask_structure(structured("filters+channels"))
    assert (structure.filters, structure.channels) == (12, 6)
    n_of_m = mask_structure(structured("n:m"))
    assert (n_of_m.n, n_of_m.m, str(n_of_m)) == (1, 4, "1:4")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_cover_exactly_the_kept_weights(kind: str) -> None:
    mask = structured(kind)
    parts = mask_structure(mask).parts
    covered = torch.zeros_like(mask)
    for part in parts or ():
        covered[part.filters[:, None], part.channels[None]] = True
    if parts is None:
        assert kind in ("none", "n:m", "unstructured")
    else:
        assert not (mask & ~covered).any()
        assert covered.float().mean() < 0.95


def test_structure_of_groups_leaves_out_whole_groups() -> None:
    mask = torch.ones(12, 1, 3, 3, dtype=torch.bool)
    mask[[1, 4, 8, 9]] = False
    (part,) = mask_structure(mask, groups=12).parts or ()
    assert part.groups == 8
    assert part.channels.tolist() == part.filters.tolist() == [0, 2, 3, 5, 6, 7, 10, 11]


def test_structure_refuses_wrong_masks() -> None:
    with pytest.raises(TypeError, match=r"mask must be bool, got torch\.float32"):
        mask_structure(torch.ones(2, 2, 1, 1))
    with pytest.raises(ValueError, match="mask must have 4 dimensions"):
        mask_structure(torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="groups must divide mask's 3 filters, got 2"):
        mask_structure(torch.ones(3, 1, 1, 1, dtype=torch.bool), groups=2)


# --- values and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", CASES, ids=lambda shape: shape.name)
def test_dense_route(shape: ConvShape, dtype: torch.dtype) -> None:
    inputs = shape.inputs(dtype=dtype, channels_last=True)
    cotangent = cotangent_for(shape, inputs)
    actual = forward_and_gradients(by(ROUTES["dense"]), shape, inputs, cotangent)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent))


def test_dense_route_with_scores() -> None:
    shape = BY_NAME["groups-2"]
    inputs = shape.inputs(dtype=torch.float64)
    scores = torch.rand(shape.weight_shape, dtype=torch.float64)
    cotangent = cotangent_for(shape, inputs)
    dense = forward_and_gradients(by(ROUTES["dense"]), shape, inputs, cotangent, scores)
    sparse = forward_and_gradients(by(ROUTES["sparse"]), shape, inputs, cotangent, scores)
    torch.testing.assert_close(dense, sparse)


def test_dense_route_skips_pruned_weights_that_are_not_finite() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    broken = torch.where(mask, weight, torch.nan)
    y = run_route(ROUTES["dense"], x, broken, mask, bias, options_of(shape))
    assert torch.equal(y, run_route(ROUTES["dense"], x, weight, mask, bias, options_of(shape)))


def prune(mask: Tensor, kind: str, groups: int) -> Tensor:
    mask = mask.clone()
    outputs, channels = mask.shape[0], mask.shape[1]
    if "filters" in kind:
        mask[: -(-outputs // 2)] = False
    if "channels" in kind and groups == 1:
        mask[:, 1::2] = False
    if kind == "blocks" and groups == 1:
        mask[: outputs // 2, : channels // 2] = False
        mask[outputs // 2 :, channels // 2 :] = False
    return mask


PLAIN = (
    "plain-3x3",
    "no-bias",
    "many-channels",
    "1x1-stride-2",
    "same-even-kernel",
    "dilation-pair",
)
COMPACT = [(n, k) for n in PLAIN for k in ("filters", "channels", "filters+channels", "blocks")]
COMPACT += [("groups-odd", "filters"), ("depthwise", "filters")]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("name", "kind"), COMPACT)
def test_compact_route(name: str, kind: str, channels_last: bool) -> None:
    shape = BY_NAME[name]
    inputs = shape.inputs(dtype=torch.float32, density=1.0, channels_last=channels_last)
    inputs = inputs._replace(mask=prune(inputs.mask, kind, shape.groups))
    parts = mask_structure(inputs.mask, shape.groups).parts
    assert parts is not None
    cotangent = cotangent_for(shape, inputs)
    actual = forward_and_gradients(by(Route("compact", "", parts=parts)), shape, inputs, cotangent)
    assert_within(actual, *exact_and_bound(shape, inputs, cotangent))
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert actual["output"].is_contiguous(memory_format=wanted)


def test_compact_route_of_an_empty_mask_gives_the_bias() -> None:
    shape = BY_NAME["plain-3x3"]
    x, weight, mask, bias = shape.inputs()
    assert bias is not None
    empty = torch.zeros_like(mask)
    route = Route("compact", "", parts=mask_structure(empty).parts)
    y = run_route(route, x, weight, empty, bias, options_of(shape))
    assert torch.equal(y, bias[:, None, None].expand_as(y))


# --- the choice ---------------------------------------------------------------------------------

SHAPE = ConvShape("choice", 2, 16, 16, (14, 14), padding=1)


def choose(mask: Tensor, training: bool = False, **rest: Any) -> Route:
    weight = SHAPE.inputs().weight
    return choose_route(
        SHAPE.input_shape, "nchw", weight, mask, options_of(SHAPE), training, **rest
    )


def test_choice_follows_the_measured_times(cache: Path) -> None:
    mask = SHAPE.inputs(density=0.1).mask
    route = choose(mask)
    assert set(route.times_us) == {"sparse", "dense"}
    assert all(time_us > 0 for time_us in route.times_us.values())
    wins = route.times_us["sparse"] < 0.95 * route.times_us["dense"]
    assert route.name == ("sparse" if wins else "dense")


@pytest.mark.parametrize(
    ("times", "name"),
    [
        ({"dense": 100.0, "sparse": 50.0}, "sparse"),
        ({"dense": 100.0, "sparse": 97.0}, "dense"),
        ({"dense": 100.0, "sparse": 200.0}, "dense"),
        ({"dense": 100.0, "sparse": 60.0, "compact": 40.0}, "compact"),
    ],
)
def test_only_a_clear_winner_replaces_dense(times: dict[str, float], name: str) -> None:
    assert _route_cases._best(times)[0] == name


def stored(cache: Path) -> dict[str, dict[str, float]]:
    (table,) = json.loads(cache.read_text())["machines"].values()
    return table


def test_times_are_kept_and_taken_from_the_file(cache: Path) -> None:
    mask = SHAPE.inputs(density=0.1).mask
    choose(mask)
    document = json.loads(cache.read_text())
    (table,) = document["machines"].values()
    ((key, times),) = table.items()
    times.update(dense=1.0, sparse=1000.0)
    cache.write_text(json.dumps(document))
    _route_cases.table._times.clear()
    _route_cases.table._read = None
    routes._known.clear()
    assert choose(mask).times_us == {"dense": 1.0, "sparse": 1000.0}
    assert list(stored(cache)) == [key]


def test_training_forward_and_scores_are_timed_apart(cache: Path) -> None:
    mask = SHAPE.inputs(density=0.1).mask
    choose(mask)
    choose(mask, training=True)
    choose(mask, training=True, scores=True)
    assert sorted(key.split(",")[0] for key in stored(cache)) == [
        "forward", "train", "train+scores",
    ]  # fmt: skip


def test_the_first_measurement_of_two_processes_stays(cache: Path) -> None:
    table = _route_cases.table
    assert table.add("key", {"dense": 1.0, "sparse": 2.0}) == {"dense": 1.0, "sparse": 2.0}
    table._times.clear()
    assert table.add("key", {"dense": 5.0, "sparse": 4.0}) == {"dense": 1.0, "sparse": 2.0}
    table.add("other", {"dense": 3.0, "sparse": 4.0})
    assert set(stored(cache)) == {"key", "other"}


def test_processes_that_write_at_once_lose_nothing(cache: Path) -> None:
    code = (
        "import sys; from supertickets_ext._route_table import RouteTable\n"
        "table = RouteTable()\n"
        "for i in range(20): table.add(f'{sys.argv[1]}-{i}', {'dense': 1.0, 'sparse': 2.0})"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], cwd=Path(__file__).parents[2])
        for i in range(2)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert len(stored(cache)) == 40
    assert sorted(p.name for p in cache.parent.iterdir()) == ["routes.json", "routes.json.lock"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 9, "machines": {}}', '{"schema": 1}'])
def test_a_damaged_file_is_replaced(cache: Path, text: str) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    choose(SHAPE.inputs(density=0.1).mask)
    assert len(stored(cache)) == 1


def test_a_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("SUPERTICKETS_ROUTE_CACHE", str(blocker / "routes.json"))
    monkeypatch.setattr(_route_cases.table, "_warned", False)
    with pytest.warns(UserWarning, match="kept in memory only"):
        choose(SHAPE.inputs(density=0.1).mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose(SHAPE.inputs(density=0.5).mask)


def test_empty_variable_keeps_times_in_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERTICKETS_ROUTE_CACHE", "")
    mask = SHAPE.inputs(density=0.1).mask
    assert choose(mask).times_us == choose(mask.clone()).times_us
    assert not cache.exists()


def test_clear_routes_forgets(cache: Path) -> None:
    mask = SHAPE.inputs(density=0.1).mask
    choose(mask)
    routes.clear_routes()
    assert json.loads(cache.read_text())["machines"] == {}
    choose(mask)
    assert len(stored(cache)) == 1


def test_a_mask_changed_in_place_is_looked_at_again() -> None:
    mask = SHAPE.inputs(density=0.4).mask
    assert choose(mask).parts is None
    mask[:8] = False
    (part,) = choose(mask).parts or ()
    assert part.filters.tolist() == list(range(8, 16))


def test_known_masks_do_not_live_on() -> None:
    mask = SHAPE.inputs(density=0.4).mask
    choose(mask)
    assert len(routes._known) == 1
    del mask
    assert len(routes._known) == 0


def test_a_known_choice_is_cheap() -> None:
    mask = SHAPE.inputs(density=0.1).mask
    weight, options = SHAPE.inputs().weight, options_of(SHAPE)
    size = torch.Size(SHAPE.input_shape)
    choose_route(size, "nchw", weight, mask, options, False)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            choose_route(size, "nchw", weight, mask, options, False)
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 10e-6  # about 2 us here


def test_measuring_leaves_the_callers_state_alone() -> None:
    mask = SHAPE.inputs(density=0.1).mask
    weight = SHAPE.inputs().weight.requires_grad_()
    generator = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        choose_route(SHAPE.input_shape, "nchw", weight, mask, options_of(SHAPE), True)
    assert weight.grad is None
    assert torch.equal(torch.get_rng_state(), generator)


def test_nothing_is_measured_under_a_transform(cache: Path) -> None:
    x, weight, mask, _ = SHAPE.inputs(density=0.1)

    def loss(w: Tensor) -> Tensor:
        route = choose_route(x.shape, "nchw", w, mask, options_of(SHAPE), True)
        return run_route(route, x, w, mask, None, options_of(SHAPE)).sum()

    gradient = torch.func.grad(loss)(weight)
    assert torch.equal(gradient != 0, mask)
    assert not cache.exists()


# --- explain ------------------------------------------------------------------------------------


def test_explain_lists_the_masked_layers() -> None:
    model = nn.Sequential(
        MaskedConv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        MaskedConv2d(8, 8, 3, padding="same", padding_mode="reflect"),
    ).train()
    for layer in (model[0], model[3]):
        assert isinstance(layer, MaskedConv2d)
        layer.set_mask(random_mask(*layer.weight.shape, density=0.3))
    for training in (False, True):
        report = routes.explain(model, torch.randn(2, 4, 9, 9), training=training)
        assert [row.layer for row in report.rows] == ["0", "3"]
        assert report.rows[1].x_size == (2, 8, 11, 11)
        for row in report.rows:
            assert row.route.name in str(report)
            assert f"{row.route.times_us['dense']:.0f}" in str(report)
    assert model.training
    assert "no masked convolution" in str(routes.explain(nn.ReLU(), torch.ones(1)))


def test_default_cache_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from supertickets_ext._route_table import cache_file

    monkeypatch.delenv("SUPERTICKETS_ROUTE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "supertickets" / "routes.json"
    assert not os.path.lexists(tmp_path / "supertickets")
