"""The report: what it says of good, bad, partial and malformed runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from supertickets.errors import InputError
from supertickets.report import write_report
from tests.pipeline.report_run import (
    RATES,
    edit,
    jackpot_figures,
    make_run,
    outline,
    read,
    set_accuracy,
    stage,
    words,
    write_stage,
)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "digits")


def test_the_headline_is_the_sparsest_jackpot_near_dense(run_folder: Path) -> None:
    assert outline(read(run_folder)).headline.replace("\xa0", " ") == (
        "A network frozen at 98.6 % holds a sub-network with 10.4 % of its weights that scores "
        "97.8 %. No weight was changed."
    )
    said = words(read(run_folder))
    assert "scores 90.0 %: the search gained 7.8 points." in said
    assert "At 95 % sparsity the jackpot scores 96.4 %, 2.2 points below the dense network." in said


def test_validation_chooses_and_not_the_test_split(run_folder: Path) -> None:
    rows = jackpot_figures(0.98)["rows"]
    rows[1]["test_accuracy"] = 1.0  # a lucky test score of a jackpot that validation rejects
    edit(run_folder, "jackpot-98", rows=rows)
    assert "sub-network with 10.4 % of its weights that scores 97.8 %" in words(read(run_folder))


def test_a_bad_result_is_told_as_one(run_folder: Path) -> None:
    for sparsity in RATES:
        set_accuracy(run_folder, sparsity, "jackpot", 0.9 - sparsity / 10)
    said = words(read(run_folder))
    assert "No sub-network within 2 points of the dense network was found" in said
    assert "scores 82.0 %, the dense network 98.6 %" in said
    assert "the search lost 14.7 points against it" in said
    assert "No weight was changed" not in said


def test_tuned_weights_are_not_called_unchanged(run_folder: Path) -> None:
    for sparsity in RATES:
        rows = jackpot_figures(sparsity)["rows"]
        rows[1]["retrained"] = True
        edit(run_folder, f"jackpot-{round(100 * sparsity)}", rows=rows)
    said = words(read(run_folder))
    assert "after those weights were tuned" in said
    assert "No weight was changed" not in said


def test_every_figure_of_the_rows_is_on_the_page(run_folder: Path) -> None:
    page, said = read(run_folder), words(read(run_folder))
    for sparsity in RATES:
        figures = jackpot_figures(sparsity)
        for row in figures["rows"]:
            assert f"{100 * row['test_accuracy']:.1f}" in said
        for key in ("effective_macs", "uniform_macs", "ticket_bytes", "macs"):
            assert f"{figures[key]:,}" in said
        for layer in figures["layers"]:
            assert f"{layer['kept']:,}" in said
        for epoch in figures["history"] + figures["history_random_start"]:
            assert f"{epoch['loss']:.4f}" in said
            assert f"{epoch['swaps']:,}" in said
    assert "360 test images" in said
    assert "95.7 \u2013 99.0" in said  # of 352 in 360
    for word in (
        "3.8e\u22126",
        "avx512",
        "2.13.0+cpu",
        "412 MB",
        "sparsities:",
        "812",
        "2026-01-05 10:07:00 UTC",
    ):
        assert word in said
    assert "The kernels were faster for 3 of 4 sparse tickets." in said
    for key in ("jackpot", "random-start", "magnitude-bn", "magnitude", "random", "dense"):
        assert f's-{key}"' in page or f"s-{key} " in page


def test_a_stage_that_differs_in_a_new_process_is_named(run_folder: Path) -> None:
    rows = [{"stage": "jackpot-90", "test_accuracy": 0.5, "same_as_recorded": False}]
    edit(run_folder, "evaluate", rows=rows)
    assert "Not the same as recorded: jackpot-90." in words(read(run_folder))


@pytest.mark.parametrize("kept", range(7))
def test_a_run_may_stop_after_any_stage(run_folder: Path, kept: int) -> None:
    names = ["train", *(f"jackpot-{round(100 * s)}" for s in RATES), "export", "evaluate"]
    for name in names[kept:]:
        shutil.rmtree(run_folder / name)
    said = words(read(run_folder))
    assert ("Nothing to report yet" in said) == (kept == 0)
    assert ("no mask search has finished yet" in said) == (kept == 1)
    assert ("searches that have not finished" in said) == (kept < 5)
    assert ("No ticket has been exported yet." in said) == (kept < 6)
    assert "not been evaluated in a new process yet" in said


@pytest.mark.parametrize(
    "figures",
    [
        {"sparsity": 0.9},
        {"sparsity": 0.9, "rows": None, "history": None, "layers": None},
        {"density": 0.1, "rows": [{"name": "jackpot", "test_accuracy": 0.9}]},
        {"sparsity": 0.9, "macs": 100, "history": [{}], "layers": [{"name": "conv1"}]},
        {"sparsity": 0.0, "rows": [{"name": "my own row", "test_accuracy": 1.0}]},
        {"sparsity": 0.5, "history": [{"loss": 0.0, "swaps": 0, "validation_accuracy": 1.0}]},
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_older_files_may_hold_less(run_folder: Path, figures: dict[str, Any], alone: bool) -> None:
    if alone:
        shutil.rmtree(run_folder)
    write_stage(run_folder, stage("jackpot-90", "jackpot", figures))
    outline(read(run_folder))


def test_an_unfinished_stage_is_named_and_not_counted(run_folder: Path) -> None:
    write_stage(run_folder, stage("jackpot-90", "jackpot", {"sparsity": "?"}, status="failed"))
    said = words(read(run_folder))
    assert "Stage jackpot-90 is not done: its state is 'failed'." in said
    assert "sub-network with 20 % of its weights" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected an object, got list"),
        ("{}", "stage"),
        ('{"stage": "x", "kind": "train", "schema": 2}', "schema"),
        ('{"stage": "x", "kind": "train", "status": "done", "wall_s": NaN}', "wall_s"),
        (
            '{"stage": "x", "kind": "train", "status": "done", "figures": {"test_accuracy": 97}}',
            "figures.test_accuracy: Input should be less than or equal to 1, got 97",
        ),
        ('{"stage": "x", "kind": "jackpot", "status": "done"}', "figures.sparsity"),
        (
            '{"stage": "x", "kind": "jackpot", "status": "done", "figures": {"sparsity": 1}}',
            "figures.sparsity: expected a number in [0, 1), got 1",
        ),
    ],
)
def test_a_malformed_record_is_named(run_folder: Path, text: str, message: str) -> None:
    file = run_folder / "train" / "stage.json"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        write_report(run_folder)
    assert str(file) in str(error.value)
    assert message in str(error.value)
    assert not (run_folder / "report.html").exists()


def test_other_files_that_cannot_be_read_are_named(run_folder: Path) -> None:
    (run_folder / "recipe.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"recipe\.yaml: expected YAML"):
        write_report(run_folder)
    with pytest.raises(InputError, match="nowhere: expected a folder"):
        write_report(run_folder / "nowhere")
    (run_folder / "recipe.yaml").write_text("a: 1")
    (run_folder / "train" / "stage.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"stage\.json: cannot be read as UTF-8"):
        write_report(run_folder)


def test_a_missing_recipe_is_said_and_stage_options_stand_in(run_folder: Path) -> None:
    (run_folder / "recipe.yaml").unlink()
    said = words(read(run_folder))
    assert "(recipe.yaml) is not in the folder" in said
    assert "lr: 0.1" in said
