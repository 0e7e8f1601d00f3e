"""The command line as a user meets it: results, one-line errors, exit codes, nothing left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import supertickets
from supertickets.cli import app
from supertickets.config import load_recipe
from supertickets.data import DataConfig, load_data
from supertickets.ticket import Ticket

COMMANDS = ["run", "train", "jackpot", "transfer", "evaluate", "export", "report", "doctor"]
TINY = [
    "model.options.width=4",
    "train.epochs=2",
    "jackpot.epochs=1",
    "jackpot.sparsities=[0.8]",
    "export.formats=[state-dict]",
    "export.if_installed=[]",
    "evaluate.timing_repeats=2",
    "threads=1",
]


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: str | Path) -> dict[str, Any]:
    """Call with --json and read the answer; it alone stands on standard output."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of runs in which the tiny main job has been done."""
    folder = tmp_path_factory.mktemp("runs")
    result = call("run", "--runs", folder, *TINY)
    assert result.exit_code == 0, result.stderr
    (folder / "said.txt").write_text(result.stdout)
    return folder


@pytest.fixture
def ticket(runs) -> Path:
    return runs / "digits" / "jackpot-80" / "ticket"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_option_and_its_default(command) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    text = re.sub(r"[\s│]+", " ", result.stdout)
    if command != "doctor":
        assert "[default: runs]" in text
        assert "[default: digits]" in text
        assert "(from the recipe)" in text


def test_help_without_a_command_and_version() -> None:
    assert all(command in call().stdout + call().stderr for command in COMMANDS)
    assert call("--version").stdout.strip() == supertickets.__version__


def test_importing_the_command_does_not_wait_for_torch() -> None:
    code = "import sys, supertickets.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_main_job_ends_with_what_was_found_and_where(runs) -> None:
    lines = (runs / "said.txt").read_text().splitlines()
    assert len(lines) == 5
    assert "test images, seed 0" in lines[0]
    assert lines[1].startswith("jackpot, weights untouched")
    assert lines[2].startswith("magnitude, batch norm re-estimated")
    assert lines[3].startswith("exact MACs, density")
    assert str(runs / "digits" / "report.html") in lines[4]
    page = (runs / "digits" / "report.html").read_text()
    assert "</html>" in page


def test_second_run_skips_everything_and_says_the_same(runs) -> None:
    result = call("run", "--runs", runs, *TINY)
    assert result.exit_code == 0
    assert result.stdout == (runs / "said.txt").read_text()
    assert result.stderr.count("unchanged, skipped") == 5


def test_json_of_the_main_job(runs) -> None:
    given = answer("run", "--runs", runs, *TINY)
    assert [stage["stage"] for stage in given["stages"]] == [
        "train",
        "jackpot-80",
        "export",
        "evaluate",
        "report",
    ]
    figures = {stage["stage"]: stage["figures"] for stage in given["stages"]}
    rows = {row["name"]: row for row in figures["jackpot-80"]["rows"]}
    names = {"dense", "jackpot", "random-start", "magnitude-bn", "magnitude", "random"}
    assert rows.keys() == names
    assert not any(row["retrained"] for row in rows.values())
    assert rows["dense"]["test_accuracy"] == figures["train"]["test_accuracy"]
    assert [row["same_as_recorded"] for row in figures["evaluate"]["rows"]] == [True] * 2
    exported = figures["export"]["files"][0]
    assert (runs / "digits" / exported["path"]).stat().st_size == exported["bytes"]
    assert figures["jackpot-80"]["ticket_bytes"] < figures["jackpot-80"]["dense_bytes"]


def test_dry_run_touches_nothing_and_prints_a_recipe_that_can_be_used(tmp_path) -> None:
    runs, file = tmp_path / "runs", tmp_path / "recipe.yaml"
    result = call("run", "--runs", runs, "--seed", "7", "--dry-run", *TINY)
    assert result.exit_code == 0
    assert not runs.exists()
    assert "# jackpot-80: would be done" in result.stdout
    file.write_text(result.stdout)
    assert load_recipe(file) == load_recipe(overrides=["seed=7", *TINY])


def test_dry_run_tells_what_would_be_skipped(runs) -> None:
    given = answer("run", "--runs", runs, "--dry-run", *TINY, "jackpot.lr=0.05")
    states = {stage["stage"]: stage["state"] for stage in given["stages"]}
    assert states["train"] == "done"
    assert states["jackpot-80"] == "redo"
    assert states["report"] == "redo"


def test_evaluate_a_ticket_on_its_own_data(ticket) -> None:
    given = answer("evaluate", ticket)
    assert given["same_as_recorded"] is True
    assert given["test_accuracy"] == Ticket.from_pretrained(ticket).metrics["test_accuracy"]
    assert given["median_us"] > 0
    lines = call("evaluate", ticket).stdout.splitlines()
    assert "as recorded" in lines[0]
    assert "MACs" in lines[1]


