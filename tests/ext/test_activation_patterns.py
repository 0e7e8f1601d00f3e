"""Activation patterns: bits, exact count, distances, and the model left as it was."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supertickets_ext import (
    SaturationWarning,
    activation_patterns,
    count_patterns,
    hamming_gram,
    pack_signs,
    reference,
)
from tests.ext.cases import DTYPES

SPECIAL = torch.tensor([float("nan"), 0.0, -0.0, float("inf"), -float("inf"), 1e-7])

pytestmark = pytest.mark.usefixtures("backend")


def draw(rows: int, neurons: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, neurons, generator=generator)
    odd = torch.rand(rows, neurons, generator=generator) < 0.3
    picks = torch.randint(len(SPECIAL), (rows, neurons), generator=generator)
    values = torch.where(odd, SPECIAL[picks], values)
    if rows:
        values = values[torch.randint(rows, (rows,), generator=generator)]  # repeated rows
    return values.to(dtype)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 300), st.sampled_from(DTYPES), st.integers(0, 999))
def test_equal_to_the_twins(rows: int, neurons: int, dtype: torch.dtype, seed: int) -> None:
    values = draw(rows, neurons, dtype, seed)
    patterns = pack_signs(values)
    assert torch.equal(patterns, reference.pack_signs(values))
    assert torch.equal(hamming_gram(patterns), reference.hamming_gram(patterns))
    assert count_patterns(patterns, warn=False) == len({tuple(r) for r in (values > 0).tolist()})
    cut = neurons // 3
    assert torch.equal(pack_signs([values[:, :cut], values[:, cut:]]), patterns)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bits_follow_channels_rows_columns_in_any_layout(layout: torch.memory_format) -> None:
    x = torch.randn(5, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pack_signs(x.contiguous(memory_format=layout)), reference.pack_signs(x))


def test_identical_and_all_different_rows() -> None:
    row = pack_signs(torch.ones(1, 100))
    assert count_patterns(row.expand(50, -1)) == 1
    different = torch.arange(200).unsqueeze(1)
    with pytest.warns(SaturationWarning, match="all 200 samples"):
        assert count_patterns(different) == 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_patterns(different, warn=False) == 200


@pytest.mark.parametrize("words", [15, 16, 17, 35])
def test_rows_that_differ_in_one_bit_differ(words: int) -> None:
    rows = torch.randint(
        -(1 << 62), 1 << 62, (1, words), generator=torch.Generator().manual_seed(words)
    )
    rows = rows.repeat(64 * words, 1)
    bits = torch.arange(64 * words)
    flips = torch.ones((), dtype=torch.int64) << (bits % 64)
    rows[bits, bits // 64] ^= flips
    assert count_patterns(torch.cat([rows, rows[::3]]), warn=False) == len(rows)
    assert count_patterns(rows[:0], warn=False) == 0


def test_k_breakpoints_give_k_plus_one_regions() -> None:
    breaks = torch.tensor([-2.0, -0.7, 0.1, 0.4, 1.9])
    layer = nn.Conv2d(1, len(breaks), 1)
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.bias.copy_(-breaks)  # type: ignore[union-attr]
    x = torch.linspace(-3, 3, 500).reshape(-1, 1, 1, 1)
    patterns = activation_patterns(nn.Sequential(layer, nn.ReLU()), x)
    assert count_patterns(patterns) == len(breaks) + 1


class Mixed(nn.Module):
    """ReLU as module, as function and in place; the last one is 2-D and does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.drop, self.relu, self.head = nn.Dropout(0.5), nn.ReLU(), nn.Linear(3, 4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(self.conv(x))
        second = self.drop(self.relu(first)) - 0.5
        third = second * -2
        self.seen = [first.clone(), second.clone(), third.clone()]
        F.relu(second)
        return self.relu(self.head(F.relu(third, inplace=True).mean((2, 3))))


def test_modules_and_functions_count_and_the_model_stays_as_it_was() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    model.drop.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    patterns = activation_patterns(model, torch.randn(6, 2, 5, 5))
    assert torch.equal(patterns, pack_signs(model.seen))
    mean = model.seen[0].mean((0, 2, 3))
    assert mean.abs().max() < 1e-5, "batch norm takes the statistics of the batch"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_wide_net_on_large_inputs_is_saturated_and_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.warns(SaturationWarning, match="64 samples"):
        assert count_patterns(activation_patterns(model, x)) == 64


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    values = draw(700, 5001, torch.float32, 3)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        patterns = pack_signs(values)
        results.append((patterns, hamming_gram(patterns), count_patterns(patterns)))
    for patterns, gram, count in results[1:]:
        assert torch.equal(patterns, results[0][0])
        assert torch.equal(gram, results[0][1])
        assert count == results[0][2]


@pytest.mark.rules
def test_compile_and_vmap() -> None:
    patterns = pack_signs(torch.randn(4, 9, 70).flatten(0, 1)).reshape(4, 9, 2)
    expected = torch.stack([hamming_gram(p) for p in patterns])
    assert torch.equal(torch.func.vmap(hamming_gram)(patterns), expected)
    compiled = torch.compile(hamming_gram, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(patterns[0]), expected[0])


FAULTS: list[tuple[Any, Any, type[Exception], str]] = [
    (pack_signs, ([],), ValueError, "at least one"),
    (pack_signs, (torch.ones(3, 2).int(),), TypeError, "torch.int32"),
    (pack_signs, ([torch.ones(3, 2), torch.ones(4, 2)],), ValueError, r"\[3, ...\].*\(4, 2\)"),
    (count_patterns, (torch.ones(3, 2),), TypeError, "int64.*float32"),
    (hamming_gram, (torch.ones(3).long(),), ValueError, r"\[N, words\].*\(3,\)"),
    (activation_patterns, (nn.Linear(2, 2), torch.ones(3, 2)), ValueError, "ReLU on a 4-D"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "words"), FAULTS)
def test_bad_arguments(function: Any, arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        function(*arguments)
