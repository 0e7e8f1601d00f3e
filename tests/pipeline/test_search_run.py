"""Two-in-one search as a training: resumed across shrinks, saved, kept from collapse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from supertickets.config import load_recipe
from supertickets.data import ImageData, from_tensors
from supertickets.errors import InputError
from supertickets.evaluate import fingerprint, model_cost
from supertickets.search import SearchedTicket, TwoInOneConfig, find_ticket
from supertickets.search.find import check_is_ticket, retrain
from supertickets.search.masks import masked_convolutions_
from supertickets.seeds import generator
from supertickets.spaces import example_input
from supertickets.spaces.hrnet_net import drawn_blocks
from supertickets.stages import ticket_stage
from supertickets.ticket import Ticket
from supertickets.training import TrainConfig
from tests.pipeline.search_nets import CLASSES, OPTIONS, mobile, tiny

TRAINING: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 16,
    "optimizer": "adam",
    "lr": 0.02,
    "weight_decay": 1e-5,
    "schedule": "constant",
    "ema_decay": 0.9,
    "bn_recalibration_batches": 2,
}
SEARCH: dict[str, Any] = {
    "sparsity": 0.6,
    "prune_step": 0.2,
    "search_interval": 2,
    "prune_interval": 2,
    "rho": 0.5,
    "warmup_epochs": 0,
    "dead_gamma": 0.9,  # gammas start at 1: within a few steps some are below
    "min_dead_macs": 1,
    "min_atoms": 0.2,
}
_TIMES = ("seconds", "step_ms")


@pytest.fixture(autouse=True)
def _one_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes are chosen by measured times; bits are compared here, so one is given."""
    from supertickets_ext.nn import MaskedConv2d

    monkeypatch.setattr(MaskedConv2d, "route", "sparse")


def few_images() -> ImageData:
    rng = generator(0, "pixels")
    pixels = torch.randint(0, 256, (100, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return from_tensors(pixels, torch.arange(100) % CLASSES)


def search(
    folder: Path | None = None, *, log: Any = None, model: Any = None, **changes: Any
) -> SearchedTicket:
    return find_ticket(
        tiny() if model is None else model,
        few_images(),
        TwoInOneConfig(**{**SEARCH, **changes}),
        TrainConfig(**TRAINING),
        checkpoint=folder,
        progress=False,
        log=log,
    )


def rows(found: SearchedTicket) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in _TIMES} for row in found.history]


def test_a_search_removes_atoms_prunes_and_ends_as_a_ticket() -> None:
    found = search()
    kinds = [(event["epoch"], event["kind"]) for event in found.events]
    assert kinds == [(e, k) for e in (2, 4, 6) for k in ("search", "prune")]
    assert sum(event.get("removed", 0) for event in found.events) > 0
    layers = masked_convolutions_(found.model)
    weights = sum(layer.weight.numel() for layer in layers.values())
    assert sum(int(layer.mask.sum()) for layer in layers.values()) == weights - int(0.6 * weights)
    macs = [row["macs"] for row in found.history]
    assert macs == sorted(macs, reverse=True)
    assert macs[-1] == model_cost(found.model, example_input(1, (8, 8))).macs
    assert all(row["step_ms"] > 0 for row in found.history)
    assert found.blocks == {
        name: {int(k): n for k, n in atoms.items()}
        for name, atoms in drawn_blocks(found.model).items()
        if atoms
    }


@pytest.mark.parametrize("arm", ["main", "reuse", "reset"])
def test_a_killed_search_goes_on_across_a_shrink_to_the_same_bits(tmp_path: Path, arm: Any) -> None:
    whole = search(arm=arm)

    def killed(line: str) -> None:
        if line.startswith("epoch 4"):  # after the shrink of epoch 2, which a checkpoint holds
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, log=killed, arm=arm)
    resumed = search(tmp_path, arm=arm)
    assert any(event.get("removed") for event in whole.events if event["epoch"] == 2)
    assert rows(resumed) == rows(whole)
    assert resumed.events == whole.events
    assert fingerprint(resumed.model.state_dict()) == fingerprint(whole.model.state_dict())
    finished = search(tmp_path, arm=arm)  # nothing is left to do
    assert fingerprint(finished.model.state_dict()) == fingerprint(whole.model.state_dict())


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(InputError, match=r"a search with rho = 0\.5, here it is 0\.25"):
        search(tmp_path, rho=0.25)


