"""Networks to work on: plain nets, architectures of search spaces, or a user's own."""

from __future__ import annotations

from supertickets.spaces.build import ModelConfig, build_model, example_input
from supertickets.spaces.candidate import (
    Candidate,
    CellSpace,
    Edge,
    Supernet,
    candidate_from_json,
    check_candidate,
)
from supertickets.spaces.cell_spaces import cell_space, cell_space_names, space_of
from supertickets.spaces.for_task import options_for_task, output_layer
from supertickets.spaces.initialise import initialise_
from supertickets.spaces.plain import plain_names
from supertickets.spaces.weights import load_state, load_weights

__all__ = [
    "Candidate",
    "CellSpace",
    "Edge",
    "ModelConfig",
    "Supernet",
    "build_model",
    "candidate_from_json",
    "cell_space",
    "cell_space_names",
    "check_candidate",
    "example_input",
    "initialise_",
    "load_state",
    "load_weights",
    "options_for_task",
    "output_layer",
    "plain_names",
    "space_of",
]
