"""A small sparse ticket, made without the compiled library."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model
from supertickets.ticket import Ticket


@pytest.fixture
def architecture() -> dict[str, Any]:
    return {
        "space": "plain",
        "name": "digits",
        "options": {"width": 8},
        "num_classes": 10,
        "channels": 1,
        "image_size": (8, 8),
    }


@pytest.fixture
def ticket(architecture: dict[str, Any]) -> Ticket:
    """The digits net with a tenth of three layers' weights, batch norm not at its start values."""
    config = ModelConfig(name="digits", options={"width": 8})
    model = build_model(config, num_classes=10, channels=1, seed=3)
    masks = {}
    with torch.no_grad():
        model(torch.randn(32, 1, 8, 8, generator=generator(3, "images")))
        for key in ("features.3.weight", "features.6.weight", "features.9.weight"):
            weight = model.get_parameter(key)
            masks[key] = torch.rand(weight.shape, generator=generator(3, key)) < 0.1
            weight[~masks[key]] = 0
    made = Ticket.from_model(
        model,
        architecture,
        class_names=tuple("0123456789"),
        metrics={"test_accuracy": 0.5},
        provenance={"seed": 3},
    )
    made.masks = masks
    return made
