"""A killed or interrupted training goes on and ends the same; what does not fit is refused."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from supertickets.errors import InputError, RunError
from supertickets.training import Callback, TrainConfig, TrainState, train
from supertickets.training.checkpoint import digest, snapshot
from tests.pipeline import training_job
from tests.pipeline.training_job import (
    RandomDrop,
    TinyLoader,
    checkpoint_digest,
    everything_on,
    make_net,
    score,
    without_times,
)

KILLS = 4
STEPS = 40 * 4


def start_job(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, training_job.__file__, "killable", str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Kill at once when ``ready``; the process must not have ended before."""
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, "the job ended before it was to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_kill_9_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    unbroken = start_job(tmp_path / "unbroken")
    folder = tmp_path / "killed"
    log = folder / "steps"
    moments = random.Random(7)
    for attempt in range(KILLS):
        done = log.stat().st_size if log.exists() else 0
        target = done + moments.randint(2, STEPS // KILLS - 8)
        process = start_job(folder)
        kill_when(process, lambda: log.exists() and log.stat().st_size >= target)  # noqa: B023
        assert not (folder / "outcome.json").exists(), attempt
    assert start_job(folder).wait() == 0
    assert unbroken.wait() == 0

    expected = json.loads((tmp_path / "unbroken/outcome.json").read_text())
    assert json.loads((folder / "outcome.json").read_text()) == expected
    assert expected["history"][-1]["dropped"] == STEPS
    assert log.stat().st_size >= STEPS, "the killed run did some steps twice"
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["last.pt"]


class Interrupt(Callback):
    """Presses Ctrl-C after a number of steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def step_end(self, state: TrainState) -> None:
        if state.step == self.after:
            raise KeyboardInterrupt


def run_once(
    folder: Path | None, config: TrainConfig, *, interrupt_after: int = -1, **options: Any
) -> tuple[nn.Module, RandomDrop, list[dict[str, float]]]:
    model, drop = make_net(dropout=0.3), RandomDrop()
    callbacks = [drop, Interrupt(interrupt_after)]
    result = train(
        model,
        TinyLoader(),
        config,
        evaluate=score,
        callbacks=callbacks,
        checkpoint=folder,
        **options,
    )
    return model, drop, without_times(result.history)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_ctrl_c_leaves_a_resumable_run(tmp_path: Path, optimizer: str, keep: str) -> None:
    config = everything_on(5, optimizer=optimizer, lr=0.01, keep=keep)
    model, drop, history = run_once(tmp_path / "unbroken", config)
    for step in (2, 4, 11, 16):  # in the first epoch, at an epoch's end, in later epochs
        with pytest.raises(KeyboardInterrupt):
            run_once(tmp_path / "broken", config, interrupt_after=step)
    again, drop_again, history_again = run_once(tmp_path / "broken", config)

    assert digest(again.state_dict()) == digest(model.state_dict())
    assert digest(drop_again.state_dict()) == digest(drop.state_dict())
    assert history_again == history
    assert checkpoint_digest(tmp_path / "broken") == checkpoint_digest(tmp_path / "unbroken")


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    config = everything_on(3)
    model, drop, history = run_once(tmp_path, config)
    written = (tmp_path / "last.pt").read_bytes()
    again, drop_again, history_again = run_once(tmp_path, config, interrupt_after=0)
    assert digest(again.state_dict()) == digest(model.state_dict())
    assert digest(drop_again.state_dict()) == digest(drop.state_dict())
    assert history_again == history
    assert (tmp_path / "last.pt").read_bytes() == written


def test_checkpoint_loads_without_pickled_code(tmp_path: Path) -> None:
    run_once(tmp_path, everything_on(2))
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert saved["identity"]["config"]["epochs"] == 2
    assert {"model", "optimizer", "ema", "kept", "callbacks"} <= saved["content"].keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, r"config.lr is 0.03 there and 0.5 here. Delete it"),
        ({"epochs": 3}, "config.epochs is 2 there and 3 here"),
        ({"lr": 0.5, "accumulate": 1, "ema_decay": 0.0, "clip_norm": 0.0}, "; and 1 more"),
    ],
)
def test_another_config_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run_once(tmp_path, everything_on(2))
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        run_once(tmp_path, everything_on(**{"epochs": 2, **changes}))
    assert str(tmp_path / "last.pt") in str(caught.value)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_everything_that_decides_the_result_is_compared(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, lr=0.03)

    def go(model: nn.Module, loader: TinyLoader, **options: Any) -> None:
        head = list(model[5].parameters())  # type: ignore[index]
        train(model, loader, config, checkpoint=tmp_path, **{"parameters": head, **options})

    go(make_net(), TinyLoader())
    with pytest.raises(InputError, match="seed is 0 there and 4 here"):
        go(make_net(), TinyLoader(), seed=4)
    with pytest.raises(InputError, match="samples is 52 there and 50 here"):
        go(make_net(), TinyLoader(50))
    with pytest.raises(InputError, match=r"frozen_sha256 is '.* there and '.* here"):
        go(make_net(seed=1), TinyLoader())
    with pytest.raises(InputError, match=r"model.1.weight is 'float32\[6\]' there and absent here"):
        go(make_net(bn=False), TinyLoader())
    with pytest.raises(InputError, match=r"trained is \['5.weight', '5.bias'\] there"):
        go(make_net(), TinyLoader(), parameters=None)
    with pytest.raises(InputError, match=r"callbacks is \[\] there and \['random-drop'\] here"):
        go(make_net(), TinyLoader(), callbacks=[RandomDrop()])


def flip_a_weight(content: bytes, value: torch.Tensor) -> bytes:
    at = content.index(value.numpy().tobytes())
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", ["truncated", "empty", "bit", "foreign"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    config = TrainConfig(epochs=1)
    path = tmp_path / "last.pt"
    model, _, _ = run_once(tmp_path, config)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "bit":
        path.write_bytes(flip_a_weight(content, model.get_parameter("5.weight").detach()))
    else:
        torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"last\.pt is (damaged|not of the format).* Delete it"):
        run_once(tmp_path, config)


def test_a_pickled_object_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"format": "supertickets-training-1", "content": Trap()}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="damaged"):
        run_once(tmp_path, TrainConfig(epochs=1))
    assert not (tmp_path / "sprung").exists()


def test_a_half_written_file_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.abc123.part").write_bytes(b"half")
    run_once(tmp_path, TrainConfig(epochs=1))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    config = everything_on(3)
    with pytest.raises(KeyboardInterrupt):
        run_once(tmp_path, config, interrupt_after=5)
    before = (tmp_path / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"last\.pt cannot be written \(.*is the disk full"):
            run_once(tmp_path, config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_state_that_could_not_be_loaded_safely_is_named(tmp_path: Path) -> None:
    class Numpy(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"best": [np.float64(0.5)]}

    with pytest.raises(InputError, match=r"callbacks\['Numpy'\]\['best'\]\[0\].*got numpy.float64"):
        train(
            make_net(),
            TinyLoader(),
            TrainConfig(epochs=1),
            callbacks=[Numpy()],
            checkpoint=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_digest_sees_every_part() -> None:
    base = {"a": torch.zeros(2, 3), "b": [1, 2.0, None, "x"], 0: True}
    variants = [
        {**base, "a": torch.zeros(3, 2)},
        {**base, "a": torch.zeros(2, 3, dtype=torch.int32)},
        {**base, "a": torch.tensor([[0, 0, 0], [0, 0, -0.0]])},
        {**base, "b": [1, 2, None, "x"]},
        {**base, 0: False},
        {"a": base["a"], "b": base["b"]},
    ]
    assert len({digest(value) for value in [base, *variants]}) == 7
    assert digest(snapshot(base)) == digest(base)
    assert digest({"e": torch.empty(0, 4)}) != digest({"e": torch.empty(4, 0)})


def test_snapshot_shares_no_memory() -> None:
    tensor = torch.zeros(3)
    copied = snapshot({"t": (tensor, [tensor])})
    tensor += 1
    assert isinstance(copied["t"], tuple)
    assert copied["t"][0].sum() == 0
    assert copied["t"][1][0].sum() == 0
