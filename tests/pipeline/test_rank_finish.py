"""The last choice of a search by the combined ranking."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supertickets.data import DataConfig, load_data
from supertickets.errors import InputError
from supertickets.rank import (
    Found,
    RankConfig,
    ScoreConfig,
    ScoreImages,
    Scorer,
    Scores,
    combined_choice,
    needed_indicators,
    rank_candidates,
)
from supertickets.rank.search import Round
from supertickets.spaces import cell_space

SPACE = cell_space("nasbench201")
PATH = SPACE.parse(
    "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|nor_conv_1x1~1|skip_connect~2|"
)
OPEN = PATH.with_edge(0, ("skip_connect", "nor_conv_3x3")).with_edge(3, ())
NO_SCORES = Scores({})


def ended(before) -> Found:
    last = Round("round 4", "operations", before, NO_SCORES, ())
    return Found(PATH, NO_SCORES, (last,))


def test_the_path_that_the_combined_ranking_puts_first_is_chosen() -> None:
    config = ScoreConfig(ntk_batch=4, repeats=1, batch=4)
    with Scorer(ScoreImages(load_data(DataConfig())), config, 0, None, 1) as scorer:
        found = combined_choice(ended(OPEN), scorer, progress=False)
        paths = [OPEN.with_edge(0, (name,)) for name in OPEN.live[0]]
        ranking = rank_candidates(paths, scorer, indicators=needed_indicators(), progress=False)
    values = ranking.values("combined")
    assert values[0] != values[1]
    assert found.path == paths[values.index(max(values))]
    assert found.path.live[3] == ()
    assert set(found.scores.repeats) == set(needed_indicators())
    assert found.rounds == ended(OPEN).rounds


def test_what_cannot_be_finished_is_refused() -> None:
    scorer = Scorer(ScoreImages(load_data(DataConfig())), ScoreConfig(), 0, None, 1)
    with pytest.raises(InputError, match="expected a search that ends in a round about operations"):
        combined_choice(replace(ended(OPEN), rounds=()), scorer)
    with pytest.raises(InputError, match="at most 1024 open paths before the last round, got"):
        combined_choice(ended(SPACE.everything()), scorer)
    with pytest.raises(ValueError, match="expected space 'nasbench201'"):
        RankConfig(space="darts", finish="combined")
