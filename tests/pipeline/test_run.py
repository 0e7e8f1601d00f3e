"""The runner: skip the unchanged, redo the changed, go on after a kill with the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from supertickets.config import Recipe, load_recipe
from supertickets.errors import InputError, RunError
from supertickets.hashing import folder_hashes
from supertickets.run import run_stages, stage_states
from supertickets.stages import Stage, plan

TINY = [
    "model.options.width=4",
    "train.epochs=3",
    "jackpot.epochs=3",
    "jackpot.sparsities=[0.8]",
    "export.formats=[state-dict]",
    "export.if_installed=[]",
    "evaluate.timing_repeats=2",
    "threads=1",
]


class Kitchen:
    """Two small stages that count how often they work; ``second`` reads what ``first`` wrote."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.worked: list[str] = []
        self.news: list[str] = []
        self.flour = "white"
        self.options = {"first": {"size": 1}, "second": {"size": 2}}
        self.burn: BaseException | None = None

    def stages(self) -> list[Stage]:
        first = Stage(
            "first",
            "train",
            self.options["first"],
            (),
            self._first,
            outside=lambda: {"flour": self.flour},
        )
        second = Stage("second", "jackpot", self.options["second"], ("first",), self._second)
        return [first, second]

    def bake(self) -> list:
        return run_stages(self.run, Recipe(), self.stages(), log=self.news.append)

    def states(self) -> dict:
        return stage_states(self.run, Recipe(), self.stages())

    def _first(self, room) -> dict:
        self.worked.append("first")
        (room.folder / "dough").write_text(f"{self.flour} {self.options['first']['size'] % 10}")
        return {"size": self.options["first"]["size"]}

    def _second(self, room) -> dict:
        self.worked.append("second")
        room.checkpoint.mkdir(exist_ok=True)
        (room.checkpoint / "half").write_text("x")
        if self.burn is not None:
            raise self.burn
        (room.folder / "bread").write_text((room.run / "first" / "dough").read_text())
        return {"crumbs": 3}


@pytest.fixture
def kitchen(tmp_path) -> Kitchen:
    return Kitchen(tmp_path / "run")


def record_of(kitchen: Kitchen, stage: str) -> dict:
    return json.loads((kitchen.run / stage / "stage.json").read_text())


def test_record_says_how_the_figures_came_about(kitchen) -> None:
    kitchen.bake()
    record = record_of(kitchen, "second")
    assert record["schema"] == 1
    assert (record["stage"], record["kind"], record["status"]) == ("second", "jackpot", "done")
    assert record["config"] == {"size": 2}
    assert record["figures"] == {"crumbs": 3}
    assert record["inputs"] == {"first": record_of(kitchen, "first")["hash"]}
    assert record["outputs"].keys() == {"bread"}
    assert {"python", "torch", "supertickets"} <= record["versions"].keys()
    assert {"cpu", "cores", "threads", "instruction_set"} <= record["machine"].keys()
    assert record["peak_memory_bytes"] > 1_000_000
    assert record["wall_s"] >= 0
    assert record["seed"] == 0
    assert record["device"] == "cpu"
    assert load_recipe(kitchen.run / "recipe.yaml") == Recipe()


def test_nothing_but_the_result_is_left(kitchen) -> None:
    kitchen.bake()
    names = sorted(path.name for path in (kitchen.run / "second").iterdir())
    assert names == ["bread", "stage.json"]


def test_unchanged_stages_are_skipped_and_give_the_same_figures(kitchen) -> None:
    first = kitchen.bake()
    again = kitchen.bake()
    assert kitchen.worked == ["first", "second"]
    assert [outcome.skipped for outcome in again] == [True, True]
    assert [outcome.figures for outcome in again] == [outcome.figures for outcome in first]


def test_changed_option_is_named_and_the_old_result_is_kept(kitchen) -> None:
    kitchen.bake()
    kitchen.options["second"] = {"size": 5}
    kitchen.bake()
    assert kitchen.worked == ["first", "second", "second"]
    assert any("size was 2, is 5" in line for line in kitchen.news)
    assert (kitchen.run / ".previous" / "second" / "bread").is_file()


def test_changed_input_is_redone_as_far_as_results_change(kitchen) -> None:
    kitchen.bake()
    kitchen.flour = "rye"
    kitchen.bake()
    assert kitchen.worked == ["first", "second"] * 2
    kitchen.options["first"] = {"size": 11}  # another option, but the very same dough
    kitchen.bake()
    assert kitchen.worked == ["first", "second"] * 2 + ["first"]


@pytest.mark.parametrize("damage", ["change", "remove", "add"])
def test_damaged_result_is_made_again(kitchen, damage) -> None:
    kitchen.bake()
    bread = kitchen.run / "second" / "bread"
    if damage == "change":
        bread.write_text("toast")
    elif damage == "remove":
        bread.unlink()
    else:
        bread.with_name("mould").write_text("green")
    assert kitchen.states() == {"first": "done", "second": "redo"}
    kitchen.bake()
    assert kitchen.worked == ["first", "second", "second"]
    assert bread.read_text() == "white 1"
    assert not bread.with_name("mould").exists()


def test_damaged_record_is_made_again(kitchen) -> None:
    kitchen.bake()
    (kitchen.run / "first" / "stage.json").write_text('{"schema": 1, "sta')
    kitchen.bake()
    assert kitchen.worked == ["first", "second", "first"]


