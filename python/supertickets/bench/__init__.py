"""Operator speed on the user's own device, next to what torch offers: right first, then timed."""

from supertickets.bench.cases import OPERATORS, Case, cases_of
from supertickets.bench.run import Row, bench

__all__ = ["OPERATORS", "Case", "Row", "bench", "cases_of"]
