"""Two real processes, started by torchrun on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from supertickets.errors import InputError
from supertickets.training import is_main_process, join_group, rank, train, world_size
from tests.pipeline import training_job
from tests.pipeline.training_job import TinyLoader, distributed_config, make_net, score


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two processes left what came out of every distributed job."""
    folder = tmp_path_factory.mktemp("distributed")
    launch(2, training_job.__file__, "distributed", str(folder), cwd=folder)
    return folder


def launch(processes: int, *job: str, cwd: Path) -> str:
    """Have torchrun carry out a job to its good end; give what it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}", *job]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def outcomes(folder: Path, name: str) -> list[Any]:
    return [torch.load(folder / f"{name}-{r}.pt", weights_only=True) for r in range(2)]


def test_two_processes_equal_one_with_the_same_global_batch(launched: Path) -> None:
    first, second = outcomes(launched, "first")
    alone = make_net(bn=False)
    loader = TinyLoader(53, batch_size=12)
    result = train(alone, loader, distributed_config(), evaluate=score)

    for name, tensor in alone.state_dict().items():
        assert torch.equal(first["model"][name], second["model"][name]), name
        # The same sums in another order, over 12 float32 steps.
        torch.testing.assert_close(first["model"][name], tensor, rtol=1e-4, atol=1e-6)
    for row, expected in zip(first["history"], result.history, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["validation_accuracy"] == expected["validation_accuracy"]


def test_all_processes_agree_on_the_main_ones_figures(launched: Path) -> None:
    first, second = outcomes(launched, "first")
    assert first["history"] == second["history"]
    assert first["best_epoch"] == second["best_epoch"] is not None


def test_only_the_main_process_writes_and_all_resume(launched: Path) -> None:
    assert [path.name for path in (launched / "checkpoint").iterdir()] == ["last.pt"]
    for before, again in zip(
        outcomes(launched, "first"), outcomes(launched, "resumed"), strict=True
    ):
        assert again["history"] == before["history"]
        assert all(torch.equal(again["model"][k], v) for k, v in before["model"].items())


@pytest.mark.parametrize("name", ["bn", "bn-recalibrated"])
def test_batch_norm_and_an_own_loss_end_equal_on_both(launched: Path, name: str) -> None:
    first, second = outcomes(launched, name)
    assert all(torch.equal(first[key], second[key]) for key in first)
    start = make_net(seed=0).state_dict()
    assert not torch.equal(first["taken.0.weight"], start["0.weight"])
    assert not torch.equal(first["taken.1.running_mean"], start["1.running_mean"])


def test_unequal_numbers_of_batches_are_refused_everywhere(launched: Path) -> None:
    for r in range(2):
        assert (launched / f"error-{r}").read_text().endswith("got [2, 4] by rank")


OWN_NET = """
from torch import nn

def make(num_classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""


def test_the_command_shares_each_batch_out_over_two_processes(tmp_path: Path) -> None:
    (tmp_path / "own_net.py").write_text(OWN_NET)
    figures = {}
    for processes in (1, 2):
        options = ["--model=own_net:make", f"--name=by-{processes}", "--json", "train.lr=0.01"]
        for stage in ("train", "jackpot"):
            options += [f"{stage}.epochs=2", f"{stage}.batch_size={64 // processes}"]
        command = ["-m", "supertickets", "jackpot", "--sparsity=0.5", *options]
        answer = json.loads(launch(processes, *command, cwd=tmp_path))
        figures[processes] = {stage["kind"]: stage["figures"] for stage in answer["stages"]}
    for kind in ("train", "jackpot"):
        alone, together = (figures[n][kind]["history"] for n in (1, 2))
        for row, expected in zip(together, alone, strict=True):
            # Without batch norm only the order of the sums differs.
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)


THREADS = """
import atexit
import sys
from pathlib import Path

def threads():
    return sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())

atexit.register(lambda: Path(f"threads-{rank()}").write_text("\\n".join(threads())))  # runs last

import torch
from supertickets.training import join_group
from supertickets.training.distributed import from_all, rank

number = rank()
join_group("cpu")
import torch._dynamo
assert from_all(number) == [0, 1]
assert any("gloo" in name for name in threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux only")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    # torch imports its compiler when it is first needed, and with it what may hold the group
    (tmp_path / "job.py").write_text(THREADS)
    launch(2, "job.py", cwd=tmp_path)
    for number in range(2):
        assert "gloo" not in (tmp_path / f"threads-{number}").read_text()


def test_two_processes_search_as_one_does(tmp_path: Path) -> None:
    search = ["-m", "supertickets", "rank", "search", "--fast", "--ntk-batch=4", "--workers=1",
              "rank.region_samples=100", "--json"]  # fmt: skip
    figures = []
    for processes in (1, 2):
        runs = f"--runs={tmp_path / str(processes)}"
        answer = json.loads(launch(processes, *search, runs, cwd=tmp_path))
        figures.append(answer["stages"][0]["figures"])
    alone, together = figures
    assert together["measured"] == 116
    assert together["arch"] == alone["arch"]
    assert together["rounds"] == alone["rounds"]


def test_a_process_alone_is_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # a leftover without a rank means nothing
    assert (rank(), world_size(), is_main_process()) == (0, 1, True)
    assert join_group("cpu") == torch.device("cpu")


def test_the_launcher_is_heard_before_the_group_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), world_size(), is_main_process()) == (3, 4, False)
    monkeypatch.setenv("RANK", "three")
    with pytest.raises(InputError, match="RANK must be a whole number, got 'three'"):
        rank()


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="device must be 'cpu' or 'cuda', got 'gpu'"):
        join_group("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device 'cuda': this PyTorch finds no CUDA device"):
            join_group("cuda")
