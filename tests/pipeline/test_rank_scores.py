"""Any registered indicator scored, stored and joined into rankings, also a user's own."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from supertickets.cli import app
from supertickets.data import DataConfig, load_data
from supertickets.errors import InputError
from supertickets.rank import (
    Ranking,
    Score,
    ScoreConfig,
    ScoreImages,
    Scorer,
    Scores,
    ScoreStore,
    Size,
    combined_score,
    halves,
    rank_candidates,
)
from supertickets.rank.combined import WEIGHTS
from supertickets.rank.indicators import get_indicator, indicator_names
from supertickets.seeds import generator
from supertickets.spaces import cell_space, initialise_

SPACE = cell_space("nasbench201")
ARCHS = (
    "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|nor_conv_1x1~1|skip_connect~2|",
    "|nor_conv_1x1~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
)
CELLS = tuple(SPACE.parse(text) for text in ARCHS)
CONFIG = ScoreConfig(ntk_batch=6, repeats=2, region_samples=1200, batch=6)

OWN = """
from supertickets.rank.indicators import indicator


@indicator("largest", higher_is_better=False, network="thin")
def largest(model, inputs, labels, generator):
    return float(max(p.detach().abs().max() for p in model.parameters())){}
"""


@pytest.fixture(scope="module")
def images() -> ScoreImages:
    return ScoreImages(load_data(DataConfig()))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module, the current one."""
    (tmp_path / "own_indicators.py").write_text(OWN.format(""))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next lookup import the user's module anew."""
    table = get_indicator.__globals__["_INDICATORS"]
    monkeypatch.setitem(get_indicator.__globals__, "_INDICATORS",
                        {k: v for k, v in table.items() if k != "largest"})  # fmt: skip
    monkeypatch.delitem(sys.modules, "own_indicators", raising=False)


def call(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_score_is_the_indicators_own_number(images: ScoreImages, tmp_path: Path) -> None:
    names = indicator_names()
    with ScoreStore(tmp_path / "s.sqlite") as store:
        ranking = rank_candidates(
            CELLS[:1], Scorer(images, CONFIG, 3, store, 1), indicators=names, progress=False
        )
        assert len(store) == len(names) * CONFIG.repeats
    for name in names:
        chosen = get_indicator(name)
        for repeat, found in enumerate(ranking.scores[0].values(name)):
            draw = ("score", repeat)
            net = {
                "proxy": lambda: SPACE.proxy_net(CELLS[0]),
                "thin": lambda: SPACE.thin_net(CELLS[0]),
                "shallow": lambda: SPACE.network(CELLS[0], num_classes=10, channels=3, cells=1),
                "evaluation": lambda: SPACE.network(CELLS[0], num_classes=10, channels=3),
            }[chosen.network]()
            fan = "fan_in" if chosen.network == "thin" else "fan_out"
            initialise_(net, generator(3, "rank", "weights", chosen.network, *draw), fan=fan)
            if chosen.network == "thin":
                inputs, labels = images.crops(1200, 3, *draw), None
            else:
                inputs, labels = images.batch(6, 3, *draw)
            value = chosen.score(net, inputs, labels, generator(3, "rank", "draws", name, *draw))
            # one thread scored; another number of them changes the order of sums
            assert found == pytest.approx(value, rel=1e-3), name


def test_two_processes_score_a_users_own_indicator_and_a_change_of_it_counts(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("rank", "score", *ARCHS, "--indicator", "own_indicators:largest", "--fast",
               "--workers", "2", "--runs", own / "runs", "--json")  # fmt: skip
    first = call(*command)
    assert [set(row["scores"]) for row in first["rows"]] == [{"largest"}] * 2
    values = [row["scores"]["largest"]["mean"] for row in first["rows"]]
    assert values == sorted(values), "lower is better, the best first"
    (own / "own_indicators.py").write_text(OWN.format(" + 1"))
    forget(monkeypatch)
    again = [row["scores"]["largest"]["mean"] for row in call(*command)["rows"]]
    assert again == pytest.approx([value + 1 for value in values])
    with sqlite3.connect(own / "runs" / "scores.sqlite") as connection:
        counts = connection.execute("select indicator, count(*) from scores group by 1").fetchall()
    assert counts == [("largest", 4)]


def test_an_indicator_that_is_not_there_is_named(own: Path) -> None:
    for name, message in (
        ("naswat", "did you mean 'naswot'"),
        ("own_indicators:larger", "did you mean 'largest'"),
        ("no_such_module:largest", "module 'no_such_module': cannot be imported"),
    ):
        with pytest.raises(InputError, match=message):
            get_indicator(name)


def test_a_table_is_compared_with_any_indicator(tmp_path: Path) -> None:
    cells = [SPACE.format(SPACE.sample(generator(seed, "cell"))) for seed in range(5)]
    table = tmp_path / "t.csv"
    table.write_text("arch,top1\n" + "".join(f"{c},{80 + i}\n" for i, c in enumerate(cells)))
    value = call("rank", "correlate", "--table", table, "--indicator", "synflow", "--indicator",
                 "params", "--fast", "--bootstrap", "5", "--runs", tmp_path, "--json")  # fmt: skip
    figures = value["stages"][0]["figures"]
    found = figures["correlations"]["top1"]
    assert list(found) == ["synflow", "params", "all", "parameters", "macs"]
    assert found["params"]["kendall"] == found["parameters"]["kendall"]
    assert len(figures["repeats"]["synflow"]) == 5


def scored(**values: float | None) -> Scores:
    return Scores({name: (Score(value),) for name, value in values.items()})


def test_ranks_of_all_indicators_add_up_by_their_signs() -> None:
    scores = (scored(kappa=1.0, zen=5.0), scored(kappa=None, zen=6.0), scored(kappa=2.0, zen=4.0))
    ranking = Ranking(
        (CELLS[0], CELLS[1], SPACE.parse(ARCHS[0].replace("none", "skip_connect"))),
        scores, tuple(Size(n, n) for n in (3, 2, 1)), ("kappa", "zen"),
    )  # fmt: skip
    assert ranking.columns == ("kappa", "zen", "all", "parameters", "macs")
    assert ranking.values("all") == [3 + 2, 1 + 3, 2 + 1]
    assert [row["parameters"] for row in ranking.rows()] == [3, 2, 1]


def test_the_combined_rule_adds_logs_of_ranks() -> None:
    count = 3
    columns: dict[str, list[float | None]] = {}
    expected = [0.0] * count
    for shift, (name, weight) in enumerate(WEIGHTS.items()):
        ranks = [(shift + index) % count + 1 for index in range(count)]
        sign = 1 if name in ("parameters", "macs") else get_indicator(name).sign
        columns[name] = [float(sign * rank) for rank in ranks]
        expected = [e + weight * math.log(r / count) for e, r in zip(expected, ranks, strict=True)]
    assert combined_score(columns) == pytest.approx(expected)
    first = next(iter(WEIGHTS))
    worst = {**columns, first: [None, *columns[first][1:]]}
    assert combined_score(worst)[0] <= combined_score(columns)[0]


def test_halves_share_no_row_and_do_not_change() -> None:
    chosen, held = halves(15625)
    assert sorted(chosen + held) == list(range(15625))
    assert (len(chosen), len(held)) == (7812, 7813)
    assert torch.tensor(chosen[:1000]).float().mean() == pytest.approx(7812, abs=600)
    assert halves(15625)[1][:5] == held[:5]
