"""Networks to work on: plain nets, architectures of search spaces, or a user's own."""

from __future__ import annotations

from supertickets.spaces.block_space import BlockSpace
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
from supertickets.spaces.choice import ChoiceLayer, ChoiceSpace
from supertickets.spaces.choice_net import ChoiceSupernet, Path, PathNet
from supertickets.spaces.choice_sampling import BudgetSampler, PathCosts, Prior
from supertickets.spaces.for_task import options_for_task, output_layer
from supertickets.spaces.initialise import initialise_, initialise_for_training_
from supertickets.spaces.mbconv import MBConvSpace, mbconv_space
from supertickets.spaces.mbconv_net import Backbone, MBConvNet
from supertickets.spaces.mbconv_text import path_space
from supertickets.spaces.plain import plain_names
from supertickets.spaces.weights import load_state, load_weights

__all__ = [
    "Backbone",
    "BlockSpace",
    "BudgetSampler",
    "Candidate",
    "CellSpace",
    "ChoiceLayer",
    "ChoiceSpace",
    "ChoiceSupernet",
    "Edge",
    "MBConvNet",
    "MBConvSpace",
    "ModelConfig",
    "Path",
    "PathCosts",
    "PathNet",
    "Prior",
    "Supernet",
    "build_model",
    "candidate_from_json",
    "cell_space",
    "cell_space_names",
    "check_candidate",
    "example_input",
    "initialise_",
    "initialise_for_training_",
    "load_state",
    "load_weights",
    "mbconv_space",
    "options_for_task",
    "output_layer",
    "path_space",
    "plain_names",
    "space_of",
]
