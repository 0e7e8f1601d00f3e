"""A small network trained on the digits, which tests of pruning share."""

from __future__ import annotations

from torch import nn

from supertickets.data import ImageData
from supertickets.spaces import ModelConfig, build_model
from supertickets.training import TrainConfig, train


def trained_digits_net(data: ImageData, epochs: int) -> nn.Module:
    """Train the digits net of width 8, always to the same weights."""
    config = ModelConfig(name="digits", options={"width": 8})
    model = build_model(config, num_classes=10, channels=1, seed=0)
    loader = data.loader("train", batch_size=64)
    train(model, loader, TrainConfig(epochs=epochs, batch_size=64), progress=False)
    return model
