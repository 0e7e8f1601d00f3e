"""Routes: the choice, what it remembers and where, and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.shapes import ConvShape
from supertickets_ext import _kept, _route_cases, routes
from supertickets_ext._conv_options import ConvOptions, conv_options
from supertickets_ext.nn import MaskedConv2d
from supertickets_ext.routes import Route, choose_route, run_route


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache file, and a process that knows nothing."""
    path = tmp_path / "cache" / "routes.json"
    monkeypatch.setenv("SUPERTICKETS_ROUTE_CACHE", str(path))
    monkeypatch.setattr(_route_cases.table, "_times", {})
    monkeypatch.setattr(_route_cases.table, "_read", None)
    _kept._kept.clear()
    return path


def options_of(shape: ConvShape) -> ConvOptions:
    return conv_options(
        "test", shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups
    )


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
    _kept._kept.clear()
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


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "lanes"])
def test_every_layout_is_timed_by_itself(cache: Path, layout: str, training: bool) -> None:
    mask, weight = SHAPE.inputs(density=0.1).mask, SHAPE.inputs().weight
    route = choose_route((9, 16, 8, 8), layout, weight, mask, options_of(SHAPE), training)
    assert min(route.times_us.values()) > 0
    (key,) = stored(cache)
    assert layout in key.split(", ")


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
    assert len(_kept._kept) == 1
    del mask
    assert len(_kept._kept) == 0


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
        layer.set_mask(torch.rand(layer.weight.shape) < 0.3)
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


@pytest.mark.parametrize("training", [False, True])
def test_a_mask_that_keeps_nothing_is_timed_and_has_gradients(cache: Path, training: bool) -> None:
    layer = MaskedConv2d(3, 4, 3, padding=1)
    layer.set_mask(torch.zeros_like(layer.mask))
    with torch.set_grad_enabled(training):
        y = layer(torch.randn(2, 3, 6, 6))
    assert y.requires_grad == training
    if training:
        y.sum().backward()
        assert not layer.weight.grad.any()
        assert layer.bias.grad.eq(2 * 36).all()
