"""Networks to work on: the plain nets of the field, or a user's own by import path."""

from __future__ import annotations

from supertickets.spaces.build import ModelConfig, build_model, example_input
from supertickets.spaces.plain import plain_names
from supertickets.spaces.weights import load_state, load_weights

__all__ = [
    "ModelConfig",
    "build_model",
    "example_input",
    "load_state",
    "load_weights",
    "plain_names",
]
