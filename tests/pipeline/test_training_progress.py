"""What a user sees of a training: a bar on a terminal, event files on request."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from supertickets.errors import RunError
from supertickets.training import TrainConfig, progress_bar, train
from tests.pipeline.training_job import TinyLoader, make_net, score

SHOW = """
from supertickets.training import TrainConfig, train
from tests.pipeline.training_job import TinyLoader, make_net, score
train(make_net(), TinyLoader(), TrainConfig(epochs=2, lr=0.05), evaluate=score,
      label="dense [digits]", progress={progress})
"""


OTHER = """
from supertickets.training import progress_bar
with progress_bar("anything", 3) as bar:
    bar.advance()
"""


def on_a_terminal(code: str, **changes: str) -> str:
    """Run code with a pseudo-terminal of its own and give what it showed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "140"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment, "TERM": "xterm", **changes},
        cwd=Path(__file__).resolve().parents[2],
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = io.BytesIO()
    try:
        while block := os.read(ours, 4096):
            shown.write(block)
    except OSError:  # Linux's way of saying that the other end is closed
        pass
    os.close(ours)
    text = shown.getvalue().decode()
    assert process.wait() == 0, text
    return text


def test_a_terminal_shows_epoch_loss_metric_and_time_left() -> None:
    shown = on_a_terminal(SHOW.format(progress=True))
    for part in (
        "dense [digits]",
        "14/14",
        "epoch 2/2",
        "loss 0.",
        "validation accuracy 0.",
        "0:00:00",
    ):
        assert part in shown


def test_silence_when_asked_for_or_outside_the_main_process() -> None:
    assert on_a_terminal(SHOW.format(progress=False)) == ""
    assert on_a_terminal(OTHER, RANK="1", WORLD_SIZE="2") == ""


def test_silence_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    train(make_net(), TinyLoader(), TrainConfig(epochs=1, lr=0.05), evaluate=score)
    with progress_bar("anything", 3) as bar:
        bar.advance(2)
        bar.show(loss=0.5)
    assert capfd.readouterr() == ("", "")


def test_tensorboard_gets_the_figures_of_every_epoch(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs supertickets[track]"
    )
    config = TrainConfig(epochs=3, lr=0.05)
    result = train(make_net(), TinyLoader(), config, evaluate=score, tensorboard=tmp_path)
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    points = events.Scalars("validation_accuracy")
    assert [point.step for point in points] == [7, 14, 21]
    expected = [row["validation_accuracy"] for row in result.history]
    assert [point.value for point in points] == pytest.approx(expected, rel=1e-6)


def test_a_missing_tensorboard_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RunError, match=r"pip install 'supertickets\[track\]'"):
        train(make_net(), TinyLoader(), TrainConfig(epochs=1, lr=0.05), tensorboard=tmp_path)