def test_a_ticket_says_how_pixels_reach_it(ticket) -> None:
    pixels = load_data(DataConfig()).normalisation
    for folder in (ticket, ticket.parents[1] / "train" / "ticket"):
        said = Ticket.from_pretrained(folder).provenance["normalisation"]
        assert said == {"mean": list(pixels.mean), "std": list(pixels.std)}


def test_evaluate_on_other_data_compares_with_nothing(ticket) -> None:
    given = answer("evaluate", ticket, "data.split_seed=5")
    assert given["recorded_accuracy"] is None
    assert given["same_as_recorded"] is None


def test_looking_at_a_run_keeps_its_recipe(runs) -> None:
    given = answer("evaluate", "--runs", runs)
    assert [stage["skipped"] for stage in given["stages"]] == [True] * 4
    dry = answer("export", "--runs", runs, "--format", "onnx", "--dry-run")
    states = {stage["stage"]: stage["state"] for stage in dry["stages"]}
    assert states == {"train": "done", "jackpot-80": "done", "export": "redo"}


def test_export_a_ticket(ticket, tmp_path) -> None:
    given = answer("export", ticket, "--format", "state-dict", "--out", tmp_path / "files")
    (row,) = given["files"]
    tensors = load_file(tmp_path / "files" / row["path"])
    dense = Ticket.from_pretrained(ticket).to_dense().state_dict()
    assert tensors.keys() == dense.keys()
    assert all(torch.equal(tensors[key], dense[key]) for key in dense)


def test_report_writes_the_page_again(runs) -> None:
    page = runs / "digits" / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert answer("report", runs / "digits")["page"] == str(page)
    assert page.read_bytes() == before


def test_jackpot_in_a_ticket_is_saved_where_it_was_asked_for(runs, tmp_path) -> None:
    dense, out = runs / "digits" / "train" / "ticket", tmp_path / "sparse"
    options = ["--runs", tmp_path / "runs", "--sparsity", "0.7", "--out", out, "jackpot.epochs=1"]
    given = answer("jackpot", dense, *options)
    assert [stage["stage"] for stage in given["stages"]] == ["jackpot-70"]
    found, source = Ticket.from_pretrained(out), Ticket.from_pretrained(dense)
    assert found.architecture == source.architecture
    key, mask = next(iter(found.masks.items()))
    assert torch.equal(found.tensors[key][mask], source.tensors[key][mask])


def test_a_folder_of_other_things_is_refused_before_any_work(runs, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"dear")
    dense = runs / "digits" / "train" / "ticket"
    options = ["--runs", tmp_path / "runs", "--sparsity", "0.7", "--out", tmp_path / "photos"]
    result = call("jackpot", dense, *options)
    assert result.exit_code == 2
    assert "photos: the folder holds other things (me.png)" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_jackpot_in_a_state_dict(runs, tmp_path) -> None:
    dense = Ticket.from_pretrained(runs / "digits" / "train" / "ticket")
    save_file(dense.tensors, tmp_path / "w.safetensors")
    given = answer(
        "jackpot",
        *("--model", "digits", "--weights", tmp_path / "w.safetensors", "--runs", tmp_path),
        *("--sparsity", "0.7", "model.options.width=4", "jackpot.epochs=1"),
    )
    assert [stage["stage"] for stage in given["stages"]] == ["jackpot-70"]
    rows = given["stages"][0]["figures"]["rows"]
    assert rows[0]["test_accuracy"] == dense.metrics["test_accuracy"]
    assert given["run"] == str(tmp_path / "digits-w")