@pytest.mark.parametrize("end", [RunError("burnt"), KeyboardInterrupt()])
def test_broken_stage_has_no_record_and_goes_on_from_its_checkpoint(kitchen, end) -> None:
    kitchen.burn = end
    with pytest.raises(type(end)):
        kitchen.bake()
    assert not (kitchen.run / "second" / "stage.json").exists()
    assert kitchen.states() == {"first": "done", "second": "resume"}
    assert (kitchen.run / "second" / "checkpoint" / "half").is_file()
    kitchen.burn = None
    kitchen.bake()
    assert kitchen.worked == ["first", "second", "second"]
    assert record_of(kitchen, "second")["resumed"] is True
    assert not (kitchen.run / "second" / "checkpoint").exists()


def test_unfinished_stage_of_another_recipe_is_not_gone_on_with(kitchen) -> None:
    kitchen.burn = RunError("burnt")
    with pytest.raises(RunError):
        kitchen.bake()
    kitchen.burn, kitchen.options["second"] = None, {"size": 9}
    assert kitchen.states()["second"] == "redo"
    kitchen.bake()
    assert record_of(kitchen, "second")["resumed"] is False
    assert (kitchen.run / ".previous" / "second" / "checkpoint" / "half").is_file()


def test_states_touch_nothing_and_follow_what_a_stage_needs(kitchen) -> None:
    assert kitchen.states() == {"first": "new", "second": "new"}
    assert not kitchen.run.exists()
    kitchen.bake()
    kitchen.flour = "rye"
    before = folder_hashes(kitchen.run)
    assert kitchen.states() == {"first": "redo", "second": "redo"}
    assert folder_hashes(kitchen.run) == before


def test_missing_need_is_named(kitchen) -> None:
    with pytest.raises(RunError, match="stage second needs stage first"):
        run_stages(kitchen.run, Recipe(), kitchen.stages()[1:], log=kitchen.news.append)


def test_second_run_in_one_folder_is_refused(kitchen) -> None:
    refused = []

    def bake_inside(room) -> dict:
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            kitchen.bake()
        refused.append(room.folder)
        return {}

    stage = Stage("outer", "train", {}, (), bake_inside)
    run_stages(kitchen.run, Recipe(), [stage], log=kitchen.news.append)
    assert refused
    assert kitchen.worked == []


def test_plan_follows_the_recipe() -> None:
    names = [stage.name for stage in plan(load_recipe())]
    assert names == [
        "train",
        "jackpot-80",
        "jackpot-90",
        "jackpot-95",
        "jackpot-98",
        "export",
        "evaluate",
        "report",
    ]
    short = load_recipe(overrides=["evaluate.enabled=false", "jackpot.sparsities=[0.975]"])
    assert [stage.name for stage in plan(short)] == ["train", "jackpot-97.5", "export", "report"]
    assert [stage.name for stage in plan(short, last="jackpot")] == ["train", "jackpot-97.5"]


def test_options_without_effect_do_not_redo_a_stage() -> None:
    one, two = load_recipe(), load_recipe(overrides=["data.workers=2", "threads=1"])
    assert [s.config for s in plan(one)] == [s.config for s in plan(two)]


def test_users_images_and_weights_count_as_inputs(tmp_path) -> None:
    images = tmp_path / "images"
    (images / "cat").mkdir(parents=True)
    (images / "cat" / "1.png").write_bytes(b"1")
    recipe = load_recipe(overrides=["data.name=folder", f"data.path={images}"])
    stage = plan(recipe)[0]
    before = stage.outside()
    assert stage.outside() == before
    (images / "cat" / "2.png").write_bytes(b"22")
    assert stage.outside() != before
    gone = load_recipe(overrides=["data.name=folder", f"data.path={tmp_path / 'none'}"])
    with pytest.raises(InputError, match="found none at"):
        plan(gone)[0].outside()
    no_weights = load_recipe(overrides=[f"model.weights={tmp_path / 'w.pt'}"])
    with pytest.raises(InputError, match=r"model\.weights: .*w\.pt"):
        plan(no_weights)[0].outside()


def _command(runs: Path) -> list[str]:
    return [sys.executable, "-m", "supertickets", "jackpot", "--runs", str(runs), *TINY]


def _start(runs: Path) -> subprocess.Popen:
    return subprocess.Popen(_command(runs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill_when(process: subprocess.Popen, sign: Path) -> None:
    """Kill without warning as soon as a checkpoint is there."""
    deadline = time.monotonic() + 60
    while not sign.exists():
        assert process.poll() is None, f"ended before {sign} was there"
        assert time.monotonic() < deadline, f"no {sign} after a minute"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_run_ends_with_the_same_tickets(tmp_path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert _start(unbroken).wait() == 0
    run = broken / "digits"
    _kill_when(_start(broken), run / "train" / "checkpoint" / "last.pt")
    assert not (run / "train" / "stage.json").exists()
    _kill_when(_start(broken), run / "jackpot-80" / "checkpoint" / "search" / "last.pt")
    assert not (run / "jackpot-80" / "stage.json").exists()
    assert _start(broken).wait() == 0
    for stage in ("train", "jackpot-80"):
        mine, theirs = run / stage, unbroken / "digits" / stage
        assert folder_hashes(mine / "ticket") == folder_hashes(theirs / "ticket")
        figures = [json.loads((f / "stage.json").read_text())["figures"] for f in (mine, theirs)]
        assert _without_times(figures[0]) == _without_times(figures[1])


def _without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_times(value) for key, value in tree.items() if key != "seconds"}
    return [_without_times(value) for value in tree] if isinstance(tree, list) else tree
