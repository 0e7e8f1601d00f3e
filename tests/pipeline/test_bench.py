"""The bench command, rehearsed at tiny sizes: on the CPU, and with the CUDA kernels on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import supertickets.bench.run as bench_run
from supertickets.bench import OPERATORS, Case, bench
from supertickets.cli import app
from supertickets.errors import InputError
from supertickets_ext import semi_structured
from tests.ext.backends import use_backend


@pytest.mark.parametrize("backend", ["cpu", "cuda_on_cpu"])
def test_rehearsal(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(backend, "bench", monkeypatch)
    out = tmp_path / "bench.json"
    run = CliRunner().invoke(app, ["bench", "--tiny", "--out", str(out), "--json"])
    assert run.exit_code == 0, run.output
    stored = json.loads(out.read_text())
    assert stored["rehearsal"] is True
    assert {row["operator"] for row in stored["rows"]} == set(OPERATORS) - {"semi_structured"}
    for row in stored["rows"]:
        assert row["speedup"] > 0
        assert row["gigabytes_per_s"] > 0
        for timing in (*row["ours"].values(), *row["rivals"].values()):
            assert 0 < timing["low_us"] <= timing["median_us"] <= timing["high_us"]
    assert {"cpu", "threads"} <= stored["machine"].keys()


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        raise AssertionError("differs")

    def timed() -> None:
        pytest.fail("was called")

    case = Case("topk_mask", "x", {"ours": timed}, {}, wrong, 1)
    monkeypatch.setattr(bench_run, "cases_of", lambda *_, **__: [case])
    with pytest.raises(AssertionError, match="differs"):
        bench("cpu", ["topk_mask"], tiny=True)


def test_bad_requests() -> None:
    with pytest.raises(InputError, match=r"op: must be one of topk_mask.*got 'conv'"):
        bench("cpu", ["conv"])
    if not torch.cuda.is_available():
        run = CliRunner().invoke(app, ["bench", "--device", "cuda"])
        assert run.exit_code == 2
        assert "finds no CUDA device" in run.output


HALF = torch.ones(32, 32, dtype=torch.float16)
FAULTS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((torch.ones(3),), ValueError, r"\[O, C\]"),
    ((torch.ones(4, 4, 3, 3),), ValueError, r"\(4, 4, 3, 3\)"),
    ((torch.ones(4, 4),), TypeError, "float16 or bfloat16"),
    ((HALF[:, :6],), ValueError, "multiple of 4, got 6"),
    ((HALF, HALF), TypeError, "mask must be bool"),
    ((HALF, HALF.bool()), ValueError, "at most two of every four"),
    ((HALF, HALF[1:].bool()), ValueError, r"got \(31, 32\)"),
    ((HALF,), ValueError, "compute capability 8.0"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), FAULTS)
def test_semi_structured_refuses(
    arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        semi_structured(*arguments)


@pytest.mark.gpu
def test_semi_structured_linear() -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no GPU with sparse tensor cores")
    bench("cuda", ["semi_structured"], tiny=True)  # checks before it times
