"""Search and pruning in one training run (SuperTickets)."""

from supertickets.search.config import Arm, TwoInOneConfig
from supertickets.search.find import SearchedTicket, find_ticket
from supertickets.search.two_in_one import TwoInOne

__all__ = ["Arm", "SearchedTicket", "TwoInOne", "TwoInOneConfig", "find_ticket"]
