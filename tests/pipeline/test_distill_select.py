"""From a supernet to one path: scores, evolution, and the stage that saves a ticket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from supertickets.config import load_recipe
from supertickets.data import load_data
from supertickets.distill.select import PathScorer, Scored, best_of, evolve
from supertickets.errors import ConfigError, InputError
from supertickets.evaluate import classification
from supertickets.run import run_stages
from supertickets.seeds import generator
from supertickets.spaces.mbconv import mbconv_space
from supertickets.stages import plan
from supertickets.ticket import Ticket
from supertickets.training import recalibrate_bn
from tests.pipeline.choice_blocks import block_space
from tests.pipeline.supernet_job import Stripes, config, training

SPACE = block_space()


def test_a_score_is_that_of_the_inherited_network() -> None:
    supernet = SPACE.supernet(generator(0, "net"))
    training(supernet, config(teacher="top1"), epochs=3)
    loader = Stripes()
    scorer = PathScorer(SPACE, supernet, loader, Stripes(200), batches=5)
    for path in ((0, 0, 0), (2, 1, 1)):
        scored = scorer(path)
        alone = SPACE.network(path)
        alone.load_state_dict(supernet.inherit(path))
        loader.set_epoch(0)
        recalibrate_bn(alone, loader, batches=5)
        found = classification(alone, Stripes(200))
        assert (scored.accuracy, scored.loss) == (found.accuracy, found.loss)
        assert scored.macs == SPACE.macs(path)
    assert scorer((0, 0, 0)) is scorer((0, 0, 0))
    assert list(scorer.found) == [(0, 0, 0), (2, 1, 1)]


def score_of(path: tuple[int, ...]) -> Scored:
    return Scored(path, sum(path) / 6, 1.0, SPACE.macs(path))


def test_evolution_scores_as_many_paths_as_told_within_the_budget() -> None:
    space = mbconv_space(
        num_classes=10, channels=1, image_size=(8, 8), options={"preset": "digits"}
    )
    low, high = space.reachable()
    limit = (low + high) // 2
    sampler = space.within(None, limit)

    def run(seed: int) -> list[Scored]:
        return evolve(
            lambda path: Scored(path, sum(path) / 12, 1.0, space.macs(path)),
            sampler,
            lambda path: space.macs(path) <= limit,
            [len(layer.operations) for layer in space.layers],
            evaluations=20,
            generator=generator(seed, "evolution"),
        )

    for seed in range(3):
        scored = run(seed)
        assert len({one.path for one in scored}) == len(scored) == 20
        assert all(one.macs <= limit for one in scored)
        assert scored == run(seed)


def test_mutants_of_the_best_are_better_than_what_was_drawn() -> None:
    sizes = [4] * 8
    gains = []
    for seed in range(5):
        scored = evolve(
            lambda path: Scored(path, sum(path) / 24, -sum(path) / 24, 1),
            lambda rng: tuple(torch.randint(4, (8,), generator=rng).tolist()),
            lambda path: True,
            sizes,
            evaluations=40,
            generator=generator(seed, "evolution"),
        )
        half = [sum(one.accuracy for one in part) for part in (scored[:20], scored[20:])]
        gains.append(half[1] - half[0])
    assert min(gains) > 0


def test_evolution_ends_where_there_are_no_more_paths() -> None:
    found = evolve(
        score_of, SPACE.sample, lambda path: True, [3, 2, 2], evaluations=50, generator=generator(0)
    )
    assert len(found) == 12


def test_the_best_has_ties_settled() -> None:
    rows = [
        Scored((1,), 0.9, 0.9, 5),
        Scored((0,), 0.5, 0.8, 9),
        Scored((3,), 0.5, 0.8, 7),
        Scored((2,), 0.5, 0.8, 7),
    ]
    assert best_of(rows).path == (2,)
    with pytest.raises(InputError, match="no path to choose from"):
        best_of([])


QUICK = (
    "supernet.train.epochs=6",
    "supernet.train.batch_size=256",
    "supernet.board_size=3",
    "train.epochs=2",
    "train.batch_size=256",
    "jackpot.epochs=1",
    "jackpot.batch_size=256",
    "evaluate.timing_repeats=2",
)


def quick(*overrides: str) -> Any:
    return load_recipe(recipe="digits-nas", overrides=[*QUICK, *overrides])


def run_recipe(folder: Path, recipe: Any, **how: Any) -> list[Any]:
    return run_stages(folder, recipe, plan(recipe, **how), log=lambda line: None, progress=False)


@pytest.mark.parametrize("weights", ["retrain", "inherit"])
def test_the_stage_saves_the_network_of_the_found_path(tmp_path: Path, weights: str) -> None:
    recipe = quick(f"supernet.weights={weights}", "supernet.max_macs=250000")
    (outcome,) = run_recipe(tmp_path, recipe, last="supernet")
    figures = json.loads((tmp_path / "supernet" / "stage.json").read_text("utf-8"))["figures"]
    assert figures == json.loads(json.dumps(outcome.figures))
    assert all(row["macs"] <= 250_000 for row in [*figures["board"], *figures["evolution"]])
    assert len(figures["evolution"]) == len(figures["board"]) == 3
    assert figures["macs"] <= 250_000
    assert figures["density"] == 1
    best = min(figures["board"], key=lambda row: row["loss"])
    assert (figures["path"], figures["supernet_accuracy"]) == (best["path"], best["accuracy"])
    ticket = Ticket.from_pretrained(tmp_path / "supernet" / "ticket")
    assert ticket.architecture["name"] == figures["arch"]
    data = load_data(recipe.data)
    space = mbconv_space(
        num_classes=10, channels=1, image_size=(8, 8), options={"preset": "digits"}
    )
    assert space.macs(figures["path"]) == figures["macs"]
    direct = space.network(figures["path"])
    direct.load_state_dict(ticket.to_dense().state_dict())
    found = classification(direct, data.loader("test", batch_size=256))
    assert found.accuracy == figures["test_accuracy"]
    if weights == "inherit":
        scored = classification(direct, data.loader("validation", batch_size=256))
        assert scored.accuracy == pytest.approx(figures["supernet_accuracy"])


def test_a_searched_network_is_pruned_without_glue(tmp_path: Path) -> None:
    outcomes = run_recipe(tmp_path, quick())
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds == ["supernet", "jackpot", "export", "evaluate", "report"]
    searched = Ticket.from_pretrained(tmp_path / "supernet" / "ticket")
    pruned = Ticket.from_pretrained(tmp_path / "jackpot-90" / "ticket")
    assert pruned.architecture == searched.architecture
    assert pruned.density < 0.15  # the smallest layers stay dense
    rows = outcomes[3].figures["rows"]
    assert [row["stage"] for row in rows] == ["supernet", "jackpot-90"]
    assert all(row["same_as_recorded"] for row in rows)
    again = run_recipe(tmp_path, quick())
    assert all(outcome.skipped for outcome in again)


def test_low_precision_and_channels_last_train(tmp_path: Path) -> None:
    recipe = quick("supernet.train.precision=bfloat16", "supernet.channels_last=true")
    (outcome,) = run_recipe(tmp_path, recipe, last="supernet")
    assert outcome.figures["history"][-1]["loss"] < outcome.figures["history"][0]["loss"]
    tensors = Ticket.from_pretrained(tmp_path / "supernet" / "ticket").tensors.values()
    assert {value.dtype for value in tensors} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("supernet.max_macs=10", "paths reach"),
        ("supernet.train.label_smoothing=0.1", "set supernet.label_smoothing"),
        ("supernet.train.keep=best", "a supernet is not scored by epoch"),
        ("supernet.techer=top1", "did you mean 'supernet.teacher'"),
        ("supernet.prior={k9e9: 1}", "no operation 'k9e9'"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        run_recipe(tmp_path, quick(override), last="supernet")
