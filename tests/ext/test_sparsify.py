"""sparsify: the same function, by sparse calls, for many kinds of models; and its table."""

from __future__ import annotations

import copy
import importlib
import io
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

from supertickets_ext import _sparsify_measure
from supertickets_ext._min_cut import FOREVER, MinCut
from supertickets_ext.nn import MaskedConv2d, MaskedLinear
from supertickets_ext.sparse import SparseConv2d
from supertickets_ext.sparsify import sparsify
from tests.ext.pruned_models import MODELS, Branching, ResNetLike, build, image

# the package's attribute of this name is the function
sparsify_module = importlib.import_module("supertickets_ext.sparsify")


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make every contender run once, and win if its name has a word in it."""

    def use(word: str) -> None:
        whole = "dense" if word == "dense" else "sparse"
        monkeypatch.setattr(_sparsify_measure, "race", partial(favour, word))
        monkeypatch.setattr(sparsify_module, "race", partial(favour, whole))

    return use


def favour(
    word: str, calls: Mapping[str, Callable[[], Any]], budget_s: float = 0.0
) -> dict[str, float]:
    """Times as ``race`` gives them; conversions of the layout cost next to nothing."""
    for call in calls.values():
        call()
    return {name: 1.0 if word in name or name.startswith("to ") else 100.0 for name in calls}


def count(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def assert_same(model: nn.Module, result: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        expected, actual = model(*inputs), result(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


# --- the same function --------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8, 17])
@pytest.mark.parametrize("name", MODELS)
def test_function_stays_with_everything_sparse(
    name: str, batch: int, prefer: Callable[[str], None]
) -> None:
    prefer("sparse")
    model, x = build(name), image(batch)
    result = sparsify(model, x, verbose=False)
    convs = sum(1 for module in model.modules() if isinstance(module, nn.Conv2d))
    calls = {"sharing": convs + 1, "reading": convs - 1}.get(name, convs)  # one is read from
    assert count(result, SparseConv2d) == calls
    assert not result.training
    assert_same(model, result, x)


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("batch", [2, 17])
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "efficientnet", "densenet"])
def test_function_stays_on_either_side(
    name: str, batch: int, side: str, prefer: Callable[[str], None]
) -> None:
    prefer(f"{side} sparse")
    model, x = build(name), image(batch)
    result = sparsify(model, x, verbose=False)
    routes = {row.route for row in result.table}
    assert routes == {"sparse" if side == "B" else f"sparse, {'lanes' if batch > 7 else 'NCHW'}"}
    assert_same(model, result, x)


@pytest.mark.parametrize("name", MODELS)
def test_function_stays_as_measured(name: str) -> None:
    model, x = build(name), image(9)
    before = copy.deepcopy(model.state_dict())
    result = sparsify(model, x, verbose=False)
    assert_same(model, result, x)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_other_batches_and_sizes_work_too(prefer: Callable[[str], None]) -> None:
    prefer("A sparse")
    model = build("efficientnet")
    for example in (image(2), image(9)):
        result = sparsify(model, example, verbose=False)
        for x in (image(1), image(9), image(20), image(4, 33)):
            assert_same(model, result, x)


def test_two_inputs_and_a_dictionary(prefer: Callable[[str], None]) -> None:
    prefer("A sparse")
    model, inputs = build("two"), (image(9), image(9) + 1)
    result = sparsify(model, inputs, verbose=False)
    assert count(result, SparseConv2d) == 2
    assert_same(model, result, *inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, prefer: Callable[[str], None]) -> None:
    prefer("A sparse")
    model, x = build("mobilenet").to(dtype), image(9).to(dtype)
    result = sparsify(model, x, verbose=False)
    assert count(result, SparseConv2d) > 0
    exact = copy.deepcopy(model).double()(x.double())
    error = (result(x).double() - exact).norm() / exact.norm()
    assert error < 20 * torch.finfo(dtype).eps  # some ten layers, each rounds its output


def test_inputs_are_not_changed(prefer: Callable[[str], None]) -> None:
    prefer("A sparse")
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3))
    model[1].weight.data[:, 0] = 0
    x = image(9)
    kept = x.clone()
    sparsify(model, x, verbose=False)
    assert torch.equal(x, kept)


# --- fusion and layouts -------------------------------------------------------------------------


def graph_of(result: nn.Module) -> fx.Graph:
    assert isinstance(result, fx.GraphModule)
    return result.graph


def count_calls(result: nn.Module, module: str) -> int:
    return sum(n.op == "call_module" and n.target == module for n in graph_of(result).nodes)


def test_resnet_fuses_all_and_converts_once(prefer: Callable[[str], None]) -> None:
    prefer("A sparse")
    result = sparsify(build("resnet"), image(17), verbose=False)
    assert count(result, nn.BatchNorm2d) == count(result, nn.ReLU) == 0
    assert count_calls(result, "to_lanes") == 1
    assert count_calls(result, "to_channels_last") <= 1  # global pooling leaves lanes by itself
    assert not any("add" in str(node.target) for node in graph_of(result).nodes)


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_dense_layers_get_batch_norm_folded(name: str, prefer: Callable[[str], None]) -> None:
    prefer("dense")
    model = build(name)
    result = sparsify(model, image(3), verbose=False)
    assert count(result, SparseConv2d) == count(result, nn.BatchNorm2d) == 0
    assert not any("norm" in str(node.target) for node in graph_of(result).nodes)
    assert_same(model, result, image(3))


def test_pruned_filters_and_channels_take_the_compact_route(prefer: Callable[[str], None]) -> None:
    prefer("compact")
    model = build("resnet", density=1.0)
    first = model.get_submodule("layers.1.conv1")
    assert isinstance(first, nn.Conv2d)
    first.weight.data[1::3] = 0
    first.weight.data[:, 1::4] = 0
    result = sparsify(model, image(3), verbose=False)
    (row,) = [row for row in result.table if row.route == "compact"]
    assert (row.layer, row.structure) == ("layers.1.conv1", "filters+channels")
    assert_same(model, result, image(3))


# --- what may be in a model ---------------------------------------------------------------------


def test_model_without_zeros_stays() -> None:
    model = build("resnet", density=2.0)
    result = sparsify(model, image(3), verbose=False)
    assert type(result) is ResNetLike
    assert result is not model
    assert torch.equal(result(image(3)), model(image(3)))
    assert {row.why for row in result.table} == {"not pruned, and not measured"}
    assert "as it was" in str(result.table)


def test_masked_modules(prefer: Callable[[str], None]) -> None:
    prefer("sparse")
    model = nn.Sequential(MaskedConv2d(3, 8, 3), nn.Flatten(), MaskedLinear(8 * 18 * 18, 4))
    for layer in (model[0], model[2]):
        assert isinstance(layer, MaskedConv2d | MaskedLinear)
        layer.set_mask(torch.rand(layer.weight.shape) < 0.3)
    result = sparsify(model, image(3), verbose=False)
    assert count(result, SparseConv2d) == 1
    assert_same(model, result, image(3))


@pytest.mark.parametrize("name", ["resnet", "branching"])
def test_torch_pruning(name: str, prefer: Callable[[str], None]) -> None:
    prefer("sparse")
    model = build(name, density=2.0).train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.random_unstructured(module, "weight", 0.8)
    model(image(3))
    result = sparsify(model, image(3), verbose=False)
    assert model.training
    assert result.table[0].density == pytest.approx(0.2, abs=0.02)
    assert count(result, SparseConv2d) == len(result.table)
    assert_same(model.eval(), result, image(3))


def test_parametrized_weights(prefer: Callable[[str], None]) -> None:
    class Keep(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.where(weight > 0.02, 0)

    prefer("sparse")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    parametrize.register_parametrization(model[0], "weight", Keep())
    result = sparsify(model, image(3), verbose=False)
    assert count(result, SparseConv2d) == 1
    assert_same(model, result, image(3))


@pytest.mark.parametrize("where", ["conv", "model"])
def test_hooks_stay(where: str, prefer: Callable[[str], None]) -> None:
    prefer("sparse")
    model = build("resnet")
    target = model if where == "model" else model.get_submodule("layers.0.conv1")
    target.register_forward_hook(lambda module, inputs, output: output * 2)
    result = sparsify(model, image(9), verbose=False)
    assert count(result, SparseConv2d) == (8 if where == "model" else 7)
    assert_same(model, result, image(9))


def test_random_calls_are_left_to_the_model(prefer: Callable[[str], None]) -> None:
    class Noisy(Branching):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * random.random())

    prefer("sparse")
    model = Noisy()
    model.last.weight.data[::2] = 0
    result = sparsify(model.eval(), image(2), verbose=False)
    assert type(result) is Noisy
    assert count(result, SparseConv2d) == 0


def test_masks_by_name(prefer: Callable[[str], None]) -> None:
    prefer("sparse")
    model = build("resnet", density=2.0)
    name = "layers.1.conv2.weight"
    mask = torch.rand(model.get_parameter(name).shape) < 0.3
    result = sparsify(model, image(3), mask_from={name: mask}, verbose=False)
    (row,) = [row for row in result.table if row.density < 1]
    assert row.layer == "layers.1.conv2"
    model.get_parameter(name).data *= mask
    assert_same(model, result, image(3))


def test_result_can_be_saved_and_copied(prefer: Callable[[str], None]) -> None:
    prefer("A sparse")
    model = build("resnet")
    result = sparsify(model, image(9), verbose=False)
    file = io.BytesIO()
    torch.save(result, file)
    file.seek(0)
    assert_same(model, torch.load(file, weights_only=False), image(9))
    assert_same(model, copy.deepcopy(result), image(9))
    twin = sparsify(build("resnet", density=0.5), image(9), verbose=False)
    twin.load_state_dict(result.state_dict())
    assert_same(model, twin, image(9))


def test_wrong_arguments() -> None:
    model = build("resnet")
    with pytest.raises(TypeError, match=r"model must be nn\.Module, got int"):
        sparsify(3, image(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask_from must be 'zeros' or masks by name, got 'ones'"):
        sparsify(model, image(1), mask_from="ones")
    with pytest.raises(ValueError, match=r"mask_from names 'a\.weight'"):
        sparsify(model, image(1), mask_from={"a.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"the mask of fc\.weight must be bool \(5, 16\)"):
        sparsify(model, image(1), mask_from={"fc.weight": torch.ones(5, 16)})


# --- the table ----------------------------------------------------------------------------------


def test_table_names_every_layer_and_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = build("resnet")
    result = sparsify(model, image(9))
    printed = capsys.readouterr().out
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert [row.layer for row in result.table] == names
    for row, line in zip(result.table, printed.splitlines()[1:], strict=False):
        weight = model.get_parameter(f"{row.layer}.weight")
        assert row.density == pytest.approx(float((weight != 0).float().mean()))
        assert row.weight_size == weight.shape
        assert row.dense_us is not None
        assert row.dense_us > 0
        assert line.startswith(row.layer)
        assert row.route in line
        assert row.why in line
    assert {"before", "dense", "now"} <= set(result.table.times_us)
    assert "ms before" in printed.splitlines()[-1]


# --- the cut ------------------------------------------------------------------------------------


def brute_force(unary: list[tuple[int, int]], pairs: list[tuple[int, int, int]]) -> int:
    best = FOREVER
    for choice in range(1 << len(unary)):
        sides = [bool(choice >> i & 1) for i in range(len(unary))]  # True is side A
        cost = sum(a if side else b for side, (a, b) in zip(sides, unary, strict=True))
        cost += sum(c for i, j, c in pairs if sides[i] and not sides[j])
        best = min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(30))
def test_min_cut_is_the_least(seed: int) -> None:
    draw = random.Random(seed)
    unary = [(draw.randrange(20), draw.randrange(20)) for _ in range(8)]
    pairs = [
        (*draw.sample(range(8), 2), draw.choice([1, 5, 30])) for _ in range(draw.randrange(20))
    ]
    cut = MinCut()
    numbers = [cut.node(*costs) for costs in unary]
    for i, j, cost in pairs:
        cut.part(numbers[i], numbers[j], cost)
    sides = [cut.sides()[number] for number in numbers]
    cost = sum(a if side else b for side, (a, b) in zip(sides, unary, strict=True))
    cost += sum(c for i, j, c in pairs if sides[i] and not sides[j])
    assert cost == brute_force(unary, pairs)
