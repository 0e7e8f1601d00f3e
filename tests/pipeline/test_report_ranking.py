"""The page of a ranking: the path in the kappa-R plane, ranks against accuracy, repeats."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.report_run import outline, read, stage, words, write_stage


def scored(kappa: list[float | None], regions: list[float]) -> dict[str, Any]:
    known = [value for value in kappa if value is not None]
    mean = sum(known) / len(known) if known else None
    return {
        "kappa": {"values": kappa, "mean": mean, "spread": 0.5 if known else None},
        "regions": {"values": regions, "mean": sum(regions) / len(regions), "spread": 10.0},
    }


def removal(edge: str, kappa: list[float | None], regions: list[float], gone: bool) -> Any:
    scores = scored(kappa, regions)
    return {"edge": edge, "operation": "skip_connect", "scores": scores, "rank_sum": 3,
            "removed": gone}  # fmt: skip


ROUND = {
    "name": "round 1",
    "kind": "operations",
    "scores": scored([5.0, 6.0], [700.0, 720.0]),
    "removals": [
        removal("0->1", [4.0, 5.0], [710.0, 730.0], True),
        removal("0->2", [5.0, 4.0], [720.0, 740.0], False),
        removal("1->2", [None, None], [100.0, 90.0], False),
    ],
}
SEARCH = {
    "space": "nasbench201",
    "arch": "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    "scores": scored([4.605170186, 4.605170186], [800.0, 820.0]),
    "parameters": 1_073_466,
    "macs": 153_272_960,
    "accuracies": {"top1": 93.9},
    "table_shares": {"top1": 0.985},
    "rounds": [ROUND],
}
COMPARED = {
    "cells": 4,
    "archs": ["a", "b", "c", "d"],
    "columns": {"kappa": [1.0, 2.0, 3.0, None], "regions": [9.0, 8.0, 7.0, 1.0],
                "parameters": [4.0, 3.0, 2.0, 1.0]},
    "signs": {"kappa": -1, "regions": 1, "parameters": 1},
    "repeats": {"kappa": [[1.0, 1.1], [2.0, 2.1], [3.0, 2.9], [None, 1.0]]},
    "accuracies": {"top1": [94.0, 93.0, 92.0, 10.0]},
    "correlations": {"top1": {
        "kappa": {"kendall": {"value": -0.5, "low": -0.7, "high": -0.2}},
        "parameters": {"kendall": {"value": 0.578, "low": None, "high": None}},
    }},
}  # fmt: skip


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    folder = tmp_path / "ranked"
    folder.mkdir()
    write_stage(folder, stage("rank", "rank", SEARCH))
    return folder


def charts(page: str, figure: str) -> str:
    found = re.search(rf'<figure[^>]*id="{figure}".*?</figure>', page, re.DOTALL)
    assert found, figure
    return found[0]


def test_the_search_is_drawn_with_its_path(ranked: Path) -> None:
    page = read(ranked)
    assert "nasbench201, 1.07 M parameters" in outline(page).headline.replace("\xa0", " ")
    plane = charts(page, "figure-rank-plane")
    # two removals have a kappa, one is rank-deficient; then the network before and the one found;
    # the chart is drawn for three widths
    assert plane.count("without skip_connect on") == 2 * 3
    assert plane.count("found: kappa 100, R 810.0") == 3
    assert plane.count('class="line s-jackpot strong"') == 3
    said = words(page)
    assert "93.90 (top1, above 98.5 % of the table)" in said.replace("\xa0", " ")
    assert "1,073,466 parameters and 153,272,960 MACs" in said


def test_a_page_of_a_ranking_speaks_of_nothing_else(ranked: Path) -> None:
    said = words(read(ranked))
    assert "jackpot" not in said.lower()
    assert "mask search" not in said.lower()
    assert "How the run was made" in said


def test_repeats_that_order_removals_alike_or_not_are_told(ranked: Path) -> None:
    said = words(read(ranked))
    # kappa: two removals, exchanged by the second repeat; R: the same order of all three
    assert re.search(r"between repeats .*round 1 *-1\.00 *1\.00", said), said


def test_scores_are_set_against_accuracies(tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    write_stage(folder, stage("correlate", "correlate", COMPARED))
    page = read(folder)
    assert "Nothing measured here beats counting parameters with +0.578 (top1)" in words(page)
    ranks = charts(page, "figure-correlate-ranks")
    assert ranks.count("a: 94.00") == 3
    marks = [float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="4.2"', ranks)]
    assert marks[0] > marks[1] > marks[2] > marks[3], "the lowest kappa is the best, none the worst"
    assert "rank-deficient networks are left out" in charts(page, "figure-correlate-plane")
    assert "log kappa, Kendall tau 1.00 between repeats" in words(page)
