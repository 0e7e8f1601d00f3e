"""Another last choice for a pruning search: the combined ranking of all paths that are left."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from supertickets.errors import InputError
from supertickets.rank.combined import COMBINED, needed_indicators
from supertickets.rank.ranking import rank_candidates
from supertickets.rank.scorer import Scorer
from supertickets.rank.search import Found
from supertickets.spaces import Candidate

MOST_PATHS = 1024


def combined_choice(found: Found, scorer: Scorer, *, progress: bool = True) -> Found:
    """Choose anew among the paths that stood open before the last round of a search.

    The rule of TE-NAS removes the last operation of every edge at once, each judged beside all
    others; the combined ranking compares whole paths.

    Args:
        found: The end of a search whose last round was about operations.
        scorer: Measures the indicators of the combined ranking on every path.
        progress: Whether a bar may be drawn.

    Returns:
        The same rounds with the path that the combined ranking puts first; its scores are those
        that put it there.

    Raises:
        InputError: The search had no round about operations, or left more than 1,024 paths.
    """
    if not found.rounds or found.rounds[-1].kind != "operations":
        raise InputError("finish: expected a search that ends in a round about operations")
    open_paths = found.rounds[-1].before
    count = math.prod(max(len(live), 1) for live in open_paths.live)
    if count > MOST_PATHS:
        raise InputError(
            f"finish: expected at most {MOST_PATHS} open paths before the last round, got {count}"
        )
    paths = [
        Candidate(open_paths.space, tuple((one,) if one else () for one in chosen))
        for chosen in itertools.product(*(live or ("",) for live in open_paths.live))
    ]
    ranking = rank_candidates(paths, scorer, indicators=needed_indicators(), progress=progress)
    values = [-math.inf if value is None else value for value in ranking.values(COMBINED)]
    best = values.index(max(values))
    return replace(found, path=paths[best], scores=ranking.scores[best])