def test_a_penalty_that_kills_everything_falls_on_the_floor() -> None:
    lines: list[str] = []
    found = search(log=lines.append, rho=1e4, dead_gamma=1e3)
    assert any("the penalty is too strong" in line for line in lines)
    atoms = sum(sum(block.values()) for block in found.blocks.values())
    start = found.history[0]["atoms"]
    assert 0.2 * start <= atoms < start
    assert found.model(torch.zeros(2, 1, 8, 8)).shape == (2, CLASSES)


def test_everything_may_vanish_if_it_is_asked_for() -> None:
    found = search(dead_gamma=1e3, min_atoms=0.0)
    assert found.blocks == {}
    assert found.model(torch.zeros(2, 1, 8, 8)).shape == (2, CLASSES)


def test_a_mobilenet_is_searched_too() -> None:
    found = search(model=mobile())
    assert found.history[-1]["atoms"] < found.history[0]["atoms"]
    check_is_ticket(found.model, TwoInOneConfig(**SEARCH))


def test_the_controller_steers_rho_towards_its_target() -> None:
    start = model_cost(tiny(), example_input(1, (8, 8))).macs
    above = search(rho=1e-3, search_interval=1, target_macs=start // 3, dead_gamma=1e-9)
    assert above.history[3]["rho"] > 1e-3  # nothing dies, so it is pressed harder
    below = search(rho=1e-3, search_interval=1, target_macs=start // 3)
    assert below.history[3]["rho"] < 1e-3  # more has died than the line asks for
    assert search(search_interval=1, target_macs=start).history[-1]["rho"] == 0


def test_retraining_keeps_masks_and_architecture() -> None:
    found = search()
    tuned, history = retrain(
        found.model, few_images(), TrainConfig(epochs=2, batch_size=16, lr=0.01)
    )
    assert len(history) == 2
    assert drawn_blocks(tuned) == drawn_blocks(found.model)
    before, after = masked_convolutions_(found.model), masked_convolutions_(tuned)
    assert all(torch.equal(before[name].mask, after[name].mask) for name in before)
    assert any(not torch.equal(before[name].weight, after[name].weight) for name in before)


def test_a_training_that_keeps_its_best_epoch_is_refused() -> None:
    config = TrainConfig(**{**TRAINING, "keep": "best"})
    with pytest.raises(InputError, match=r"train\.keep must be 'last'"):
        find_ticket(tiny(), few_images(), TwoInOneConfig(**SEARCH), config)


def test_the_command_writes_a_ticket_that_a_new_process_loads(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "ticket"
    often = {"search_interval": 1, "prune_interval": 1, "retrain_epochs": 1}
    keys = [f"ticket.{key}={value}" for key, value in {**SEARCH, **often}.items()]
    short = {**TRAINING, "epochs": 3, "batch_size": 128}
    keys += [f"train.{key}={value}" for key, value in short.items()]
    keys += ["model.space=hrnet"]
    keys += [f"model.options={json.dumps(OPTIONS)}", "data.name=digits"]
    command = [sys.executable, "-m", "supertickets", "ticket", "--recipe", "shapes-cls", "--json"]
    command += ["--runs", str(runs), "--out", str(out), *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["stages"][0]["figures"]
    assert [row["retrained"] for row in figures["rows"]] == [False, True]
    assert figures["prunable_density"] <= 0.4 + 1e-3
    again = Ticket.from_pretrained(out)
    assert again.architecture["options"]["blocks"] == figures["blocks"]
    assert again.metrics["effective_macs"] == figures["effective_macs"]
    masked = again.to_masked()
    assert drawn_blocks(masked) == figures["blocks"]
    cost = model_cost(masked, example_input(1, (8, 8)))
    assert (cost.macs, cost.effective_macs) == (figures["macs"], figures["effective_macs"])
    scored = subprocess.run(
        [sys.executable, "-m", "supertickets", "evaluate", str(out), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    found = json.loads(scored.stdout)
    assert found["test_accuracy"] == figures["test_accuracy"]
    assert found["same_as_recorded"] is True


@pytest.mark.parametrize("name", ["shapes-cls", "shapes-seg", "shapes-pose"])
def test_recipes_reach_their_sparsity(name: str) -> None:
    recipe = load_recipe(recipe=name)
    assert recipe.ticket.two_in_one().sparsity == 0.9
    assert ticket_stage(recipe).kind == "ticket"


@pytest.mark.parametrize("name", ["imagenet", "cityscapes", "ade20k", "coco"])
def test_paper_recipes_are_valid_and_dry_run(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "supertickets", "ticket", "--recipe", name, "--dry-run"]
    command += ["--device", "cpu", "--path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "two-in-one: would be done" in done.stdout


def test_a_net_whose_searched_form_no_ticket_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match="expected a net of the space hrnet"):
        ticket_stage(load_recipe(recipe="digits"))
