"""Ranking of architectures without training."""

from __future__ import annotations

from supertickets.rank.combined import COMBINED, combined_score, halves, needed_indicators
from supertickets.rank.cost import Size, sizes
from supertickets.rank.finish import combined_choice
from supertickets.rank.images import ScoreImages
from supertickets.rank.probe import INDICATORS
from supertickets.rank.ranking import Ranking, correlation_figures, rank_candidates, sign_of
from supertickets.rank.scorer import Scorer, Scores
from supertickets.rank.search import Found, planned_scores, round_as_dict, scores_as_dict, search
from supertickets.rank.settings import RankConfig, ScoreConfig
from supertickets.rank.statistics import Correlation, Estimate, combined_rank, correlate
from supertickets.rank.store import Score, ScoreKey, ScoreStore
from supertickets.rank.table import AccuracyTable, from_nats_bench, load_table, read_table

__all__ = [
    "COMBINED",
    "INDICATORS",
    "AccuracyTable",
    "Correlation",
    "Estimate",
    "Found",
    "RankConfig",
    "Ranking",
    "Score",
    "ScoreConfig",
    "ScoreImages",
    "ScoreKey",
    "ScoreStore",
    "Scorer",
    "Scores",
    "Size",
    "combined_choice",
    "combined_rank",
    "combined_score",
    "correlate",
    "correlation_figures",
    "from_nats_bench",
    "halves",
    "load_table",
    "needed_indicators",
    "planned_scores",
    "rank_candidates",
    "read_table",
    "round_as_dict",
    "scores_as_dict",
    "search",
    "sign_of",
    "sizes",
]