def test_a_users_own_network_all_the_way(tmp_path, monkeypatch) -> None:
    source = "from torch import nn\n" + (
        "def build(num_classes, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(36 * width, num_classes))\n"
    )
    (tmp_path / "my_net_for_cli.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    tiny = [override for override in TINY if not override.startswith("model.")]
    own = ["--model", "my_net_for_cli:build"]
    options = ["name=own", "model.options.width=6", "jackpot.sparsities=[0.5]"]
    given = answer("jackpot", *own, *tiny, *options)
    assert given["run"] == "runs/own"
    ticket = "runs/own/jackpot-50/ticket"
    assert answer("evaluate", ticket, *own)["same_as_recorded"] is True
    refused = call("evaluate", ticket)
    assert refused.exit_code == 2
    assert "--model my_net_for_cli:build" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "jackpot.epoch=5"], "unknown key 'jackpot.epoch'; did you mean 'jackpot.epochs'"),
        (["run", "train.lr=fast"], "train.lr: expected a valid number"),
        (["run", "nonsense"], "expected key=value, got 'nonsense'"),
        (["run", "--config", "no.yaml"], "found none at 'no.yaml'"),
        (["run", "--recipe", "digit"], "did you mean 'digits'"),
        (["run", "--device", "cuda:99"], "device: "),
        (["run", "--threads", "100000"], "threads: expected less than or equal to 1024"),
        (["run", "--data", "folder", "--path", "no/such"], "found none at no/such"),
        (["run", "--model", "resnet21"], "no plain net 'resnet21'"),
        (["train", "--weights", "no.safetensors"], "found none at no.safetensors"),
        (["jackpot", "--sparsity", "1.5"], "each sparsity must be in [0, 1), got 1.5"),
        (["jackpot", "no/ticket/here"], "ticket no/ticket/here"),
        (["evaluate", "one", "two"], "got 'two'"),
        (["evaluate", "no-ticket"], "ticket no-ticket"),
        (["export", "--format", "onxx"], "'onxx'"),
        (["report", "no/run"], "no/run"),
    ],
)
def test_bad_input_is_one_clear_line_and_code_2(arguments, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_error_as_json(tmp_path) -> None:
    result = call("run", "--runs", tmp_path, "seed=x", "--json")
    assert result.exit_code == 2
    assert "seed" in json.loads(result.stdout)["error"]


def test_debug_shows_the_traceback(tmp_path) -> None:
    result = call("run", "--runs", tmp_path, "seed=x", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = call("run", "--runs", tmp_path / "file", *TINY)
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.stderr
    assert "Traceback" not in result.stderr


def test_damaged_ticket_is_refused(ticket, tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        content = (ticket / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    result = call("evaluate", tmp_path)
    assert result.exit_code == 2
    assert "config.json is damaged" in result.stderr


def test_ticket_of_other_classes_is_refused(ticket, tmp_path) -> None:
    other = Ticket.from_pretrained(ticket)
    other.class_names = ("cat", "dog", *other.class_names[2:])
    other.save_pretrained(tmp_path / "other")
    result = call("evaluate", tmp_path / "other")
    assert result.exit_code == 2
    assert "cat, dog" in result.stderr


def test_interrupt_leaves_a_run_that_goes_on(tmp_path) -> None:
    command = [sys.executable, "-m", "supertickets", "train", "--runs", str(tmp_path)]
    command += ["train.epochs=500", "model.options.width=4", "threads=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "digits" / "train" / "checkpoint" / "last.pt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted in stage train" in told
    assert "go on with the same command: supertickets train" in told
    assert "Traceback" not in told
    assert checkpoint.exists()
    dry = answer("train", "--runs", tmp_path, "--dry-run", *command[6:])
    assert dry["stages"] == [{"stage": "train", "state": "resume"}]


def test_tensorboard_has_the_curves_and_no_effect_on_what_is_found(tmp_path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs supertickets[track]"
    )
    options = ["jackpot", "--runs", tmp_path, *TINY, "jackpot.epochs=2"]
    given = answer(*options, "--tensorboard")
    train, jackpot = (stage["figures"] for stage in given["stages"])
    curves = {
        "train/tensorboard": train["history"],
        "jackpot-80/tensorboard/search": jackpot["history"],
        "jackpot-80/tensorboard/random-start": jackpot["history_random_start"],
    }
    for folder, history in curves.items():
        events = reader.EventAccumulator(str(tmp_path / "digits" / folder)).Reload()
        points = [point.value for point in events.Scalars("validation_accuracy")]
        assert points == pytest.approx([row["validation_accuracy"] for row in history], rel=1e-6)
    assert all(stage["skipped"] for stage in answer(*options)["stages"])


def test_nothing_is_drawn_without_a_terminal(tmp_path) -> None:
    command = [sys.executable, "-m", "supertickets", "train", "--runs", str(tmp_path), *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 3
    assert len(done.stdout.splitlines()) == 2


def test_doctor_finds_a_sound_installation() -> None:
    result = call("doctor", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["healthy"]
    tested = {check["name"] for check in found["checks"]}
    assert {"masked_conv2d", "topk_mask", "global_topk_mask", "update_topk_mask_"} <= tested
    assert found["facts"]["torch"] == torch.__version__


def test_doctor_names_what_is_wrong_and_the_remedy() -> None:
    command = [sys.executable, "-m", "supertickets", "doctor"]
    environment = {**os.environ, "SUPERTICKETS_ISA": "mmx"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAILED extension" in done.stdout
    assert "SUPERTICKETS_ISA must be one of" in done.stdout
    assert "--no-build-isolation" in done.stdout
